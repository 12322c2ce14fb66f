"""Start of a training: from a config, from a run to resume, or from a run whose weights a new one takes.

Whatever two of them say must agree. A config says which model it is for by its sections [model] and [tokenizer]; one
without them, as configs/lora-tiny.toml, is for any model that its task trains. A config without [task] goes on with the
task of the run. Read `folder` before; `train.py` calls these functions.
"""

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from minillm.config.flags import override
from minillm.config.loading import load
from minillm.datasets.pairs import Pairs
from minillm.runs import folder, sizing, wiring
from minillm.runs.config import RunConfig, find_config, load_config
from minillm.runs.expectations import as_expected
from minillm.runs.folder import Base
from minillm.tasks.task import Data
from minillm.training.checkpoint import fingerprint

MAY_CHANGE_ON_RESUME = (
    *("train.max_steps", "train.eval_every", "train.save_every", "train.log_every", "train.patience"),
    "train.fast",  # the same computation
    "data.corpus",  # the same text in another place
)
TAKEN = ("model", "tokenizer")  # sections that a new run shares with the one whose weights it starts with


class Start(NamedTuple):
    """The start of a training: its config, and the checkpoint that it continues or takes weights from."""

    config: RunConfig  # under the flags
    original: RunConfig  # without the flags: what [about] was stated for
    saved: dict | None = None  # the checkpoint to go on from, or whose weights are taken
    resumed: Path | None = None  # the run to go on with
    fresh: bool = True  # not from the weights of another run


def resolve(name: str | None, resume: Path | None, init_from: Path | None, flags: Mapping[str, str]) -> Start:
    """The start of a run from a config, from the run `resume`, or from the weights of the run `init_from`.

    Raises ValueError for flags that would be ignored, and where what is given does not fit together.
    """
    if resume:
        start = _resumed(resume, flags)
    elif init_from:
        saved = folder.read_best(init_from)
        config = refuse_what_would_be_ignored(config_from(init_from, saved, name, flags), flags, saved)
        original = load_config(name, taken(saved)) if name else saved["config"]
        start = Start(config if name else sizing.reopen(config, flags), original, saved, fresh=False)
    else:
        config = refuse_what_would_be_ignored(under(new_config(name), flags), flags, None)
        start = Start(config, load_config(name))
    return start._replace(config=as_expected(start.config, start.original, start.fresh))


def _resumed(path: Path, flags: Mapping[str, str]) -> Start:
    saved = folder.read_run(path, "latest")
    refuse_an_edited_config(path, saved)
    for flag in flags:
        if flag not in MAY_CHANGE_ON_RESUME:
            raise ValueError(
                f"--{flag}: expected only {', '.join(MAY_CHANGE_ON_RESUME)} beside --resume; use --init-from"
            )
    config, n_steps = under(saved["config"], flags), saved["progress"]["step"]
    if n_steps >= config.train.max_steps and folder.is_summed_up(path, n_steps):
        raise ValueError(
            f"{path} has done its {config.train.max_steps} steps; raise --train.max_steps, or use --init-from"
        )
    return Start(config, saved["config"], saved, resumed=path)


def read_data(start: Start, flags: Mapping[str, str]) -> tuple[RunConfig, Data]:
    """The config with sizes and a cadence that fit the data, and the data. Raises ValueError as `data_again`."""
    config, tokenizer = start.config, start.saved and start.saved["tokenizer"]
    if start.resumed:
        data = data_again(start.resumed, start.saved, config)
    else:
        config, data = sizing.fit(config, wiring.build_data(config, tokenizer), flags, tokenizer)
    config = sizing.limit_steps(as_expected(config, start.original, start.fresh), data)
    return sizing.set_cadence(config, data), data


def under(config: RunConfig, flags: Mapping[str, str]) -> RunConfig:
    """The config under flags. A run that --train.max_steps makes shorter than its warm-up warms up throughout, which is said."""
    steps, warmup = flags.get("train.max_steps", ""), config.schedule.warmup_steps
    if (
        "schedule.warmup_steps" not in flags
        and steps.isdecimal()
        and int(steps) < warmup
        and "schedule" not in config.task.ignores(config)
    ):
        print(
            f"schedule.warmup_steps = {steps} instead of {warmup}, since the run has no more steps; --schedule.warmup_steps sets it"
        )
        flags = {**flags, "schedule.warmup_steps": steps}
    return override(config, flags)


def refuse_what_would_be_ignored(config: RunConfig, flags: Mapping[str, str], saved: dict | None) -> RunConfig:
    """The config, unless it asks for an adapter of nothing, or a flag is for what is not there. Raises ValueError."""
    rank, ignored = (
        config.adapter.rank,
        [name for name in flags if name.startswith("adapter.") and name != "adapter.rank"],
    )
    of_muon = [name for name in flags if name in ("optim.muon_lr", "optim.momentum") and config.optim.kind != "muon"]
    if rank and saved is None:
        raise ValueError(
            f"adapter.rank = {rank}: expected --init-from RUN, since an adapter corrects what was learned; name a trained run"
        )
    if rank and saved["config"].adapter.rank:
        raise ValueError(
            f"adapter.rank = {rank}: expected a run without an adapter in --init-from; name its base, or give --adapter.rank 0"
        )
    if ignored and not rank:
        raise ValueError(f"--{ignored[0]} would be ignored, since adapter.rank = 0 is no adapter; raise --adapter.rank")
    if of_muon:
        raise ValueError(
            f"--{of_muon[0]} would be ignored, since optim.kind = {config.optim.kind}; leave it out, or add --optim.kind muon"
        )
    return config


