"""A run is a folder: what training leaves there, and how it becomes a model to talk to again.

It holds config.toml, tokenizer.json, metrics.jsonl, summary.json, loss.png and checkpoint/ with latest.pt (to go on from) and best.pt
(to write with). Each checkpoint also carries config and tokenizer, so the files beside it are for people. The checkpoint of an
adapter only names the run whose weights it corrects. Read `run` and `training/checkpoint.py` before.
"""

import itertools
import json
import tomllib
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from minillm.adapters.lora import merge
from minillm.config import from_dict, to_toml
from minillm.quantization.pack import pack
from minillm.run import assemble, build_task
from minillm.run_config import RunConfig
from minillm.tasks.base import Data
from minillm.text import TextModel
from minillm.text_encoders import Cloze, TextClassifier
from minillm.tokenizers.base import Tokenizer
from minillm.tokenizers.build import tokenizer_from_dict
from minillm.training import checkpoint
from minillm.training.checkpoint import fingerprint, load_trained_state, trained_state
from minillm.training.counting import CountingStep
from minillm.training.loop import Progress
from minillm.training.step import GradientStep

RUNS = Path("runs")  # in the folder that one works in


class OpenRun(NamedTuple):
    """A run, read back."""

    path: Path
    config: RunConfig
    text: TextModel | Cloze | TextClassifier
    step: int


class Base(NamedTuple):
    """The run whose weights an adapter corrects; a checkpoint of the adapter names them and does not hold them."""

    path: str
    sha256: str  # of the weights: on any others the adapter means nothing


def new_folder(asked: str, name: str) -> Path:
    """Where a new run goes: to the folder that was `asked` for, else to runs/NAME, numbered; never where another one lies."""
    if not asked:
        numbered = (RUNS / (name if i == 1 else f"{name}-{i}") for i in itertools.count(1))
        return next(path for path in numbered if not (path / "checkpoint").exists())
    path = Path(asked)
    if (path / "checkpoint").exists():
        raise ValueError(f"--train.run {path}: expected no run there; use --resume {path} to go on with it, or name another folder")
    return path


def newest_run() -> Path:
    """The folder in runs/ that was written to last. Raises ValueError where there is none."""
    runs = [path.parent.parent for path in RUNS.glob("*/checkpoint/latest.pt")]
    if not runs:
        raise ValueError(f"{RUNS}/: expected a run, found none; train one with train.py --config gpt-tiny, or name one with --run")
    return max(runs, key=lambda path: (path / "checkpoint" / "latest.pt").stat().st_mtime)


def write_readable(path: Path, config: RunConfig, tokenizer: Tokenizer) -> None:
    """config.toml and tokenizer.json of a run."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.toml").write_text(to_toml(config), encoding="utf-8")
    (path / "tokenizer.json").write_text(json.dumps(tokenizer.to_dict()), encoding="utf-8")


def save_run(
    path: Path, name: str, config: RunConfig, data: Data, step: GradientStep | CountingStep, progress: Progress, base: Base | None = None
) -> None:
    """Write checkpoint/NAME.pt: "latest" holds all that is needed to go on, "best" the weights; an adapter's `base` is only named."""
    contents = {
        "config": to_toml(config),
        "tokenizer": data.tokenizer.to_dict(),
        "documents": data.documents,
        "progress": vars(progress).copy(),
        "base": base and base._asdict(),
    }
    state = step.state_dict() if name == "latest" else {"model": trained_state(step.model)}
    checkpoint.save(path / "checkpoint" / f"{name}.pt", contents | {"step": state})


def read_run(path: Path, name: str) -> dict:
    """The contents of checkpoint/NAME.pt, with the config and the tokenizer built. Raises ValueError."""
    if not path.is_dir():
        raise ValueError(f"{path}: expected the folder of a run, found none; see {RUNS}/ or train one with train.py --config gpt-tiny")
    contents = checkpoint.load(path / "checkpoint" / f"{name}.pt")
    contents["config"] = from_dict(RunConfig, tomllib.loads(contents["config"]))
    contents["tokenizer"] = tokenizer_from_dict(contents["tokenizer"])
    return contents


def read_best(path: Path) -> dict:
    """`read_run` of the best checkpoint, or of the latest one, before the first validation."""
    return read_run(path, "best" if (path / "checkpoint" / "best.pt").is_file() else "latest")


def open_run(path: Path, device: str = "cpu", base: Path | None = None) -> OpenRun:
    """The best model of a run, on the run `base` if it is an adapter (see `base_weights`), ready to write. Raises ValueError.

    Torch's generator is left as it was: all that a model draws as it is made is overwritten by what it has learned.
    """
    contents = read_best(path)
    config, tokenizer = contents["config"], contents["tokenizer"]
    with torch.random.fork_rng(devices=[]):
        model = assemble(config, tokenizer.vocab_size, base_weights(path, contents, base)).to(device)
    if "packed" in contents:
        pack(model, **contents["packed"])
    load_trained_state(model, contents["step"]["model"])
    text = build_task(config).text(model.eval(), tokenizer, contents["documents"])
    return OpenRun(path, config, text, contents["progress"]["step"])


def base_weights(path: Path, contents: dict, base: Path | None = None) -> dict[str, Tensor] | None:
    """The weights that the adapter of a run corrects; None for a run without one.

    They are those of the run `base`, or else of the one that the adapter was trained on, where it was then or beside the run of the
    adapter. Raises ValueError where it is not there, and where its weights are others than they were.
    """
    if not contents["config"].adapter.rank:
        return None
    known = Base(**contents["base"])
    places = [base] if base else [Path(known.path), path.parent / Path(known.path).name]
    place = next((place for place in places if place.is_dir()), None)
    if place is None:
        raise ValueError(f"{path}: expected the run that it adapts in {places[0]}, found none; put it there, or beside {path}")
    weights = read_best(place)["step"]["model"]
    if fingerprint(weights) != known.sha256:
        raise ValueError(
            f"{place}: expected the weights that {path} adapts, those of {known.path} with SHA-256 {known.sha256[:12]}..., found "
            f"{fingerprint(weights)[:12]}...; name that run as it was, or train the adapter again"
        )
    return weights


def whole_weights(path: Path, contents: dict) -> dict[str, Tensor]:
    """The weights of a run as a model without an adapter has them; those of an adapter are merged into its base. Raises ValueError."""
    if not contents["config"].adapter.rank:
        return contents["step"]["model"]
    model = open_run(path).text.model
    merge(model)
    return model.state_dict()
