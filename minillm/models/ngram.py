"""The n-gram model: predict the next token from the last n - 1 tokens, by counts of n-grams (Shannon 1948).

    P(w | h) = c(h w) / c(h), smoothed,     h = the last n - 1 tokens

Training only counts: no weights, no gradient, one pass over the text. Logits are log probabilities, which are
normalized after every context, seen or not; before anything is counted they are uniform. END is an ordinary token. No
n-gram is counted across two documents, so a context with an END inside was never seen, and the model uses the part of
it that begins with END. Read before: `ngram_counts`, `smoothing`.

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

ROWS = 256  # contexts looked up at once; limits the memory for their (ROWS, V) probabilities


@dataclass(frozen=True)
class NgramConfig:
    """The order of an n-gram model, and its smoothing."""

    kind: Literal["ngram"] = "ngram"  # what the model is
    order: Positive = 3  # n: length of an n-gram, the next token and n - 1 before it
    smoothing: Annotated[str, Choice(SMOOTHINGS)] = "kneser-ney"  # rule for the probability of unseen n-grams
    discount: Annotated[float, Above(0), AtMost(1)] = 0.75  # of kneser-ney: subtracted from each count
    k: Annotated[float, Above(0)] = 0.01  # of add-k: added to each count
    backoff: Annotated[float, Above(0), AtMost(1)] = 0.4  # of stupid-backoff: factor for each token of context dropped
    context_length: Positive = 256  # tokens in a row of a training batch; generated text may be longer

    def __post_init__(self) -> None:
        validate(self)
        for owner, (_, name) in SMOOTHINGS.items():
            if self.smoothing != owner and getattr(self, name) != getattr(NgramConfig, name):
                raise ValueError(
                    f"model.{name} = {getattr(self, name)}: expected none, "
                    f"since model.smoothing = {self.smoothing} does not use it; leave it out or choose {owner}"
                )


class NgramState:
    """The tokens that each row has read: n - 1 for the next prediction, all others so that `truncate` can go back."""

    context_length = None
    rollback: Rollback = "truncate"

    def __init__(self, batch_size: int, reach: int, device: torch.device):
        self.lengths = torch.zeros(batch_size, dtype=torch.long, device=device)
        self.reach = reach
        self.tokens = torch.full((batch_size, reach), EMPTY, device=device)  # (B, reach + S): EMPTY, then tokens read

    def read(self, tokens: Tensor) -> Tensor:
        """Append tokens (B, T) without EMPTY; return the context of each place, (B, T, n - 1), EMPTY on the left."""
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
        self.register_buffer("like", torch.zeros(()), persistent=False)  # for the device and dtype of the logits

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
        """P(w | h) for contexts (N, n - 1), shorter ones with EMPTY on the left: (N, V) float64."""
        self._weigh()
        p = self.like.new_full((1, self.vocab_size), 1 / self.vocab_size, dtype=torch.float64)
        p = self.smooth(p, self.counts.followers(contexts.new_empty(1, 0))).expand(len(contexts), -1)
        for n_tokens in range(1, self.config.order):
            p = self.smooth(p, self.counts.followers(contexts[:, -n_tokens:]))
        return self.smooth.normalize(p)

    def count(self, batch: Batch) -> int:
        """Count all n-grams of a batch that end in a target; return the number of targets."""
        text, counted = _text(*batch)
        self.counts.add(text, counted)
        return int(counted.sum())

    def _weigh(self) -> None:
        """Compute the counts that smoothing uses, if n-grams were counted or loaded since the last time."""
        levels = self.counts.levels
        if any(level.weights is None for level in levels):
            for level, weights in zip(levels, self.smooth.weights(self.counts), strict=True):
                level.weights = weights


def _text(tokens: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The texts of a batch (B, T) without EMPTY inside, (B, T + 1) int, and a mask of the targets, (B, T + 1) bool."""
    filled, (B, T) = tokens >= 0, tokens.shape
    learned = filled & (targets != IGNORE)
    # a target is one place after its token; places without a token go to the last column, which is dropped
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
    """The n-grams of words within sentences, sorted alphabetically, with their counts.

    Raises ValueError for an order below 1, and if no sentence has `order` words.
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
            f"text = {text[:40]!r}: expected a sentence of at least {order} words; give more text or a lower order"
        )
    return [(tuple(words[i] for i in gram), n) for gram, n in zip(grams.tolist(), frequencies.tolist(), strict=True)]


def main(argv: list[str] | None = None) -> None:
    """Print the n-gram table of a text."""
    parser = Parser(description="Count the n-grams of words in a text.")
    parser.add_argument("text", help="sentences that end with . ! or ?")
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
