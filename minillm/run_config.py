"""The config of a run: one section for each part, each in the file that consumes it, and what they must agree about.

Files in configs/ are such configs by name. What one section says against another is refused here, before anything is read or built.
Read `config/fields.py` before; next: `runs/wiring.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minillm.adapters.lora import AdapterConfig
from minillm.config.fields import suggest, validate
from minillm.config.loading import load
from minillm.datasets.cleaning import CleaningConfig
from minillm.datasets.corpus import DataConfig
from minillm.datasets.labels import LabelsConfig
from minillm.datasets.masking import MaskingConfig
from minillm.decoding.sampler import SamplingConfig
from minillm.models.decoder import DecoderConfig
from minillm.models.encoder import EncoderConfig
from minillm.models.encoder_decoder import EncoderDecoderConfig
from minillm.models.ngram import NgramConfig
from minillm.models.rnn import RNNConfig
from minillm.system.folders import SHIPPED
from minillm.text.model import TextConfig
from minillm.tokenizers.build_tokenizer import TokenizerConfig
from minillm.training.loop import TrainConfig
from minillm.training.optim import OptimConfig
from minillm.training.schedule import ScheduleConfig

CONFIGS = SHIPPED / "configs"


@dataclass(frozen=True)
class AboutConfig:
    """What to expect of a config, measured on two CPU cores."""

    summary: str = ""  # what it trains, in a line
    expected_seconds: float = 0.0  # from command to prompt; 0: unknown
    expected_loss: float = 0.0  # validation loss at the end, nats per token; 0: unknown

    def __post_init__(self) -> None:
        validate(self)


@dataclass(frozen=True)
class RunConfig:
    """The whole story of a run."""

    about: AboutConfig = field(default_factory=AboutConfig)
    data: DataConfig = field(default_factory=DataConfig)
    cleaning: CleaningConfig = field(default_factory=CleaningConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    model: DecoderConfig | RNNConfig | EncoderConfig | EncoderDecoderConfig | NgramConfig = field(
        default_factory=DecoderConfig
    )
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    labels: LabelsConfig = field(default_factory=LabelsConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    text: TextConfig = field(default_factory=TextConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)

    def __post_init__(self) -> None:
        labels, order, smoothing, kind = self.labels.kind, self.data.order, self.train.label_smoothing, self.model.kind
        if labels != "none" and kind != "encoder":
            raise ValueError(
                f"labels.kind = {labels}: expected model.kind = encoder, which alone is fine-tuned to labels"
            )
        if self.masking != MaskingConfig() and (labels != "none" or kind != "encoder"):
            raise ValueError(
                "masking: expected only beside model.kind = encoder and labels.kind = none, as blanks are made there; drop it"
            )
        if smoothing and kind == "encoder":
            raise ValueError(f"train.label_smoothing = {smoothing}: expected 0 beside model.kind = encoder; drop it")
        if self.train.compile:
            self._refuse_what_cannot_be_compiled()
        if order == "contiguous" and kind != "rnn":
            raise ValueError(
                f"data.order = contiguous: expected model.kind = rnn, whose state is carried, not {kind}; use epochs"
            )
        warmup, n_steps = self.schedule.warmup_steps, self.train.max_steps
        if warmup > n_steps and kind != "ngram":
            raise ValueError(
                f"schedule.warmup_steps = {warmup}: expected at most train.max_steps = {n_steps}, or the peak is never reached; "
                f"lower it, for example with --schedule.warmup_steps {n_steps // 10}"
            )
        if order == "contiguous" and self.train.backward == "manual":
            raise ValueError(
                "data.order = contiguous: expected epochs or random beside train.backward = manual; change one of the two"
            )

    def _refuse_what_cannot_be_compiled(self) -> None:
        n_experts = self.model.n_experts if isinstance(self.model, DecoderConfig) else 0
        reasons = {
            "train.backward = manual": (self.train.backward == "manual", "whose formulas are there to be read"),
            "model.kind = ngram": (self.model.kind == "ngram", "which counts"),
            "model.kind = rnn": (self.model.kind == "rnn", "whose every token would be translated anew"),
            f"model.n_experts = {n_experts}": (n_experts > 0, "since every choice of experts would be translated anew"),
        }
        for name, (there, why) in reasons.items():
            if there:
                raise ValueError(f"train.compile = true: expected false beside {name}, {why}; drop it")


def find_config(name: str) -> Path:
    """configs/NAME.toml or a file. Raises ValueError with the nearest names."""
    path = Path(name) if name.endswith(".toml") else CONFIGS / f"{name}.toml"
    if not path.is_file():
        known = sorted(p.stem for p in CONFIGS.glob("*.toml"))
        raise ValueError(f"--config {name}: expected {suggest(name, known)}, or the path of a .toml file")
    return path


def load_config(name: str, missing: Mapping[str, Any] | None = None) -> RunConfig:
    """The config of that name or path; `missing` holds the sections that it may leave out. Raises ValueError."""
    return load(RunConfig, find_config(name), missing)
