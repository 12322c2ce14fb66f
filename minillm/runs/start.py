"""Start of a training: from a config, from a run that is resumed, or from the weights of another run.

If several of these are given, they must agree. The sections [model] and [tokenizer] of a config say which model it is
for; a config without them, such as configs/lora-tiny.toml, is for any model that its task can train. A config without
[task] keeps the task of the run. Read before: `folder`; `train.py` calls these functions.
"""

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from torch import Tensor

from minillm.config.flags import override
from minillm.config.loading import load
from minillm.datasets.pairs import Pairs
from minillm.runs import companions, folder, sizing, wiring
from minillm.runs.companions import Opened
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
TAKEN = ("model", "tokenizer")  # sections that a new run must share with the run of its initial weights


class Start(NamedTuple):
    """The start of a training: its config, and the checkpoint that it continues or starts from."""

    config: RunConfig  # with the flags applied
    original: RunConfig  # without the flags; [about] was measured with it
    saved: dict | None = None  # the checkpoint to resume, or the one that has the initial weights
    resumed: Path | None = None  # the run that is resumed
    fresh: bool = True  # False: the weights come from another run
    companions: Mapping[str, Opened] = MappingProxyType({})  # by their key of [task]


def resolve(name: str | None, resume: Path | None, init_from: Path | None, flags: Mapping[str, str]) -> Start:
    """Resolve the command line: config `name`, run `resume` to continue, or run `init_from` to take weights from.

    Raises ValueError for flags without effect, and for arguments that contradict each other.
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
    start = with_companions(start, companions.open_companions(start.config, resumed=resume), flags)
    return start._replace(config=as_expected(start.config, start.original, start.fresh))


def with_companions(start: Start, opened: Mapping[str, Opened], flags: Mapping[str, str]) -> Start:
    """The start of a training that uses opened companions; a new model gets their tokenizer.

    Raises ValueError for companions with another tokenizer, and for weights that have changed since the run began.
    """
    companions.tokenizer_of(opened, start.saved and start.saved["tokenizer"])
    if start.resumed:
        companions.refuse_changed(opened, start.saved.get("companions", {}), start.resumed)
    if start.saved is None and opened:
        config = companions.with_tokenizer(start.config, opened, flags)
        original = dataclasses.replace(start.original, tokenizer=config.tokenizer)
        start = start._replace(config=config, original=original)
    return start._replace(companions=opened)


def _resumed(path: Path, flags: Mapping[str, str]) -> Start:
    saved = folder.read_run(path, "latest")
    refuse_an_edited_config(path, saved)
    may_change = [*MAY_CHANGE_ON_RESUME, *(f"task.{key}" for key in saved["config"].task.companions())]
    for flag in flags:
        if flag not in may_change:
            raise ValueError(f"--{flag}: expected only {', '.join(may_change)} beside --resume; use --init-from")
    config, n_steps = under(saved["config"], flags), saved["progress"]["step"]
    if n_steps >= config.train.max_steps and folder.is_summed_up(path, n_steps):
        raise ValueError(
            f"{path} has done its {config.train.max_steps} steps; raise --train.max_steps, or use --init-from"
        )
    return Start(config, saved["config"], saved, resumed=path)


def read_data(start: Start, flags: Mapping[str, str]) -> tuple[RunConfig, Data]:
    """Read the data; return the config with sizes and intervals that fit them, and the data. Raises as `data_again`."""
    config = start.config
    tokenizer = companions.tokenizer_of(start.companions, start.saved and start.saved["tokenizer"])
    if start.resumed:
        data = data_again(start.resumed, start.saved, config)
    else:
        config, data = sizing.fit(config, wiring.build_data(config, tokenizer), flags, tokenizer)
        config = sizing.train_new_tokens(config, tokenizer, data.tokenizer, flags)
    config = sizing.limit_steps(as_expected(config, start.original, start.fresh), data)
    return sizing.set_cadence(config, data), data


def under(config: RunConfig, flags: Mapping[str, str]) -> RunConfig:
    """Apply flags to a config. If --train.max_steps is below the warm-up, shorten the warm-up too, and report it."""
    steps, warmup = flags.get("train.max_steps", ""), config.schedule.warmup_steps
    if (
        "schedule.warmup_steps" not in flags
        and steps.isdecimal()
        and int(steps) < warmup
        and "schedule" not in config.task.ignores(config)
    ):
        print(
            f"schedule.warmup_steps = {steps} instead of {warmup}, since the run has no more steps; "
            "--schedule.warmup_steps sets it"
        )
        flags = {**flags, "schedule.warmup_steps": steps}
    return override(config, flags)


def refuse_what_would_be_ignored(config: RunConfig, flags: Mapping[str, str], saved: dict | None) -> RunConfig:
    """Return the config; raise ValueError for an adapter without a base, and for flags without effect."""
    kind = config.adapter.kind
    of_muon = [name for name in flags if name in ("optim.muon_lr", "optim.momentum") and config.optim.kind != "muon"]
    if config.adapts and saved is None:
        raise ValueError(
            f"adapter.kind = {kind}: expected --init-from RUN, since an adapter stands in a trained model; name a "
            "trained run"
        )
    if config.adapts and saved["config"].adapts:
        raise ValueError(
            f"adapter.kind = {kind}: expected a run without an adapter in --init-from; name its base, or give "
            "--adapter.kind none"
        )
    if of_muon:
        raise ValueError(
            f"--{of_muon[0]} would be ignored, since optim.kind = {config.optim.kind}; leave it out, or add "
            "--optim.kind muon"
        )
    return config


def new_config(name: str, missing: Mapping[str, Any] | None = None) -> RunConfig:
    """Load a config for a new run, by name or path. If it is from a run's folder, the new run gets another folder."""
    config = load_config(name, missing)
    return without_folder(config) if _of_a_run(name) else config


