"""Drafters: a smaller model, an n-gram table, or the text itself proposes the next tokens.

A drafter reports, for each drafted token, the distribution q that it was drawn from. `speculative` needs nothing else,
so any source of tokens can draft. A model drafts through the sampler of the target, with the history of each place, so
q is transformed in the same way as p (Leviathan et al. 2023). A text that repeats itself can draft too: the tokens that
followed an earlier occurrence of its last few tokens are likely to follow again (prompt lookup, Saxena 2023); there q
is 1 for one token. Read before: `reader`.
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
from minillm.models.language_model import LanguageModel, State, evaluating
from minillm.models.ngram_counts import Level

LEAST_COST = 0.1  # least cost of a drafted token, in calls of the target: drafting and checking it is never free
LAYER = 20_000  # overhead of calling a layer, as the number of weights that could be read in that time
LOOK_UP = 15  # cost of looking up an n-gram of one length, in layer calls


class Draft(NamedTuple):
    """Drafted next tokens of each row, at most K."""

    tokens: Tensor  # (B, K) long; EMPTY after the last drafted token of a row
    probs: Tensor  # (B, K, V) float64: the distribution q of each token; 0 at EMPTY tokens

    def trimmed(self) -> "Draft":
        """The draft without trailing columns that are EMPTY in all rows, which the target would read for nothing."""
        K = int((self.tokens >= 0).any(0).sum())
        return Draft(self.tokens[:, :K], self.probs[:, :K])


class Drafting(Protocol):
    """A drafter with its state for one batch."""

    def propose(self, texts: Tensor, lengths: Tensor, wanted: Tensor, sampler: Sampler, uniforms: Tensor) -> Draft:
        """Draft at most `wanted` (B,) tokens a row, after the first `lengths` (B,) tokens of texts (B, S).

        Texts are EMPTY beyond `lengths`, with room for K tokens. uniforms: (B, K), one for each draw.
        """
        ...

    def back(self, texts: Tensor, lengths: Tensor) -> None:
        """Roll back to the first `lengths` (B,) tokens of texts (B, S): the tokens after them were rejected."""
        ...

    def reorder(self, rows: Tensor) -> None:
        """Row i becomes the former row `rows[i]`; the batch may shrink."""
        ...


class Drafter(Protocol):
    """A source of drafted tokens."""

    vocab_size: int  # same as the target's
    context_length: int | None  # maximum length of a text that it can extend, in tokens; None: no limit
    cost: float  # of a drafted token, in calls of the target

    def begin(self, batch_size: int) -> AbstractContextManager[Drafting]:
        """A context with the state of a new batch that has read nothing."""
        ...


class ModelDrafter:
    """Drafts with a language model: a smaller one, or an n-gram model."""

    def __init__(self, model: LanguageModel, cost: float = LEAST_COST, start: Callable[[int], State] | None = None):
        """`cost`: see `relative_cost`. `start` makes the first state of a batch; default: `model.start`."""
        self.model, self.cost, self.start = model, cost, start or model.start
        self.vocab_size, self.context_length = model.vocab_size, model.context_length

    @contextmanager
    def begin(self, batch_size: int) -> Iterator[Drafting]:
        """See `Drafter.begin`. Evaluation mode inside. Raises ValueError for a state without rollback."""
        with evaluating(self.model):
            yield ModelDrafting(self.model, self.start(batch_size))


class ModelDrafting(Reader):
    """A `Drafting` that calls the model once for each token, without waiting for the device."""

    def propose(self, texts: Tensor, lengths: Tensor, wanted: Tensor, sampler: Sampler, uniforms: Tensor) -> Draft:
        """See `Drafting.propose`. A row gets fewer tokens if the sampler bans every token."""
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
    """Drafts the tokens that followed the latest earlier occurrence of the last `longest` tokens, or of fewer."""

    vocab_size: Positive  # same as the target's
    longest: Positive = 3  # tokens to look up; if they do not occur before, one fewer, down to 1
    cost: float = LEAST_COST  # of a drafted token, in calls of the target
    context_length = None

    def __post_init__(self) -> None:
        validate(self)

    @contextmanager
    def begin(self, batch_size: int) -> Iterator[Drafting]:
        """See `Drafter.begin`. There is no state."""
        yield self

    def propose(self, texts: Tensor, lengths: Tensor, wanted: Tensor, sampler: Sampler, uniforms: Tensor) -> Draft:
        """See `Drafting.propose`. A copy that reaches the end of the text continues with its own first tokens."""
        step = torch.arange(uniforms.shape[1], device=texts.device)  # (K,)
        after = torch.zeros_like(lengths)  # start of the copy; 0: nothing found
        for n in range(min(self.longest, texts.shape[1] - 1), 0, -1):
            tail = texts.gather(1, (lengths[:, None] + torch.arange(-n, 0, device=texts.device)).clamp(min=0))
            windows = texts.unfold(1, n, 1)  # (B, S - n + 1, n)
            ends = n + torch.arange(windows.shape[1], device=texts.device)  # the place after each window
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
    """The cost of a drafted token in calls of the target: the ratio of the two models' efforts, at least LEAST_COST.

    An effort is counted, not timed, since sampled text depends on it (see `draft_length`). Each weight counts 1, except
    in an embedding, of which a call reads few rows; and each layer counts LAYER more. An n-gram model counts LOOK_UP
    layers for each length of n-gram.
    """
    return max(LEAST_COST, _effort(draft) / max(_effort(target), 1))


def _effort(model: LanguageModel) -> int:
    if not isinstance(model, nn.Module):
        return 0
    layers = [module for module in model.modules() if any(True for _ in module.parameters(recurse=False))]
    read = {p for layer in layers if not isinstance(layer, nn.Embedding) for p in layer.parameters(recurse=False)}
    n_layers = len(layers) + LOOK_UP * sum(isinstance(module, Level) for module in model.modules())
    return sum(p.numel() for p in read) + LAYER * n_layers
