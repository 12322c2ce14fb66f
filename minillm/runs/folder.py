"""A run is a folder: the files that training writes there, and how a model is loaded from them.

It holds config.toml, tokenizer.json, metrics.jsonl, summary.json, loss.png, and checkpoint/ with latest.pt (to resume
training) and best.pt (the best weights, to use the model); and training.lock during training. Each checkpoint also
contains the config and the tokenizer, so config.toml and tokenizer.json are for people to read; an edited config.toml
is an error, because it would have no effect. The checkpoint of an adapter names the run of its base weights and does
not contain them. Read before: `wiring`, `training/checkpoint.py`.
"""

import itertools
import json
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor, nn

from minillm.adapters.beside import beside
from minillm.adapters.merge import merge
from minillm.config.loading import from_dict, to_toml
from minillm.interop.chat_template import JinjaTemplate
from minillm.quantization.pack import pack_as, packed_weights
from minillm.quantization.packed import as_bits
from minillm.runs.config import RunConfig
from minillm.runs.lock import Taken, only_trainer
from minillm.runs.wiring import assemble
from minillm.system.atomic import write_atomically
from minillm.tasks.gradients import GradientTask
from minillm.tasks.task import Data, Text
from minillm.text.model import TextModel
from minillm.tokenizers.build_tokenizer import tokenizer_from_dict
from minillm.tokenizers.role_template import TURN
from minillm.tokenizers.tokenizer import Tokenizer
from minillm.training import checkpoint
from minillm.training.checkpoint import fingerprint, load_shared_state, load_trained_state, trained_state
from minillm.training.counting import CountingStep
from minillm.training.loop import Progress
from minillm.training.metrics import read_summary
from minillm.training.step import GradientStep

RUNS = Path("runs")  # in the working directory


class OpenRun(NamedTuple):
    """A run that was loaded from its folder."""

    path: Path
    config: RunConfig
    text: Text
    step: int


class Base(NamedTuple):
    """The base of an adapter: the run whose weights it corrects. The adapter's checkpoint does not contain them."""

    path: str
    sha256: str  # of the weights; the adapter fits no others


def new_folder(asked: str, name: str, held: ExitStack | None = None) -> Path:
    """The folder of a new run: `asked` if it is given, else runs/NAME or the first free runs/NAME-2, -3 and so on.

    It never overwrites an existing run. With `held`, the folder is created and locked until `held` is closed, so two
    processes that start at the same time get two folders. Raises Taken if `asked` is a run already.
    """
    if asked:
        return _claim(Path(asked), held)
    for i in itertools.count(1):
        try:
            return _claim(RUNS / (name if i == 1 else f"{name}-{i}"), held)
        except Taken:
            continue


def _claim(path: Path, held: ExitStack | None) -> Path:
    """Check that a folder has no run, and lock it if `held` is given. Raises Taken if it has one, or is locked."""
    _refuse_a_run(path)
    if held is None:
        return path
    with ExitStack() as tried:
        tried.enter_context(only_trainer(path))
        _refuse_a_run(path)  # subtle: another training may have finished between the first check and the lock
        held.enter_context(tried.pop_all())
    return path


def _refuse_a_run(path: Path) -> None:
    if any((path / "checkpoint").glob("*.pt")):  # a folder without a checkpoint is not a run
        how = f"use --resume {path} to continue it, or name another folder"
        raise Taken(f"--train.run {path}: expected no run there; {how}")


def newest_run() -> Path:
    """The run in runs/ whose latest checkpoint is the newest. Raises ValueError if there is no run."""
    for path in _newest_first("latest"):
        return path
    raise ValueError(
        f"{RUNS}/: expected a run, found none; train one with train.py --config gpt-tiny, or name one with --run"
    )


def newest_chat_run() -> Path:
    """The newest run in runs/ whose config.toml has a chat template. Raises ValueError if there is none.

    It may be an imported run, which has a best checkpoint only.
    """
    for path in filter(has_template, _newest_first("latest", "best")):
        return path
    raise ValueError(
        f"{RUNS}/: expected a run with a chat template, found none; name one, or continue a text with sample.py"
    )


def has_template(path: Path) -> bool:
    """Whether a run has a chat template: its own in config.toml, or the tokens of minillm's in tokenizer.json."""
    try:
        if tomllib.loads((path / "config.toml").read_text(encoding="utf-8"))["text"]["template"]:
            return True
        return TURN in json.loads((path / "tokenizer.json").read_text(encoding="utf-8")).get("special", [])
    except (OSError, ValueError, KeyError, TypeError):  # of an older version, or damaged by hand
        return False


def _newest_first(*names: str) -> Iterator[Path]:
    """The runs in runs/ that have a checkpoint of these names, that with the newest one first."""
    found = [path for name in names for path in RUNS.glob(f"*/checkpoint/{name}.pt")]
    for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True):
        yield path.parent.parent


