"""Companions: runs that a task uses but does not train, such as the teacher of a distillation.

[task] names their folders. They are opened before any work, frozen, and have the tokenizer of the trained model, which
takes it from them. A checkpoint has the fingerprints of their weights, so a run that is resumed beside other weights is
refused. Read before: `folder`, `tasks/task.py`.
"""

import dataclasses
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

from torch import nn

from minillm.models.language_model import count_parameters
from minillm.runs.config import RunConfig
from minillm.runs.folder import OpenRun, open_run
from minillm.tasks.task import Companion, Frozen, Say
from minillm.text.model import TextModel
from minillm.tokenizers.build_tokenizer import TokenizerConfig
from minillm.tokenizers.tokenizer import Tokenizer
from minillm.training.checkpoint import fingerprint


class Opened(NamedTuple):
    """The companion of a training, on the CPU."""

    run: str
    model: nn.Module  # frozen, in evaluation mode
    tokenizer: Tokenizer
    sha256: str  # of its weights
    tokenizer_config: TokenizerConfig


def open_companions(config: RunConfig, say: Say = print, resumed: Path | None = None) -> dict[str, Opened]:
    """Open the companions that a config names, by their key of [task]. Raises ValueError.

    `resumed`: the run that is resumed. A companion that has moved is also found beside it.
    """
    opened = {}
    for key, companion in config.task.companions().items():
        found = _open(f"task.{key}", companion, resumed)
        model = found.text.model.requires_grad_(False)
        _refuse_a_short_context(f"task.{key} = {companion.run}", config, model)
        opened[key] = Opened(
            companion.run, model, found.text.tokenizer, fingerprint(model.state_dict()), found.config.tokenizer
        )
        say(f"task.{key} = {found.path}: {count_parameters(model):,} parameters, frozen")
    return opened


def models(opened: Mapping[str, Opened], device: str) -> Frozen:
    """The models of companions, moved to a device."""
    return {key: companion.model.to(device) for key, companion in opened.items()}


def tokenizer_of(opened: Mapping[str, Opened], ours: Tokenizer | None = None) -> Tokenizer | None:
    """The tokenizer that companions share with each other and with `ours`, that of a trained model; None without any.

    Raises ValueError if two of them differ.
    """
    for key, companion in opened.items():
        if ours is not None and companion.tokenizer.to_dict() != ours.to_dict():
            raise ValueError(
                f"task.{key} = {companion.run}: expected the tokenizer of the model that learns, found a different "
                "one; name a run with the same tokenizer, or start without --init-from"
            )
        ours = companion.tokenizer
    return ours


def with_tokenizer(config: RunConfig, opened: Mapping[str, Opened], flags: Collection[str]) -> RunConfig:
    """The config with the section [tokenizer] of its companions. Raises ValueError if it asks for another one."""
    for key, companion in opened.items():
        theirs, default = companion.tokenizer_config, TokenizerConfig()
        asked = any(name.startswith("tokenizer.") for name in flags)
        if config.tokenizer != theirs and (asked or config.tokenizer != default):
            names = [field.name for field in dataclasses.fields(theirs)]
            [name, *_] = [name for name in names if getattr(config.tokenizer, name) != getattr(theirs, name)]
            raise ValueError(
                f"tokenizer.{name} = {getattr(config.tokenizer, name)}: expected {getattr(theirs, name)}, as in "
                f"task.{key} = {companion.run}, since both read the same tokens; leave [tokenizer] out"
            )
        config = dataclasses.replace(config, tokenizer=theirs)
    return config


def identities(opened: Mapping[str, Opened]) -> dict[str, str]:
    """The fingerprints of companions, which a checkpoint has."""
    return {key: companion.sha256 for key, companion in opened.items()}


def refuse_changed(opened: Mapping[str, Opened], saved: Mapping[str, str], path: Path) -> None:
    """Raise ValueError if the weights of a companion are not those that the run `path` began with."""
    for key, companion in opened.items():
        if companion.sha256 != saved[key]:
            raise ValueError(
                f"task.{key} = {companion.run}: expected the weights that {path} began with, of SHA-256 "
                f"{saved[key][:12]}..., found {companion.sha256[:12]}...; name that run as it was by --task.{key}, or "
                "use --init-from"
            )


def _open(key: str, companion: Companion, resumed: Path | None) -> OpenRun:
    if not companion.run:
        raise ValueError(f'{key} = "": expected the folder of a run; name one, for example --{key} runs/gpt-tiny')
    path = Path(companion.run)
    beside = resumed.parent / path.name if resumed else path
    try:
        found = open_run(path if path.is_dir() else beside)
    except ValueError as e:
        raise ValueError(f"{key} = {companion.run}: {e}") from e
    if type(found.text) is not companion.text:
        kind = "that writes" if companion.text is TextModel else f"of a {companion.text.__name__}"
        raise ValueError(
            f"{key} = {companion.run}: expected a run {kind}, found task.kind = {found.config.task.kind}; name another"
        )
    return found


def _refuse_a_short_context(name: str, config: RunConfig, model: nn.Module) -> None:
    """Raise ValueError if a companion cannot read as many tokens as the model."""
    theirs, ours = model.context_length, config.model.context_length
    if theirs is not None and ours > theirs:
        raise ValueError(
            f"model.context_length = {ours}: expected at most {theirs}, since {name} reads no more tokens; lower it"
        )
