"""Texts with a label each: what a pre-trained encoder is fine-tuned on, and how well it understands is an accuracy.

The built-in question is how a story ends, told from what happens last: the two sentences before the story itself gives the verdict
("It ended badly because ..."). The outcome is drawn evenly, after all the rest, so nothing before these sentences tells it, a guess is
right half of the time, and the label is a fact of the grammar that wrote the story, not an opinion.
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
N_SENTENCES = 2  # in which a story is decided
SENTENCE_END = re.compile(r'(?:(?<=[.!?])|(?<=[.!?]")) (?=[A-Z"])')


class LabelBatch(NamedTuple):
    """Whole texts and their labels."""

    tokens: Tensor  # (B, T) long, EMPTY for padding
    labels: Tensor  # (B,) long


def ending(world: World, story: str) -> tuple[str, int]:
    """The last sentences before the one that says how a story ended, and its label. Raises ValueError for what is no story."""
    facts = world.facts(story)
    verdict = story.rindex(f" because {facts['why']}.")
    before = story[: max(story.rfind(mark, 0, verdict) for mark in '.!?"') + 1]
    return " ".join(SENTENCE_END.split(before)[-N_SENTENCES:]), ENDINGS.index(facts["outcome"])


class LabelledTexts:
    """A stream of documents with a label each, cut to `context_length` tokens: END and the last ones, for the end matters most."""

    def __init__(self, stream: TokenStream, labels: Sequence[int], context_length: int):
        ends = [*stream.starts[1:].tolist(), len(stream.ids) - 1]
        self.tokens = torch.full((len(labels), context_length), EMPTY)
        for row, start, end in zip(self.tokens, stream.starts.tolist(), ends, strict=True):
            text = np.asarray(stream.ids[max(start + 1, end - context_length + 1) : end]).astype(np.int64)
            row[0], row[1 : 1 + len(text)] = int(stream.ids[start]), torch.from_numpy(text)
        self.labels = torch.tensor(labels)

    def rows(self, chosen: Tensor) -> LabelBatch:
        """These texts, without the columns that none of them fills."""
        tokens = self.tokens[chosen]
        return LabelBatch(tokens[:, : int((tokens >= 0).sum(1).max())], self.labels[chosen])

    def batches(self, batch_size: int, seed: int, order: Literal["epochs", "random"]) -> Callable[[int], LabelBatch]:
        """Step -> batch: every text once before any comes again, or drawn by (seed, step) alone."""
        n = len(self.labels)

        def deal(step: int) -> LabelBatch:
            epochs, places = np.divmod(np.arange(step * batch_size, (step + 1) * batch_size), n)
            chosen = [
                np.random.default_rng((seed, epoch)).permutation(n)[places[epochs == epoch]]
                for epoch in np.unique(epochs)
            ]
            return self.rows(torch.from_numpy(np.concatenate(chosen)))

        def draw(step: int) -> LabelBatch:
            return self.rows(torch.from_numpy(np.random.default_rng((seed, step)).integers(n, size=batch_size)))

        return {"epochs": deal, "random": draw}[order]

    def every(self, batch_size: int) -> list[LabelBatch]:
        """One pass, always the same."""
        return [self.rows(chosen) for chosen in torch.arange(len(self.labels)).split(batch_size)]
