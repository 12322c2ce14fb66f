"""Decoders small enough for exact comparison: float64, weights far from zero, all dimensions different."""

from collections.abc import Callable

import torch
from torch import nn

from minillm.models.decoder import Decoder, DecoderConfig

VOCAB = 23
N_HEADS = 6

SHAPES = {  # one of each mechanism, and each in more than one company
    "gpt": {
        "positions": "learned",
        "norm": "layernorm",
        "feedforward": "gelu",
        "bias": True,
        "d_model": 30,
        "d_head": 0,
    },
    "llama": {"feedforward": "swiglu", "n_kv_heads": 2, "tied": False, "norm_eps": 1e-3},
    "normed queries": {"qk_norm": True, "n_kv_heads": 1},
    "post-norm": {
        "positions": "sinusoidal",
        "norm_place": "post",
        "norm": "layernorm",
        "feedforward": "relu",
        "n_kv_heads": 3,
    },
    "no positions": {"positions": "none", "bias": True},
    "alibi": {"positions": "alibi", "n_kv_heads": 3},
    "window": {"window": 5, "n_kv_heads": 2},
    "value embeddings": {"value_embeddings": True, "n_kv_heads": 3},
    "n-gram embeddings": {"ngram_rows": 53, "n_kv_heads": 2},
    "experts": {"n_experts": 5, "n_experts_per_token": 2, "n_kv_heads": 2},
    "one expert and a shared one": {
        "feedforward": "swiglu",
        "n_experts": 3,
        "n_experts_per_token": 1,
        "n_shared_experts": 1,
    },
    "gemma": {
        "norm": "offset-rmsnorm",
        "norm_place": "both",
        "qk_norm": True,
        "feedforward": "geglu",
        "scale_embedding": True,
        "window": 5,
        "global_every": 2,
        "local_base": 97.0,
        "n_kv_heads": 2,
    },
    "gpt-oss": {
        "bias": True,
        "sinks": True,
        "feedforward": "clamped-swiglu",
        "n_experts": 3,
        "window": 5,
        "global_every": 2,
        "rotary_scaling": "yarn",
        "rotary_factor": 3.0,
        "rotary_trained_length": 17,
        "n_kv_heads": 2,
    },
}


def config(**changes) -> DecoderConfig:
    """Two layers of six heads of four, in a stream of ten."""
    sizes = {
        "n_layers": 2,
        "d_model": 10,
        "n_heads": N_HEADS,
        "d_head": 4,
        "d_ff": 17,
        "context_length": 32,
        "init_std": 0.4,
    }
    return DecoderConfig(**(sizes | changes))


def decoder(seed: int = 0, **changes) -> Decoder:
    """In evaluation mode; biases and norms are random too, or nobody would notice one that is missing."""
    torch.manual_seed(seed)
    model = Decoder(config(**changes), VOCAB).double().eval()
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.3 * torch.randn_like(parameter)
    return model


def tokens(B: int, T: int, seed: int = 0) -> torch.Tensor:
    """Random ids."""
    return torch.randint(VOCAB, (B, T), generator=torch.Generator().manual_seed(seed))


def assert_equal(a: torch.Tensor, b: torch.Tensor) -> None:
    """The same up to the last digits of float64."""
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def assert_equal_with_gradients(
    outs: tuple[torch.Tensor, torch.Tensor],
    mine: nn.Module,
    theirs: nn.Module,
    renamed: Callable[[str], str] = lambda name: name,
) -> None:
    """The two outputs are equal, and so are the gradients of a random sum; `renamed` maps my names to theirs."""
    assert_equal(*outs)
    direction = torch.randn_like(outs[0])
    for out in outs:
        (out * direction).sum().backward()
    others = dict(theirs.named_parameters())
    for name, parameter in mine.named_parameters():
        assert_equal(parameter.grad, others[renamed(name)].grad)


def assert_reads_on(model, state, rows: list[list[int]], chunk: torch.Tensor) -> None:
    """A chunk gives each row the same logits as its whole text read alone without a state; `rows` grow."""
    logits, same = model(chunk, state)
    assert same is state and logits.shape == (*chunk.shape, model.vocab_size)
    for row, new, out in zip(rows, chunk, logits, strict=True):
        row += new[new >= 0].tolist()
        if (new >= 0).any():
            fresh = model(torch.tensor([row]))[0][0]
            assert_equal(out[new >= 0], fresh[-int((new >= 0).sum()) :])
    assert state.lengths.tolist() == [len(row) for row in rows]


def flags(settings: dict[str, object], **more: object) -> list[str]:
    """A command line of settings and changes to them, whose sections are joined to keys by two underscores."""
    settings = settings | {name.replace("__", "."): value for name, value in more.items()}
    return [word for name, value in settings.items() for word in (f"--{name}", str(value))]
