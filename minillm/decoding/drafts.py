"""Drafters: a smaller model, an n-gram table, or the text itself proposes the next tokens.

A drafter names for each token that it guesses the distribution q that it was drawn from; that is all that `speculative`
needs to know to make good any guess, so a drafter may be anything. A model drafts through the sampler of the target,
with the history that each place would have, so that q is cut and bent as p is (Leviathan et al. 2023). The text itself
is a drafter where it repeats itself: what followed the last few tokens when they stood there before is likely to follow
again (prompt lookup, Saxena 2023); its q is certain of one token. Read `reader` first.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minillm.config.fields import Positive, validate
from minillm.constants import EMPTY
from minillm.decoding.reader import Reader
from minillm.decoding.sampler import Sampler
from minillm.models.evaluating import evaluating
from minillm.models.language_model import LanguageModel, State
from minillm.models.ngram_counts import Level

LEAST_COST = 0.1  # of a drafted token, in calls of the target: neither a call of the smallest model nor reading one more token is free
LAYER = 20_000  # weights that are read in the time that calling a layer takes
LOOK_UP = 15  # layers that looking up an n-gram of one length is worth


class Draft(NamedTuple):
    """Guesses of the next K tokens of each row."""

    tokens: Tensor  # (B, K) long; EMPTY from where a row has no more
    probs: Tensor  # (B, K, V) float64: the distribution that each was drawn from; 0 where there is none

    def trimmed(self) -> "Draft":
        """The draft without the last columns, in which no row has a token: they would be read for nothing."""
        K = int((self.tokens >= 0).any(0).sum())
        return Draft(self.tokens[:, :K], self.probs[:, :K])


class Drafting(Protocol):
    """A drafter at work on a batch."""

    def propose(self, texts: Tensor, lengths: Tensor, wanted: Tensor, sampler: Sampler, uniforms: Tensor) -> Draft:
        """Go on after the first `lengths` (B,) tokens of texts (B, S), EMPTY behind them, with at most `wanted` (B,) tokens each.

        uniforms: (B, K), one for each draw; S leaves room for the K tokens.
        """
        ...

    def back(self, texts: Tensor, lengths: Tensor) -> None:
        """Have read no more than the first `lengths` (B,) tokens of texts (B, S): the others were rejected."""
        ...

    def reorder(self, rows: Tensor) -> None:
        """Row i becomes what row `rows[i]` was; the batch may shrink."""
        ...


class Drafter(Protocol):
    """A source of drafted tokens."""

    vocab_size: int  # that of the target
    context_length: int | None  # most tokens of a text that it can go on with; None is no limit
    cost: float  # of a drafted token, in calls of the target

    def begin(self, batch_size: int) -> AbstractContextManager[Drafting]:
        """A batch that has read nothing."""
        ...


class ModelDrafter:
    """Drafts with a language model: a smaller one, or an n-gram table."""

    def __init__(self, model: LanguageModel, cost: float = LEAST_COST, start: Callable[[int], State] | None = None):
        """`cost`: see `relative_cost`. `start` makes the first state of a batch, `model.start` unless given."""
        self.model, self.cost, self.start = model, cost, start or model.start
        self.vocab_size, self.context_length = model.vocab_size, model.context_length

    @contextmanager
    def begin(self, batch_size: int) -> Iterator[Drafting]:
        """See `Drafter.begin`. The model is in eval mode meanwhile. Raises ValueError for a state that cannot go back."""
        with evaluating(self.model):
            yield ModelDrafting(self.model, self.start(batch_size))


class ModelDrafting(Reader):
    """A `Drafting`: one call of the model a token, and no waiting for what it says."""

    def propose(self, texts: Tensor, lengths: Tensor, wanted: Tensor, sampler: Sampler, uniforms: Tensor) -> Draft:
        """See `Drafting.propose`. A row ends early where the sampler leaves no token at all."""
        (B, K), V = uniforms.shape, self.model.vocab_size
        tokens, probs = texts.new_full((B, K), EMPTY), uniforms.new_zeros(B, K, V)
        going, history = wanted >= 0, texts.clone()
        for i in range(K):
            logits = self.read(texts, lengths)[:, -1] if i == 0 else self.push(tokens[:, i - 1])
            q, drawn, possible = sampler.guess(logits, history, uniforms[:, i])
            going = going & (i < wanted) & possible
            tokens[:, i] = drawn.where(going, EMPTY)
            probs[:, i] = q.where(going[:, None], 0.0)
            history.scatter_(1, lengths[:, None] + i, tokens[:, i, None])
        return Draft(tokens, probs)


@dataclass(frozen=True)
class PromptLookup:
    """Drafts what followed the last `longest` tokens, or else fewer, where they stood in the text last."""

    vocab_size: Positive  # that of the target
    longest: Positive = 3  # tokens that are looked up first
    cost: float = LEAST_COST  # of a drafted token, in calls of the target
    context_length = None

    def __post_init__(self) -> None:
        validate(self)

    @contextmanager
    def begin(self, batch_size: int) -> Iterator[Drafting]:
        """See `Drafter.begin`. It remembers nothing."""
        yield self

    def propose(self, texts: Tensor, lengths: Tensor, wanted: Tensor, sampler: Sampler, uniforms: Tensor) -> Draft:
        """See `Drafting.propose`. Where the copy reaches the end of the text it goes on with its own beginning, as a loop would."""
        step = torch.arange(uniforms.shape[1], device=texts.device)  # (K,)
        after = torch.zeros_like(lengths)  # where the copy begins; 0: nothing was found
        for n in range(min(self.longest, texts.shape[1] - 1), 0, -1):
            tail = texts.gather(1, (lengths[:, None] + torch.arange(-n, 0, device=texts.device)).clamp(min=0))
            windows = texts.unfold(1, n, 1)  # (B, S - n + 1, n)
            ends = n + torch.arange(windows.shape[1], device=texts.device)  # the places after them
            same = (windows == tail[:, None]).all(-1) & (ends < lengths[:, None])
            after = after.where(after > 0, (ends * same).amax(1))
        period = (lengths - after)[:, None]
        tokens = texts.gather(1, after[:, None] + step % period)
        tokens = tokens.where((after[:, None] > 0) & (step < wanted[:, None]), EMPTY)
        certain = F.one_hot(tokens.clamp(min=0), self.vocab_size) * (tokens >= 0)[..., None]
        return Draft(tokens, certain.to(uniforms.dtype))

    def back(self, texts: Tensor, lengths: Tensor) -> None:
        """See `Drafting.back`."""

    def reorder(self, rows: Tensor) -> None:
        """See `Drafting.reorder`."""


def relative_cost(draft: LanguageModel, target: LanguageModel) -> float:
    """The cost of a drafted token in calls of the target: the ratio of their efforts, LEAST_COST at least.

    An effort is a count and no clock, since sampled text depends on it (see `draft_length`): a weight is read once, but
    of an embedding hardly any, and to call a layer takes as long as to read LAYER weights. An n-gram table is looked up
    once for each of its lengths, and each look-up takes as long as LOOK_UP layers.
    """
    return max(LEAST_COST, _effort(draft) / max(_effort(target), 1))


def _effort(model: LanguageModel) -> int:
    if not isinstance(model, nn.Module):
        return 0
    layers = [module for module in model.modules() if any(True for _ in module.parameters(recurse=False))]
    read = {p for layer in layers if not isinstance(layer, nn.Embedding) for p in layer.parameters(recurse=False)}
    n_layers = len(layers) + LOOK_UP * sum(isinstance(module, Level) for module in model.modules())
    return sum(p.numel() for p in read) + LAYER * n_layers