def write_readable(path: Path, config: RunConfig, tokenizer: Tokenizer) -> None:
    """Write config.toml and tokenizer.json of a run."""
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
    companions: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Write checkpoint/NAME.pt: "latest" has the whole training state, to resume; "best" has the weights only.

    `base` is the base of an adapter; its path and hash are saved, not its weights. By `corpus`, the hash of the data,
    and by the fingerprints of its `companions` --resume checks that they are the same.
    """
    contents = {
        "config": to_toml(config),
        "tokenizer": data.tokenizer.to_dict(),
        "documents": data.documents,
        "corpus": corpus,
        "progress": vars(progress).copy(),
        "base": base and base._asdict(),
        "companions": dict(companions),
    }
    state = step.state_dict() if name == "latest" else {"model": trained_state(step.model)}
    try:
        checkpoint.save(path / "checkpoint" / f"{name}.pt", contents | {"step": state})
    except OSError as e:
        begun = (path / "checkpoint" / "latest.pt").is_file()
        raise OSError(
            f"{e}, and {f'continue with: python train.py --resume {path}' if begun else 'start again'}"
        ) from e


PARTS = ("config", "tokenizer", "documents", "corpus", "progress", "base", "step")  # keys of a checkpoint


def read_run(path: Path, name: str) -> dict:
    """Read checkpoint/NAME.pt, with its config and its tokenizer as objects. Raises ValueError."""
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
    """Raise ValueError if the folder does not exist."""
    if not path.is_dir():
        how = f"see {RUNS}/ or train one with train.py --config gpt-tiny"
        raise ValueError(f"{path}: expected the folder of a run, found none; {how}")


def read_best(path: Path) -> dict:
    """`read_run` of the best checkpoint, or of the latest one if there is no best one yet."""
    return read_run(path, "best" if (path / "checkpoint" / "best.pt").is_file() else "latest")


def open_run(path: Path, device: str = "cpu", base: Path | None = None) -> OpenRun:
    """Load the best model of a run, in eval mode. Raises ValueError.

    An adapter is put on its base, or on the run `base` (see `base_weights`). The state of torch's random generator does
    not change.
    """
    contents = read_best(path)
    config, tokenizer = contents["config"], contents["tokenizer"]
    state = contents["step"]["model"]
    if config.adapts or not isinstance(config.task, GradientTask):
        with torch.random.fork_rng(devices=[]):
            model = assemble(config, tokenizer.vocab_size, base_weights(path, contents, base)).to(device)
        load_trained_state(model, state)
    else:
        dtype = torch.bfloat16 if "packed" in contents else torch.float32
        model = build_with(config, tokenizer.vocab_size, state, dtype).to(device)
    return _opened(path, contents, model)


def open_beside(base: OpenRun, path: Path) -> OpenRun:
    """Load the run of an adapter on the model of its base, which is open: the frozen weights are there only once.

    Raises ValueError for a run without an adapter, for an adapter of another base, and for one with a tokenizer of its
    own.
    """
    contents = read_best(path)
    if not contents["config"].adapts:
        raise ValueError(f"{path}: expected the run of an adapter, found a whole model; open it alone")
    base_weights(path, contents, base.path)
    if contents["tokenizer"].to_dict() != base.text.tokenizer.to_dict():
        raise ValueError(f"{path}: expected the tokenizer of {base.path}, found one of its own; open it alone")
    with torch.random.fork_rng(devices=[]):
        model = beside(base.text.model, contents["config"].adapter)
    load_trained_state(model, contents["step"]["model"])
    return _opened(path, contents, model)


def _opened(path: Path, contents: dict, model: nn.Module) -> OpenRun:
    """A run with its model, in eval mode."""
    config, tokenizer = contents["config"], contents["tokenizer"]
    text = config.task.text(model.eval(), tokenizer, contents["documents"])
    if config.text.template and isinstance(text, TextModel):
        text.template = JinjaTemplate(config.text.template, tokenizer)
    return OpenRun(path, config, text, contents["progress"]["step"])


def build_with(config: RunConfig, vocab_size: int, state: dict[str, Tensor], dtype: torch.dtype) -> nn.Module:
    """A model with the weights of a state_dict, converted to `dtype`; layers that are packed there are packed here.

    The model is built without memory for weights of its own, so that opening a large run costs little more than reading
    it. Raises ValueError for weights of another model.
    """
    with torch.device("meta"):
        model = assemble(config, vocab_size)
    pack_as(model, state, dtype)
    packed = {f"{path}.{part}" for path, layer in packed_weights(model).items() for part in layer.format._fields}
    others = {name: x.to(dtype) if x.is_floating_point() else x for name, x in state.items() if name not in packed}
    load_shared_state(model, others | {name: as_bits(state[name]) for name in packed})
    return model


def base_weights(path: Path, contents: dict, base: Path | None = None) -> dict[str, Tensor] | None:
    """The base weights of a run's adapter; None for a run without an adapter.

    They come from the run `base` if it is given. Otherwise they come from the run that the adapter was trained on, at
    its path at that time or next to the adapter's own folder. Raises ValueError if it is not found, or if its weights
    have changed.
    """
    if not contents["config"].adapts:
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
            f"{place}: expected the weights that {path} adapts, those of {known.path} with SHA-256 "
            f"{known.sha256[:12]}..., found {fingerprint(weights)[:12]}...; name that run as it was, or "
            "train the adapter again"
        )
    return weights


def whole_weights(path: Path, contents: dict) -> dict[str, Tensor]:
    """The weights of a run as a model without an adapter; an adapter is merged into its base. Raises ValueError."""
    if not contents["config"].adapts:
        return contents["step"]["model"]
    model = open_run(path).text.model
    merge(model)
    return model.state_dict()


def is_summed_up(path: Path, step: int) -> bool:
    """Whether the run has a summary of this step; it has none if it was killed between last save and the summary."""
    return read_summary(path).get("steps") == step
