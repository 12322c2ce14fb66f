"""The wiring: from a config to data, batches, model, training and validation. Nothing is computed here.

Each function asks the task that the config names. Read before: `config`; next: `folder`.
"""

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from minillm.adapters.build_adapter import add_adapter
from minillm.datasets.corpus import Corpus
from minillm.evaluation.validation import Validation
from minillm.objectives.loss import Objective
from minillm.runs.config import RunConfig
from minillm.tasks.task import ALONE, Batches, Data, Frozen, Say, Training
from minillm.tokenizers.tokenizer import Tokenizer
from minillm.training.counting import CountingStep
from minillm.training.step import GradientStep


def build_data(
    config: RunConfig, tokenizer: Tokenizer | None = None, say: Say = print, corpus: Corpus | None = None
) -> Data:
    """Load, split and tokenize the corpus, by `tokenizer` or by one trained on the training part. Raises ValueError.

    `corpus` replaces the config's corpus; `corpus_of` makes one from a list of strings.
    """
    return config.task.data(config.of_text, tokenizer, say, corpus)


def build_batches(config: RunConfig, data: Data, frozen: Frozen = ALONE) -> Batches:
    """The function step -> training batch. `frozen`: the models of the task's companions (see `companions`)."""
    return config.task.batches(config.of_text, data, frozen)


def build_objective(config: RunConfig, frozen: Frozen = ALONE) -> Objective:
    """The loss that training minimizes."""
    return config.task.objective(config, frozen)


def build_step(config: RunConfig, model: nn.Module, frozen: Frozen = ALONE) -> GradientStep | CountingStep:
    """The update of `model`, for a config without "auto". Raises ValueError for settings that cannot work."""
    return config.task.step(config, model, frozen)


def build_validation(config: RunConfig, data: Data, part: str = "val") -> Validation:
    """The validation on a whole held-out part, "val" or "test"."""
    validation = config.task.validation(config.of_text, data, part)
    return validation.accelerated() if config.train.fast else validation


def build_training(
    config: RunConfig, data: Data, model: nn.Module, frozen: Frozen = ALONE, say: Say = print
) -> Training:
    """The step and the validation of a model, and the config with each "auto" replaced. Raises ValueError."""
    training = config.task.training(config.of_text, data, model, frozen, say)
    settings = replace(training.settings, model=config.model, adapter=config.adapter)
    return training._replace(settings=settings, validation=partial(build_validation, settings, data))


def build_model(
    config: RunConfig, vocab_size: int, device: str = "cpu", weights: dict[str, Tensor] | None = None
) -> nn.Module:
    """A model to train: `assemble` with torch's generator seeded by the config; dropout continues to draw from it."""
    torch.manual_seed(config.train.seed)
    return assemble(config, vocab_size, weights).to(device)


def assemble(config: RunConfig, vocab_size: int, weights: dict[str, Tensor] | None = None) -> nn.Module:
    """Build a model, with `weights` if given, and the config's adapter. Random weights come from torch's generator.

    Parts that the weights lack, such as the head of a new classifier, are trained together with the adapter.
    """
    model = config.task.model(config, vocab_size)
    fresh = config.task.start_from(model, weights) if weights is not None else []
    model = add_adapter(model, config.adapter)
    for part in fresh:
        part.requires_grad_(True)
    return model


def find_device(name: str) -> str:
    """The device of this name; "auto" is CUDA if available, else the CPU. Raises ValueError if it is unavailable."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    there = {"cpu": lambda: True, "cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}
    if not there.get(name.partition(":")[0], lambda: False)():
        raise ValueError(
            f"--device {name}: expected auto, cpu, cuda or mps, and one that this machine has; leave it out"
        )
    return name