def new_config(name: str, missing: Mapping[str, Any] | None = None) -> RunConfig:
    """The config of that name or path, for a new run: of one in the folder of a run, without that folder."""
    config = load_config(name, missing)
    return without_folder(config) if _of_a_run(name) else config


def new_name(name: str) -> str:
    """Name of a new run: the config's, or that of the run in whose folder the config lies."""
    path = find_config(name)
    return path.resolve().parent.name if _of_a_run(name) else path.stem


def without_folder(config: RunConfig) -> RunConfig:
    """The config for a new run in a folder of its own."""
    return dataclasses.replace(config, train=dataclasses.replace(config.train, run=""))


def _of_a_run(name: str) -> bool:
    return (find_config(name).parent / "checkpoint").is_dir()


def config_from(path: Path, saved: dict, name: str | None, flags: Mapping[str, str]) -> RunConfig:
    """The config of a new run that starts with the weights of the run `path`: `name`, or that run's, under `flags`.

    Raises ValueError where its model or its tokenizer is another, and where the weights of the run are packed.
    """
    if "packed" in saved:
        raise ValueError(
            f"--init-from {path}: expected weights to train, found weights packed as {saved['packed']['weights']}; "
            "name the run that they were packed from"
        )
    if name is None:
        refuse_an_edited_config(path, saved)
        config = without_folder(saved["config"])
    else:
        config = new_config(name, taken(saved))
    config = under(config, flags)
    found = differences(config, saved["config"]).items()
    wrong = {key: values for key, values in found if key.partition(".")[0] in TAKEN}
    if wrong:
        raise ValueError(
            f"{_listed(wrong, 0)}: expected {_listed(wrong, 1)}, as the run of --init-from {path}; give it a config with "
            "the same [model] and [tokenizer] or without them, or leave --init-from out"
        )
    return config


def taken(saved: dict) -> dict[str, dict[str, Any]]:
    """The sections of a run that a config without them takes."""
    return {section: dataclasses.asdict(getattr(saved["config"], section)) for section in (*TAKEN, "task")}


def refuse_an_edited_config(path: Path, saved: dict) -> None:
    """Raise ValueError where config.toml in the folder of a run differs from its checkpoint, which is what counts."""
    place = path / "config.toml"
    if not place.is_file():
        return
    edited = differences(load(RunConfig, place), saved["config"])
    if edited:
        raise ValueError(
            f"{place}: expected {_listed(edited, 1)}, as the checkpoint has it, found {_listed(edited, 0)}; delete the "
            f"file to go on as before, or train a new run by it (--config {place})"
        )


def data_again(path: Path, saved: dict, config: RunConfig) -> Data:
    """The data of a run that goes on. Raises ValueError where they are others than they were."""
    try:
        data = wiring.build_data(config, saved["tokenizer"])
    except ValueError as e:
        moved = f"; if the text of {path} has moved, say where it is by --data.corpus"
        raise ValueError(f"{e}{moved if 'data.corpus' in str(e) else ''}") from e
    found = corpus_hash(data)
    if found != saved["corpus"]:
        raise ValueError(
            f"data.corpus = {config.data.corpus}: expected the text that {path} was trained on, of SHA-256 "
            f"{saved['corpus'][:12]}..., found {found[:12]}...; name that text by --data.corpus, or use --init-from "
            f"{path}"
        )
    return data


def starting_point(
    resume: Path | None, init_from: Path | None, config: RunConfig, saved: dict | None
) -> tuple[dict[str, Tensor] | None, Base | None]:
    """Weights for a model to begin with or to carry an adapter; for an adapter also the run that they are of."""
    if resume:
        return folder.base_weights(resume, saved), saved.get("base") and Base(**saved["base"])
    if not init_from:
        return None, None
    weights = folder.whole_weights(init_from, saved)
    return weights, Base(str(init_from.resolve()), fingerprint(weights)) if config.adapter.rank else None


def corpus_hash(data: Data) -> str:
    """SHA-256 of all that is trained on and validated with: of the corpus as it was cleaned, split and tokenized."""
    hashed = hashlib.sha256()
    for part in (data.train, data.val, data.test):
        streams = (part.source, part.target) if isinstance(part, Pairs) else (part,)
        for ids in (stream.ids if stream else b"" for stream in streams):
            hashed.update(f"{len(ids)}\n".encode())
            hashed.update(ids)
    return hashed.hexdigest()


def differences(one: RunConfig, other: RunConfig) -> dict[str, tuple[Any, Any]]:
    """The keys whose values differ, with both; of sections of two kinds only the kind."""
    found = {}
    for section, ours in dataclasses.asdict(one).items():
        theirs = dataclasses.asdict(getattr(other, section))
        other_kind = type(getattr(one, section)) is not type(getattr(other, section))
        keys = ["kind"] if other_kind else ours
        found |= {f"{section}.{key}": (ours[key], theirs[key]) for key in keys if ours[key] != theirs[key]}
    return found


def _listed(found: Mapping[str, tuple[Any, Any]], which: int) -> str:
    return ", ".join(f"{key} = {values[which]}" for key, values in found.items())
