"""Labelled texts: the data on which a pre-trained encoder is fine-tuned as a classifier (Devlin et al. 2019).

The built-in label is how a story ends, given its last events: the two sentences before the story states the verdict
("It ended badly because ..."). The outcome is drawn uniformly, after all the rest, so no earlier sentence predicts it
and a guess is right half of the time. The label is exact, because the grammar that wrote the story defines it. Read
before: `stories`, `tokens`.
"""

import re
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from minillm.constants import EMPTY
from minillm.datasets.stories import World
from minillm.datasets.tokens import TokenStream

ENDINGS = ("bad", "good")  # label 0, label 1
N_SENTENCES = 2  # sentences that decide how a story ends
SENTENCE_END = re.compile(r'(?:(?<=[.!?])|(?<=[.!?]")) (?=[A-Z"])')


class LabelBatch(NamedTuple):
    """Whole texts and their labels."""

    tokens: Tensor  # (B, T) long, EMPTY for padding
    labels: Tensor  # (B,) long


def ending(world: World, story: str) -> tuple[str, int]:
    """The sentences that decide how a story ends, and its label. Raises ValueError if the text is not a story."""
    facts = world.facts(story)
    verdict = story.rindex(f" because {facts['why']}.")
    before = story[: max(story.rfind(mark, 0, verdict) for mark in '.!?"') + 1]
    return " ".join(SENTENCE_END.split(before)[-N_SENTENCES:]), ENDINGS.index(facts["outcome"])


class LabelledTexts:
    """The labelled documents of a stream: END and the last tokens of each, at most `context_length` in all."""

    def __init__(self, stream: TokenStream, labels: Sequence[int], context_length: int):
        ends = [*stream.starts[1:].tolist(), len(stream.ids) - 1]
        self.tokens = torch.full((len(labels), context_length), EMPTY)
        for row, start, end in zip(self.tokens, stream.starts.tolist(), ends, strict=True):
            text = np.asarray(stream.ids[max(start + 1, end - context_length + 1) : end]).astype(np.int64)
            row[0], row[1 : 1 + len(text)] = int(stream.ids[start]), torch.from_numpy(text)
        self.labels = torch.tensor(labels)

    def rows(self, chosen: Tensor) -> LabelBatch:
        """The batch of the chosen texts, as wide as the longest of them."""
        tokens = self.tokens[chosen]
        return LabelBatch(tokens[:, : int((tokens >= 0).sum(1).max())], self.labels[chosen])

    def batches(self, batch_size: int, seed: int, order: Literal["epochs", "random"]) -> Callable[[int], LabelBatch]:
        """A function step -> batch: every text once an epoch, or drawn at random from (seed, step)."""
        n = len(self.labels)

        def in_epochs(step: int) -> LabelBatch:
            epochs, places = np.divmod(np.arange(step * batch_size, (step + 1) * batch_size), n)
            chosen = [
                np.random.default_rng((seed, epoch)).permutation(n)[places[epochs == epoch]]
                for epoch in np.unique(epochs)
            ]
            return self.rows(torch.from_numpy(np.concatenate(chosen)))

        def at_random(step: int) -> LabelBatch:
            return self.rows(torch.from_numpy(np.random.default_rng((seed, step)).integers(n, size=batch_size)))

        return {"epochs": in_epochs, "random": at_random}[order]

    def every(self, batch_size: int) -> list[LabelBatch]:
        """Batches of one pass over all texts, in their order."""
        return [self.rows(chosen) for chosen in torch.arange(len(self.labels)).split(batch_size)]
