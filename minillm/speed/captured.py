"""CUDA graphs: on a GPU, the step of a decoder for a single token a row is recorded once and then replayed.

A small model's token is some hundred kernels, each of which takes the processor longer to launch than the GPU to run. A
CUDA graph launches all of them with one call. It repeats what was recorded, address by address: so what goes in is
copied to where it was, keys and values stay where they are (`cache/fixed.py`), and no step may ask the device for
anything, such as whether a token is EMPTY. Prompts are read as ever. Where a model cannot be recorded, it computes as
before, and one warning says so. Read `decoding/generate` before.

Gain: not measured on a GPU yet (`python -m benchmarks.cuda`).
"""

import warnings
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from minillm.cache.fixed import FixedCache
from minillm.cache.kv_cache import KVCache, Positions
from minillm.constants import EMPTY
from minillm.models.cached_state import CachedState
from minillm.models.decoder import Decoder


class CapturedState(CachedState):
    """Beside the caches, what replays the step of a single token; None before the first."""

    step: "OneToken | None" = None


class Captured(nn.Module):
    """A `LanguageModel`. On other devices than GPUs its steps are computed anew, and are the same."""

    start_options = frozenset({"cache"})
    head = None

    def __init__(self, model: Decoder):
        super().__init__()
        self.model, self.vocab_size, self.context_length = model, model.vocab_size, model.context_length

    def start(self, batch_size: int, cache: Callable[[], KVCache] | None = None) -> CapturedState:
        """See `Decoder.start`; the cache is one that stays where it is."""
        state = self.model.start(batch_size, cache or partial(FixedCache, self.context_length))
        return CapturedState(batch_size, state.caches, state.lengths.device, self.context_length, relative=True)

    def forward(self, tokens: Tensor, state: CapturedState | None = None) -> tuple[Tensor, CapturedState | None]:
        """See `LanguageModel.__call__`. For a single token the caller checks that no row outgrows the context."""
        if (
            state is None
            or tokens.shape[1] != 1
            or not all(isinstance(cache, FixedCache) and cache.k.dim() == 4 for cache in state.caches)
        ):
            return self.model(tokens, state)
        if state.step is None or not state.step.fits(tokens, state):
            state.step = OneToken(self.model, tokens, state)
        return state.step(tokens, state), state


class OneToken:
    """Reads one more token of each row, always in the same memory."""

    def __init__(self, model: Decoder, tokens: Tensor, state: CachedState):
        self.model, self.caches, self.held = model, state.caches, [cache.k for cache in state.caches]
        self.weights = _addresses(model)
        self.tokens, self.lengths = tokens.clone(), state.lengths.clone()
        self.replay: Callable[[], Tensor] = self.compute
        if tokens.is_cuda:
            self._record()

    def fits(self, tokens: Tensor, state: CachedState) -> bool:
        """Whether it reads as many rows, and neither their caches nor the weights have moved."""
        stayed = all(cache.k is k for cache, k in zip(state.caches, self.held, strict=True))
        return stayed and len(tokens) == len(self.tokens) and self.weights == _addresses(self.model)

    def __call__(self, tokens: Tensor, state: CachedState) -> Tensor:
        """The logits (B, 1, V) after tokens (B, 1), EMPTY where none is read; the state has read them."""
        self.tokens.copy_(tokens)
        self.lengths.copy_(state.lengths)
        logits = self.replay().clone()
        state.lengths = state.lengths + (tokens[:, 0] >= 0)
        return logits

    def compute(self) -> Tensor:
        """The step itself: nothing in it depends on what the tensors hold, and to repeat it changes nothing."""
        with torch.inference_mode(False):  # subtle: as in `positions_of`
            ids = self.lengths[:, None].where(self.tokens >= 0, EMPTY)
        # subtle: called dense although rows may be EMPTY, since to look would ask the device; `FixedCache` does not
        # rely on it
        return self.model.head(self.model.read(self.tokens.clamp(min=0), Positions(ids, dense=True), self.caches))

    def _record(self) -> None:
        """Record `compute`, after it has run beside the stream of other work, so that all it makes once is made."""
        graph, beside = torch.cuda.CUDAGraph(), torch.cuda.Stream()
        try:
            beside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(beside):
                self.compute()
            torch.cuda.current_stream().wait_stream(beside)
            with torch.cuda.graph(graph):
                logits = self.compute()
        except RuntimeError as error:
            warnings.warn(f"single tokens are not captured in a CUDA graph: {error}", stacklevel=2)
            return

        def replay() -> Tensor:
            graph.replay()
            return logits

        self.replay = replay


def _addresses(model: nn.Module) -> list[int]:
    """Addresses of the weights."""
    return [parameter.data_ptr() for parameter in model.parameters()]
