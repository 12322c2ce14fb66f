"""Small models of every architecture, and an adapter of every kind, trained as far as random numbers are training."""

import torch
from torch import nn

from minillm.adapters.adapter import Adapter
from minillm.adapters.bitfit import BitFitConfig
from minillm.adapters.bottleneck import BottleneckConfig
from minillm.adapters.build_adapter import add_adapter
from minillm.adapters.dora import DoRAConfig
from minillm.adapters.ia3 import IA3Config
from minillm.adapters.lora import LoRAConfig
from minillm.adapters.prefix import PrefixConfig
from minillm.adapters.soft_prompt import SoftPromptConfig
from minillm.models.encoder import Encoder, EncoderConfig
from minillm.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from tests.tiny import SHAPES, VOCAB, decoder, tokens

KINDS: dict[str, Adapter] = {
    "lora": LoRAConfig(rank=3, targets=("to_*", "up", "down")),
    "lora with new tokens": LoRAConfig(rank=2, targets=("to_v",), rows=(5, 19)),
    "dora": DoRAConfig(rank=3, targets=("to_*",)),
    "bottleneck": BottleneckConfig(width=3),
    "ia3": IA3Config(),
    "bitfit": BitFitConfig(),
    "prefix": PrefixConfig(length=5),
    "computed prefix": PrefixConfig(length=3, d_hidden=7),
    "soft prompt": SoftPromptConfig(length=5),
}
VIRTUAL = ("prefix", "computed prefix", "soft prompt")  # kinds with virtual tokens
MERGING = ("lora", "lora with new tokens", "dora", "ia3", "bitfit")


def encoder() -> Encoder:
    torch.manual_seed(3)
    sizes = {"n_layers": 2, "d_model": 14, "n_heads": 2, "d_ff": 17, "context_length": 32}
    return loud(Encoder(EncoderConfig(**sizes, init_std=0.4), VOCAB - 1))


def translator() -> EncoderDecoder:
    torch.manual_seed(4)
    sizes = {"n_layers": 2, "d_model": 12, "n_heads": 3, "d_ff": 17, "context_length": 32}
    return loud(EncoderDecoder(EncoderDecoderConfig(**sizes, dropout=0.0), VOCAB))


def loud(model: nn.Module) -> nn.Module:
    """In float64 and evaluation mode, with random biases and norms."""
    model = model.double().eval()
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.3 * torch.randn_like(parameter)
    return model


MODELS = {name: lambda shape=shape: decoder(**shape) for name, shape in SHAPES.items()} | {
    "encoder": encoder,
    "encoder-decoder": translator,
}


def suits(kind: str, name: str) -> bool:
    """Whether a kind of adapter is for a model."""
    return kind != "soft prompt" or name in SHAPES


OFTEN = ("gpt", "llama", "value embeddings", "experts", "gemma", "gpt-oss", "encoder", "encoder-decoder")
PAIRS = [(kind, name) for kind in KINDS for name in OFTEN if suits(kind, name)]


def logits(model: nn.Module, B: int = 2, T: int = 9, seed: int = 0) -> torch.Tensor:
    """Of random tokens, and of a random source if the model has one."""
    more = {"source": tokens(B, 7, seed=seed + 1)} if isinstance(model, EncoderDecoder) else {}
    found = model(tokens(B, T, seed), **more)
    return found[0] if isinstance(found, tuple) else found


def train_a_little(model: nn.Module, seed: int = 5) -> nn.Module:
    """Random changes of all trained numbers, as after training."""
    torch.manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.4 * torch.randn_like(parameter)
    return model


def adapted(adapter: Adapter, build=decoder, fresh: bool = False) -> nn.Module:
    """A model with an adapter; not fresh: trained a little."""
    model = add_adapter(build(), adapter).eval()
    return model if fresh else train_a_little(model)
