"""Counting n-grams: predicting the next token without a gradient, by reading the training text exactly once.

Data, validation and what can be done with the model are those of `next_token`. What is counted must be counted once, so batches end
where the text does, and settings that only make sense for gradients are refused. Read `next_token` before.
"""

from dataclasses import asdict, replace

from torch import nn

from minillm.datasets.single_pass import SinglePass
from minillm.models.ngram import Ngram
from minillm.run_config import RunConfig
from minillm.tasks.next_token import NextToken
from minillm.tasks.task import Batches, Data, Say
from minillm.training.counting import CountingStep


class Counting(NextToken):
    """See the module."""

    def batches(self, data: Data) -> Batches:
        return self._single_pass(data).batch

    def model(self, vocab_size: int) -> nn.Module:
        return Ngram(self.config.model, vocab_size)

    def step(self, model: nn.Module) -> CountingStep:
        self._refuse_what_counting_ignores()
        return CountingStep(model, self.objective())

    def passes(self, data: Data) -> float:
        return min(1.0, self.config.train.max_steps / self._single_pass(data).n_steps)

    def limit_steps(self, data: Data, say: Say) -> RunConfig:
        """The config with no more steps than it takes to count the whole text."""
        c, n_steps = self.config, self._single_pass(data).n_steps
        if c.train.max_steps <= n_steps:
            return c
        say(f"the whole text is counted in {n_steps} steps, so there are no more")
        return replace(c, train=replace(c.train, max_steps=n_steps))

    def _single_pass(self, data: Data) -> SinglePass:
        c = self.config
        return SinglePass(data.train, c.model.context_length, c.train.batch_size, c.model.order - 1)

    def _refuse_what_counting_ignores(self) -> None:
        given, usual = asdict(self.config), asdict(RunConfig())
        names = [f"{section}.{name}" for section in ("optim", "schedule") for name in given[section]]
        for name in (
            *names,
            "train.n_micro_batches",
            "train.grad_clip",
            "train.backward",
            "train.label_smoothing",
            "data.order",
        ):
            section, _, leaf = name.partition(".")
            value = given[section][leaf]
            if value != usual[section][leaf]:
                raise ValueError(
                    f"{name} = {value!r}: expected none, since an n-gram model counts its text in order; leave it out"
                )
        if self.config.train.precision == "bf16":
            raise ValueError(
                "train.precision = bf16: expected fp32 or auto, since an n-gram model counts in whole numbers; leave it out"
            )
