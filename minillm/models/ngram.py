"""The n-gram model: the next token is guessed from the last n - 1 by counting what followed them before (Shannon 1948).

    P(w | h) = c(h w) / c(h), smoothed,     h = the last n - 1 tokens

Nothing is learned but counts: no weights, no gradient, one reading of the text. Logits are log probabilities, and sum
to one after every context, seen or not; before anything is counted they are uniform. END is a token like any other, but
since no document is counted together with the one before it, a context that reaches across an END has never been seen
and gives way to the part of it that begins with END. Read `ngram_counts` and `smoothing` first.

    python -m minillm.models.ngram "I love machine learning. I love deep learning. You love machine learning."
"""

import re
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from minillm.config.fields import Above, AtMost, Choice, Positive, validate
from minillm.config.flags import Parser
from minillm.constants import EMPTY, IGNORE
from minillm.datasets.batch import Batch
from minillm.models.language_model import Rollback
from minillm.models.ngram_counts import NgramCounts
from minillm.models.smoothing import SMOOTHINGS

ROWS = 256  # contexts that are looked up together: what followed them all is held at once


@dataclass(frozen=True)
class NgramConfig:
    """The reach of an n-gram model and what it does about gaps."""

    kind: Literal["ngram"] = "ngram"  # what the model is
    order: Positive = 3  # tokens of an n-gram: the next one and order - 1 before it
    smoothing: Annotated[str, Choice(SMOOTHINGS)] = "kneser-ney"  # what is believed about the unseen
    discount: Annotated[float, Above(0), AtMost(1)] = 0.75  # of kneser-ney: taken from each count
    k: Annotated[float, Above(0)] = 0.01  # of add-k: added to each count
    backoff: Annotated[float, Above(0), AtMost(1)] = 0.4  # of stupid-backoff: the factor for each token less of context
    context_length: Positive = 256  # tokens in a row of a batch; what the model writes may be longer

    def __post_init__(self) -> None:
        validate(self)
        for owner, (_, name) in SMOOTHINGS.items():
            if self.smoothing != owner and getattr(self, name) != getattr(NgramConfig, name):
                raise ValueError(
                    f"model.{name} = {getattr(self, name)}: expected none, since model.smoothing = {self.smoothing} does not use it; "
                    f"leave it out or choose {owner}"
                )


class NgramState:
    """The tokens that each row has read. The last n - 1 matter; the others are kept so that any number can be taken back."""

    context_length = None
    rollback: Rollback = "truncate"

    def __init__(self, batch_size: int, reach: int, device: torch.device):
        self.lengths = torch.zeros(batch_size, dtype=torch.long, device=device)
        self.reach = reach
        self.tokens = torch.full(
            (batch_size, reach), EMPTY, device=device
        )  # (B, reach + S): nothing, then what was read

    def read(self, tokens: Tensor) -> Tensor:
        """Append tokens (B, T) but for the EMPTY ones; the last n - 1 tokens at each of them, EMPTY on the left: (B, T, n - 1)."""
        filled = tokens >= 0
        lengths = self.lengths[:, None] + filled.cumsum(1)  # (B, T)
        longest = int(lengths.max()) if lengths.numel() else int(self.lengths.max()) if len(self.lengths) else 0
        self.tokens = nn.functional.pad(
            self.tokens, (0, max(0, self.reach + longest - self.tokens.shape[1])), value=EMPTY
        )
        self.tokens[filled.nonzero()[:, 0], self.reach + lengths[filled] - 1] = tokens[filled]
        self.lengths = self.lengths + filled.sum(1)
        places = lengths[:, :, None] + torch.arange(self.reach, device=tokens.device)
        return self.tokens.gather(1, places.flatten(1)).view(places.shape)

    def reorder(self, rows: Tensor, since: int = 0) -> None:
        """See `State.reorder`."""
        self.lengths, self.tokens = self.lengths[rows], self.tokens[rows]

    def truncate(self, lengths: Tensor) -> None:
        """See `State.truncate`."""
        if bool((lengths > self.lengths).any()):
            raise ValueError(f"lengths = {lengths.tolist()}: expected at most the tokens read, {self.lengths.tolist()}")
        self.lengths = lengths.clone()

    def nbytes(self) -> int:
        """See `State.nbytes`."""
        return self.tokens.nbytes


