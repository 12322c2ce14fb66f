"""Settings: every section of a run's config except [task], which says what is learned.

Each section is a frozen dataclass in the file that uses it. A task reads the settings that it needs, and names those
that have no effect. `runs/config.py` adds the section [task] and the kinds of model. Read before: `config/fields.py`;
next: `task.py`.
"""

from dataclasses import dataclass, field
from typing import Protocol

from minillm.adapters.build_adapter import AnyAdapter, NoAdapter
from minillm.config.fields import validate
from minillm.datasets.cleaning import CleaningConfig
from minillm.datasets.corpus import DataConfig
from minillm.decoding.sampler import SamplingConfig
from minillm.models.decoder import DecoderConfig
from minillm.text.model import TextConfig
from minillm.tokenizers.build_tokenizer import TokenizerConfig
from minillm.training.loop import TrainConfig
from minillm.training.optim import OptimConfig
from minillm.training.schedule import ScheduleConfig


@dataclass(frozen=True)
class AboutConfig:
    """Summary and expected results of a config, measured on two CPU cores."""

    summary: str = ""  # what the config trains, in a line
    expected_seconds: float = 0.0  # of the whole command; 0: unknown
    expected_loss: float = 0.0  # validation loss at the end, nats per token; 0: unknown

    def __post_init__(self) -> None:
        validate(self)


class ModelConfig(Protocol):
    """Base of the configs of all models."""

    kind: str
    context_length: int


@dataclass(frozen=True)
class Settings:
    """All sections that a task may use."""

    about: AboutConfig = field(default_factory=AboutConfig)
    data: DataConfig = field(default_factory=DataConfig)
    cleaning: CleaningConfig = field(default_factory=CleaningConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    model: ModelConfig = field(default_factory=DecoderConfig)
    adapter: AnyAdapter = field(default_factory=NoAdapter)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    text: TextConfig = field(default_factory=TextConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