def new_name(name: str) -> str:
    """The name of a new run: the config's name or, for a config in a run's folder, the name of that run."""
    path = find_config(name)
    return path.resolve().parent.name if _of_a_run(name) else path.stem


def without_folder(config: RunConfig) -> RunConfig:
    """The config without its run folder."""
    return dataclasses.replace(config, train=dataclasses.replace(config.train, run=""))


def _of_a_run(name: str) -> bool:
    return (find_config(name).parent / "checkpoint").is_dir()


def config_from(path: Path, saved: dict, name: str | None, flags: Mapping[str, str]) -> RunConfig:
    """The config of a new run with the weights of the run `path`: config `name`, or that run's own, with `flags`.

    Raises ValueError if its model or its tokenizer differs from the run's, and if the run's weights are quantized.
    """
    if "packed" in saved:
        raise ValueError(
            f"--init-from {path}: expected weights to train, found weights packed as {saved['packed']['weights']}; "
            "name the run that they were packed from, or import the model again with --weights float32"
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
            f"{_listed(wrong, 0)}: expected {_listed(wrong, 1)}, as the run of --init-from {path}; give it a config "
            "with the same [model] and [tokenizer] or without them, or leave --init-from out"
        )
    return config


def taken(saved: dict) -> dict[str, dict[str, Any]]:
    """The sections of a run that replace missing sections of a config."""
    return {section: dataclasses.asdict(getattr(saved["config"], section)) for section in (*TAKEN, "task")}


def refuse_an_edited_config(path: Path, saved: dict) -> None:
    """Raise ValueError if a run's config.toml was edited; the config that is used is the one in the checkpoint."""
    place = path / "config.toml"
    if not place.is_file():
        return
    edited = differences(load(RunConfig, place), saved["config"])
    if edited:
        raise ValueError(
            f"{place}: expected {_listed(edited, 1)}, as the checkpoint has it, found {_listed(edited, 0)}; delete the "
            f"file to continue as before, or train a new run with it (--config {place})"
        )


def data_again(path: Path, saved: dict, config: RunConfig) -> Data:
    """The data of a run that is resumed. Raises ValueError if they have changed."""
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
    """The initial weights, or the base weights of an adapter; and for an adapter, the run that they come from."""
    if resume:
        return folder.base_weights(resume, saved), saved.get("base") and Base(**saved["base"])
    if not init_from:
        return None, None
    weights = folder.whole_weights(init_from, saved)
    return weights, Base(str(init_from.resolve()), fingerprint(weights)) if config.adapts else None


def corpus_hash(data: Data) -> str:
    """SHA-256 of the cleaned, split and tokenized corpus: training, validation and test part."""
    hashed = hashlib.sha256()
    for part in (data.train, data.val, data.test):
        streams = (part.source, part.target) if isinstance(part, Pairs) else (part,)
        for ids in (stream.ids if stream else b"" for stream in streams):
            hashed.update(f"{len(ids)}\n".encode())
            hashed.update(ids)
    return hashed.hexdigest()


def differences(one: RunConfig, other: RunConfig) -> dict[str, tuple[Any, Any]]:
    """The keys whose values differ, with both values; for sections of different kinds, only the kind."""
    found = {}
    for section, ours in dataclasses.asdict(one).items():
        theirs = dataclasses.asdict(getattr(other, section))
        other_kind = type(getattr(one, section)) is not type(getattr(other, section))
        keys = ["kind"] if other_kind else ours
        found |= {f"{section}.{key}": (ours[key], theirs[key]) for key in keys if ours[key] != theirs[key]}
    return found


def _listed(found: Mapping[str, tuple[Any, Any]], which: int) -> str:
    return ", ".join(f"{key} = {values[which]}" for key, values in found.items())
