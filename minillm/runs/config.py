"""The config of a run: the section [task], which names what is learned, and the settings of the training.

The files in configs/ are configs that can be given by name. A model that the task cannot train, or a section that the
task does not use, raises ValueError here, before anything is read or built. Read before: `tasks/task.py`; next:
`wiring`.
"""

import functools
import operator
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from minillm.adapters.build_adapter import NoAdapter
from minillm.adapters.prefix import refuse_long
from minillm.config.fields import suggest
from minillm.config.loading import load, written
from minillm.models.decoder import DecoderConfig
from minillm.system.folders import SHIPPED
from minillm.tasks.blanks import Blanks
from minillm.tasks.count import Count
from minillm.tasks.distill import Distill
from minillm.tasks.labels import Labels
from minillm.tasks.next_token import NextToken
from minillm.tasks.settings import Settings
from minillm.tasks.sft import Sft
from minillm.tasks.translate import Translate

CONFIGS = SHIPPED / "configs"

AnyTask = NextToken | Count | Blanks | Labels | Translate | Sft | Distill
TASKS = typing.get_args(AnyTask)
AnyModel = functools.reduce(operator.or_, dict.fromkeys(model for task in TASKS for model in task.models))


@dataclass(frozen=True)
class Named:
    """The part of a config that names its task."""

    task: AnyTask = field(default_factory=NextToken)


@dataclass(frozen=True)
class RunConfig(Settings, Named):  # subtle: the fields of the last base come first, so that [task] opens the file
    """All settings of a run."""

    model: AnyModel = field(default_factory=DecoderConfig)

    @property
    def adapts(self) -> bool:
        """Whether an adapter is trained instead of all weights."""
        return not isinstance(self.adapter, NoAdapter)

    @property
    def of_text(self) -> "RunConfig":
        """The config as the text sees it: with the context that an adapter's virtual tokens leave to it."""
        if not self.adapter.n_virtual:
            return self
        model = replace(self.model, context_length=self.model.context_length - self.adapter.n_virtual)
        return replace(self, model=model, adapter=NoAdapter())

    def __post_init__(self) -> None:
        """Raise ValueError for a model or a setting that the task cannot use."""
        if type(self.model) not in self.task.models:
            raise ValueError(self._wrong_model())
        ignored = self.task.ignores(self)
        for name, why in ignored.items():
            for key, value, usual in self._unusual(name):
                raise ValueError(
                    f"{key} = {written(value)}: expected {written(usual)}, its default, since {why}; leave it out"
                )
        if self.adapter.n_virtual:
            refuse_long(self.adapter.n_virtual, self.model.context_length)
        warmup, n_steps = self.schedule.warmup_steps, self.train.max_steps
        if warmup > n_steps and "schedule" not in ignored:
            raise ValueError(
                f"schedule.warmup_steps = {warmup}: expected at most train.max_steps = {n_steps}, or the peak is never "
                f"reached; lower it, for example with --schedule.warmup_steps {n_steps // 10}"
            )
        least, most = self.sampling.min_new_tokens, self.text.max_new_tokens
        if least > most:
            raise ValueError(
                f"sampling.min_new_tokens = {least}: expected at most text.max_new_tokens = {most}; "
                "lower it, or raise text.max_new_tokens"
            )

    def _wrong_model(self) -> str:
        if not self.task.models:
            name = type(self.task).__name__
            return (
                f"task.kind = {self.task.kind}: expected models that it trains, found none; list them in {name}.models"
            )
        known = " or ".join(model.kind for model in self.task.models)
        others = " or ".join(task.kind for task in TASKS if type(self.model) in task.models)
        how = f"set task.kind = {others}" if others else "add it to `models` of a task in minillm/tasks/"
        return (
            f"model.kind = {self.model.kind}: expected {known} beside task.kind = {self.task.kind}; {how}, "
            "or take another model"
        )

    def _unusual(self, name: str) -> Iterator[tuple[str, Any, Any]]:
        """Yield (key, value, default) for each non-default value in `name`, a section or a single key."""
        section, _, key = name.partition(".")
        ours = getattr(self, section)
        usual = type(ours)()
        if section == "adapter" and self.adapts:
            yield "adapter.kind", ours.kind, NoAdapter.kind
        for leaf in [key] if key else [each.name for each in fields(ours)]:
            if getattr(ours, leaf) != getattr(usual, leaf):
                yield f"{section}.{leaf}", getattr(ours, leaf), getattr(usual, leaf)


def find_config(name: str) -> Path:
    """The path of configs/NAME.toml, or of a .toml file. Raises ValueError that suggests the nearest names."""
    path = Path(name) if name.endswith(".toml") else CONFIGS / f"{name}.toml"
    if not path.is_file():
        known = sorted(p.stem for p in CONFIGS.glob("*.toml"))
        raise ValueError(f"--config {name}: expected {suggest(name, known)}, or the path of a .toml file")
    return path


def load_config(name: str, missing: Mapping[str, Any] | None = None) -> RunConfig:
    """Load a config by name or path; `missing` holds values for sections that it may leave out. Raises ValueError."""
    return load(RunConfig, find_config(name), missing)
