"""A small decoder with widths that are multiples of the group size."""

import torch

from minillm.models.decoder import Decoder, DecoderConfig

GPT = {"positions": "learned", "norm": "layernorm", "feedforward": "gelu", "bias": True}


def small(vocab_size: int = 23, **changes) -> Decoder:
    """Two layers of two heads in a stream of 64, float32, in evaluation mode; norms and biases are random too."""
    torch.manual_seed(0)
    shape = {
        "n_layers": 2,
        "d_model": 64,
        "n_heads": 2,
        "d_ff": 192,
        "context_length": 32,
        "init_std": 0.1,
        "init_embed": 0.3,
    }
    model = Decoder(DecoderConfig(**(shape | GPT | changes)), vocab_size).eval()
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.2 * torch.randn_like(parameter)
    return model
