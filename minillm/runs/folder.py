"""A run is a folder: what training leaves there, and how it becomes a model to talk to again.

It holds config.toml, tokenizer.json, metrics.jsonl, summary.json, loss.png and checkpoint/ with latest.pt (to go on
from) and best.pt (to write with), and training.lock while it is trained. Each checkpoint also carries config and
tokenizer, so the files beside it are for people; a config.toml that was edited is refused rather than ignored. The
checkpoint of an adapter only names the run whose weights it corrects. Read `wiring` and `training/checkpoint.py`
before.
"""

import itertools
import json
import tomllib
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from minillm.adapters.lora import merge
from minillm.config.loading import from_dict, to_toml
from minillm.quantization.pack import pack
from minillm.runs.config import RunConfig
from minillm.runs.lock import Taken, only_trainer
from minillm.runs.wiring import assemble
from minillm.system.atomic import write_atomically
from minillm.tasks.task import Data, Text
from minillm.tokenizers.build_tokenizer import tokenizer_from_dict
from minillm.tokenizers.tokenizer import Tokenizer
from minillm.training import checkpoint
from minillm.training.checkpoint import fingerprint, load_trained_state, trained_state
from minillm.training.counting import CountingStep
from minillm.training.loop import Progress
from minillm.training.metrics import read_summary
from minillm.training.step import GradientStep

RUNS = Path("runs")  # in the folder that one works in


class OpenRun(NamedTuple):
    """A run, read back."""

    path: Path
    config: RunConfig
    text: Text
    step: int


class Base(NamedTuple):
    """The run whose weights an adapter corrects; a checkpoint of the adapter names them and does not hold them."""

    path: str
    sha256: str  # of the weights: on any others the adapter means nothing


def new_folder(asked: str, name: str, held: ExitStack | None = None) -> Path:
    """The folder of a new run: the one `asked` for, else runs/NAME, numbered. It never overwrites an existing run.

    With `held` the folder is made and kept from other processes until `held` is closed, so that two that start at once
    have two folders.
    """
    if asked:
        return _claim(Path(asked), held)
    for i in itertools.count(1):
        try:
            return _claim(RUNS / (name if i == 1 else f"{name}-{i}"), held)
        except Taken:
            continue


def _claim(path: Path, held: ExitStack | None) -> Path:
    """A folder without a run. Raises Taken where one is, or is about to be."""
    _refuse_a_run(path)
    if held is None:
        return path
    with ExitStack() as tried:
        tried.enter_context(only_trainer(path))
        _refuse_a_run(path)  # subtle: it may have come to its end between the first look and the lock
        held.enter_context(tried.pop_all())
    return path


def _refuse_a_run(path: Path) -> None:
    if any((path / "checkpoint").glob("*.pt")):  # what a training left that ended before its first checkpoint is no run
        how = f"use --resume {path} to go on with it, or name another folder"
        raise Taken(f"--train.run {path}: expected no run there; {how}")


def newest_run() -> Path:
    """The folder in runs/ that was written to last. Raises ValueError where there is none."""
    runs = [path.parent.parent for path in RUNS.glob("*/checkpoint/latest.pt")]
    if not runs:
        raise ValueError(
            f"{RUNS}/: expected a run, found none; train one with train.py --config gpt-tiny, or name one with --run"
        )
    return max(runs, key=lambda path: (path / "checkpoint" / "latest.pt").stat().st_mtime)


def write_readable(path: Path, config: RunConfig, tokenizer: Tokenizer) -> None:
    """config.toml and tokenizer.json of a run."""
    write_atomically(path / "config.toml", to_toml(config).encode())
    write_atomically(path / "tokenizer.json", json.dumps(tokenizer.to_dict()).encode())


def save_run(
    path: Path,
    name: str,
    config: RunConfig,
    data: Data,
    corpus: str,
    step: GradientStep | CountingStep,
    progress: Progress,
    base: Base | None = None,
) -> None:
    """Write checkpoint/NAME.pt: "latest" holds all that is needed to go on, "best" the weights.

    The `base` of an adapter is only named. `corpus` is the hash of the data, by which --resume knows them again.
    """
    contents = {
        "config": to_toml(config),
        "tokenizer": data.tokenizer.to_dict(),
        "documents": data.documents,
        "corpus": corpus,
        "progress": vars(progress).copy(),
        "base": base and base._asdict(),
    }
    state = step.state_dict() if name == "latest" else {"model": trained_state(step.model)}
    try:
        checkpoint.save(path / "checkpoint" / f"{name}.pt", contents | {"step": state})
    except OSError as e:
        begun = (path / "checkpoint" / "latest.pt").is_file()
        raise OSError(f"{e}, and {f'go on with: python train.py --resume {path}' if begun else 'start again'}") from e


PARTS = ("config", "tokenizer", "documents", "corpus", "progress", "base", "step")  # of a checkpoint


def read_run(path: Path, name: str) -> dict:
    """The contents of checkpoint/NAME.pt, with the config and the tokenizer built. Raises ValueError."""
    refuse_no_run(path)
    place = path / "checkpoint" / f"{name}.pt"
    contents = checkpoint.load(place)
    for part in PARTS:
        if part not in contents:
            what = f"expected the checkpoint of a run, found one without {part!r}"
            raise ValueError(f"{place}: {what}; name another run, or train again")
    contents["config"] = from_dict(RunConfig, tomllib.loads(contents["config"]))
    contents["tokenizer"] = tokenizer_from_dict(contents["tokenizer"])
    return contents


def refuse_no_run(path: Path) -> None:
    """Raise ValueError where there is no folder of a run."""
    if not path.is_dir():
        how = f"see {RUNS}/ or train one with train.py --config gpt-tiny"
        raise ValueError(f"{path}: expected the folder of a run, found none; {how}")


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
    text = config.task.text(model.eval(), tokenizer, contents["documents"])
    return OpenRun(path, config, text, contents["progress"]["step"])


def base_weights(path: Path, contents: dict, base: Path | None = None) -> dict[str, Tensor] | None:
    """The weights that the adapter of a run corrects; None for a run without one.

    They are those of the run `base`, or else of the one that the adapter was trained on, where it was then or beside
    the run of the adapter. Raises ValueError where it is not there, and where its weights are others than they were.
    """
    if not contents["config"].adapter.rank:
        return None
    known = Base(**contents["base"])
    places = [base] if base else [Path(known.path), path.parent / Path(known.path).name]
    place = next((place for place in places if place.is_dir()), None)
    if place is None:
        raise ValueError(
            f"{path}: expected the run that it adapts in {places[0]}, found none; put it there, or beside {path}"
        )
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


def is_summed_up(path: Path, step: int) -> bool:
    """Whether the run has the summary of this step; one that was killed between its last save and its summary has not."""
    return read_summary(path).get("steps") == step