class Ngram(nn.Module):
    """A `LanguageModel`: tokens (B, T) -> log probabilities (B, T, V)."""

    start_options: frozenset[str] = frozenset()
    context_length = None
    head = None

    def __init__(self, config: NgramConfig, vocab_size: int):
        super().__init__()
        self.config, self.vocab_size = config, vocab_size
        self.counts = NgramCounts(config.order, vocab_size)
        rule = SMOOTHINGS[config.smoothing]
        self.smooth = rule.make(getattr(config, rule.number))
        self.register_buffer("like", torch.zeros(()), persistent=False)  # has the device and the dtype of the logits

    def start(self, batch_size: int) -> NgramState:
        """A state that has read nothing."""
        return NgramState(batch_size, self.config.order - 1, self.like.device)

    def forward(self, tokens: Tensor, state: NgramState | None = None) -> tuple[Tensor, NgramState | None]:
        """See `LanguageModel.__call__`."""
        contexts, filled = (self.start(len(tokens)) if state is None else state).read(tokens), tokens >= 0
        parts = [self.probabilities(part).log().to(self.like.dtype) for part in contexts[filled].split(ROWS)]
        logits = self.like.new_zeros(*tokens.shape, self.vocab_size)
        logits[filled] = torch.cat(parts)
        return logits, state

    def probabilities(self, contexts: Tensor) -> Tensor:
        """P(w | h) for contexts (N, n - 1), EMPTY on the left where there are fewer tokens: (N, V) float64."""
        self._weigh()
        p = self.like.new_full((1, self.vocab_size), 1 / self.vocab_size, dtype=torch.float64)
        p = self.smooth(p, self.counts.followers(contexts.new_empty(1, 0))).expand(len(contexts), -1)
        for n_tokens in range(1, self.config.order):
            p = self.smooth(p, self.counts.followers(contexts[:, -n_tokens:]))
        return self.smooth.normalize(p)

    def count(self, batch: Batch) -> int:
        """Count all n-grams that end in a target, after as much context as its row has; how many targets there were."""
        text, counted = _text(*batch)
        self.counts.add(text, counted)
        return int(counted.sum())

    def _weigh(self) -> None:
        """Work out what smoothing takes for counts, where something was counted or loaded since it was done last."""
        levels = self.counts.levels
        if any(level.weights is None for level in levels):
            for level, weights in zip(levels, self.smooth.weights(self.counts), strict=True):
                level.weights = weights


def _text(tokens: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The texts of a batch (B, T) without gaps, (B, T + 1) int, and which of their tokens are targets, (B, T + 1) bool."""
    filled, (B, T) = tokens >= 0, tokens.shape
    learned = filled & (targets != IGNORE)
    # a target stands one place after its token, and what is no token goes to the last column
    places = filled.cumsum(1)
    of_tokens, of_targets = (places - 1).where(filled, T + 1), places.where(learned, T + 1)
    text = (
        tokens.new_full((B, T + 2), EMPTY, dtype=torch.int)
        .scatter_(1, of_targets, targets.int())
        .scatter_(1, of_tokens, tokens.int())
    )
    assert ((text.gather(1, of_targets) == targets) | ~learned).all(), "targets are the tokens, one place on"
    counted = torch.zeros_like(text, dtype=torch.bool).scatter_(1, of_targets, True)
    return text[:, :-1], counted[:, :-1]


def frequency_table(text: str, order: int = 3) -> list[tuple[tuple[str, ...], int]]:
    """The n-grams of words within each sentence, in the order of the alphabet, and how often each occurs.

    Raises ValueError for an order below 1 and where no sentence has so many words.
    """
    NgramConfig(order=order)
    sentences = [re.findall(r"[\w'-]+", sentence) for sentence in re.split(r"[.!?\n]+", text)]
    words = sorted({word for sentence in sentences for word in sentence})
    counts = NgramCounts(order, len(words))
    for sentence in filter(None, sentences):
        ids = torch.tensor([[words.index(word) for word in sentence]])
        counts.add(ids, ids >= 0)
    grams, frequencies = counts.table(order)
    if not len(grams):
        raise ValueError(
            f"text = {text[:40]!r}: expected a sentence of {order} words at least; give more text or a lower order"
        )
    return [(tuple(words[i] for i in gram), n) for gram, n in zip(grams.tolist(), frequencies.tolist(), strict=True)]


def main(argv: list[str] | None = None) -> None:
    """Print the table of a text as a textbook shows it."""
    parser = Parser(description="Which words follow which, and how often.")
    parser.add_argument("text", help="sentences, ended by . ! or ?")
    parser.add_argument("--order", type=int, default=3, help="words in an n-gram (default 3)")
    args = parser.parse(argv)
    try:
        table = frequency_table(args.text, args.order)
    except ValueError as e:
        parser.error(str(e))
    heads = [*(f"word {i}" for i in range(1, args.order)), "next word", "frequency"]
    rows = [heads, *([*gram, str(n)] for gram, n in table)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for i, row in enumerate(rows):
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |")
        if i == 0:
            print("|-" + "-|-".join("-" * width for width in widths) + "-|")


if __name__ == "__main__":
    main()
