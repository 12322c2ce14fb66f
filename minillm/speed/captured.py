"""CUDA graphs: on a GPU, a decoder's step for a single token per row is recorded once and then replayed.

One token of a small model takes about a hundred kernels, and the processor needs longer to launch each than the GPU to
run it. A CUDA graph launches all of them with one call. A replay uses the recorded memory addresses. So inputs are
copied to fixed tensors, keys and values stay in fixed memory (`cache/fixed.py`), and no step may read a value from the
device, such as whether a token is EMPTY. Prompts are read without a graph. If a model cannot be recorded, it computes
as before, and one warning says so. Read `decoding/generate` before.

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
    """A `CachedState` with the recorded step for a single token, `step`; it is None before the first token."""

    step: "OneToken | None" = None


class Captured(nn.Module):
    """A `LanguageModel` that replays single-token steps; on devices other than GPUs it computes them normally."""

    start_options = frozenset({"cache"})
    head = None

    def __init__(self, model: Decoder):
        super().__init__()
        self.model, self.vocab_size, self.context_length = model, model.vocab_size, model.context_length

    def start(self, batch_size: int, cache: Callable[[], KVCache] | None = None) -> CapturedState:
        """See `Decoder.start`; the default cache stays at a fixed address."""
        state = self.model.start(batch_size, cache or partial(FixedCache, self.context_length))
        return CapturedState(batch_size, state.caches, state.lengths.device, self.context_length, relative=True)

    def forward(self, tokens: Tensor, state: CapturedState | None = None) -> tuple[Tensor, CapturedState | None]:
        """See `LanguageModel.__call__`. For single tokens the caller checks that no row exceeds the context length."""
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
    """The step that reads one more token of each row, always in the same memory."""

    def __init__(self, model: Decoder, tokens: Tensor, state: CachedState):
        self.model, self.caches, self.held = model, state.caches, [cache.k for cache in state.caches]
        self.weights = _addresses(model)
        self.tokens, self.lengths = tokens.clone(), state.lengths.clone()
        self.replay: Callable[[], Tensor] = self.compute
        if tokens.is_cuda:
            self._record()

    def fits(self, tokens: Tensor, state: CachedState) -> bool:
        """Whether the number of rows is the same, and neither the caches nor the weights have moved in memory."""
        stayed = all(cache.k is k for cache, k in zip(state.caches, self.held, strict=True))
        return stayed and len(tokens) == len(self.tokens) and self.weights == _addresses(self.model)

    def __call__(self, tokens: Tensor, state: CachedState) -> Tensor:
        """Read tokens (B, 1), EMPTY in rows without one -> logits (B, 1, V); updates the state."""
        self.tokens.copy_(tokens)
        self.lengths.copy_(state.lengths)
        logits = self.replay().clone()
        state.lengths = state.lengths + (tokens[:, 0] >= 0)
        return logits

    def compute(self) -> Tensor:
        """The step itself. Its operations do not depend on the values in tensors, and repeating it has no effect."""
        with torch.inference_mode(False):  # subtle: as in `positions_of`
            ids = self.lengths[:, None].where(self.tokens >= 0, EMPTY)
        # subtle: declared dense although rows may be EMPTY, since checking would read from the device; `FixedCache`
        # does not rely on it
        return self.model.head(self.model.read(self.tokens.clamp(min=0), Positions(ids, dense=True), self.caches))

    def _record(self) -> None:
        """Record `compute`, after one run on a side stream that creates everything that is created only once."""
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
    """Memory addresses of the weights."""
    return [parameter.data_ptr() for parameter in model.parameters()]
