"""The wiring: a config becomes data, batches, a model, a step and a validation. Nothing is computed here.

`build_task` alone asks what is learned; all else follows from the task. Read `tasks/task.py` before; next: `folder`.
"""

import torch
from torch import Tensor, nn

from minillm.adapters.lora import add_lora
from minillm.datasets.corpus import Corpus
from minillm.models.decoder import DecoderConfig
from minillm.models.encoder import EncoderConfig
from minillm.models.encoder_decoder import EncoderDecoderConfig
from minillm.models.ngram import NgramConfig
from minillm.models.rnn import RNNConfig
from minillm.objectives.loss import Objective
from minillm.config.registry import Registry
from minillm.run_config import RunConfig
from minillm.tasks.task import Batches, Data, Say, Task
from minillm.tasks.blanks import Blanks
from minillm.tasks.counting import Counting
from minillm.tasks.labels import Labels
from minillm.tasks.next_token import NextToken
from minillm.tasks.translation import Translation
from minillm.tokenizers.tokenizer import Tokenizer
from minillm.training.counting import CountingStep
from minillm.evaluation.validation import Validation
from minillm.training.step import GradientStep

TASKS: Registry[type, type[Task]] = Registry(  # what a model is for, where no labels are asked of it
    "model.kind",
    "TASKS in minillm/runs/wiring.py",
    {
        DecoderConfig: NextToken,
        RNNConfig: NextToken,
        NgramConfig: Counting,
        EncoderConfig: Blanks,
        EncoderDecoderConfig: Translation,
    },
)


def build_task(config: RunConfig) -> Task:
    """What is learned."""
    return (Labels if config.labels.kind != "none" else TASKS[type(config.model)])(config)


def build_data(
    config: RunConfig, tokenizer: Tokenizer | None = None, say: Say = print, corpus: Corpus | None = None
) -> Data:
    """The corpus, split, and tokenized by `tokenizer` or one that is trained on the training part. Raises ValueError.

    `corpus` stands in for that of the config: `corpus_of` makes one of a list of strings.
    """
    return build_task(config).data(tokenizer, say, corpus)


def build_batches(config: RunConfig, data: Data) -> Batches:
    """Step -> training batch."""
    return build_task(config).batches(data)


def limit_steps(config: RunConfig, data: Data, say: Say = print) -> RunConfig:
    """The config with no more steps than there is data for."""
    return build_task(config).limit_steps(data, say)


def passes(config: RunConfig, data: Data) -> float:
    """Passes over the text in a training."""
    return build_task(config).passes(data)


def build_validation(config: RunConfig, data: Data, part: str = "val") -> Validation:
    """The full pass over one held-out part, "val" or "test"."""
    validation = build_task(config).validation(data, part)
    return validation.accelerated() if config.train.fast else validation


def build_objective(config: RunConfig) -> Objective:
    """What training minimizes."""
    return build_task(config).objective()


def build_step(config: RunConfig, model: nn.Module) -> GradientStep | CountingStep:
    """The update that `config` describes, on `model`. Raises ValueError for settings that it would ignore."""
    return build_task(config).step(model)


def build_model(
    config: RunConfig, vocab_size: int, device: str = "cpu", weights: dict[str, Tensor] | None = None
) -> nn.Module:
    """A model to train: `assemble` with the seed of the config, from which dropout goes on drawing."""
    torch.manual_seed(config.train.seed)
    return assemble(config, vocab_size, weights).to(device)


def assemble(config: RunConfig, vocab_size: int, weights: dict[str, Tensor] | None = None) -> nn.Module:
    """A fresh model, or one of these weights, and the adapter of the config on it; what is fresh is drawn from torch's generator."""
    task = build_task(config)
    model = task.model(vocab_size)
    if weights is not None:
        task.start_from(model, weights)
    if config.adapter.rank:
        add_lora(model, config.adapter)
    return model


def find_device(name: str) -> str:
    """ "auto" is CUDA where there is one, else the CPU; anything else is taken at its word. Raises ValueError if it is not there."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    there = {"cpu": lambda: True, "cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}
    if not there.get(name.partition(":")[0], lambda: False)():
        raise ValueError(
            f"--device {name}: expected auto, cpu, cuda or mps, and one that this machine has; leave it out"
        )
    return name
