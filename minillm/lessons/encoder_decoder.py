"""Encoder-decoder: one stack of blocks reads a source text; another generates a target text and attends to the source.

    memory = embed(source) sqrt(D) + positions     encoder:  x = norm(x + sublayer(x)) for self-attention, MLP
    x      = embed(target) sqrt(D) + positions     decoder:  the same for causal self-attention, cross-attention, MLP
    logits = x embed^T                             a score for each next token of the target

In cross-attention the queries come from the target, keys and values from the memory of the source. Each target token
sees the whole source. One matrix embeds both texts and scores the output. This is the transformer as it was first
published, for translation, with post-norm and sinusoidal positions; the paper uses ReLU instead of GELU.

Paper: Vaswani et al. 2017, "Attention Is All You Need".
Read before: attention, positions, normalization, transformer_block.
Then read: minillm/models/encoder_decoder.py
Try: python train.py --config translate-tiny

Change it:
    - x = self.norm_2(x + self.cross(x, memory, causal=False))
    + x = self.norm_2(x)
Shown: step 120  loss of 32 new examples 1.6
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minillm.lessons.attention import MultiHeadAttention
from minillm.lessons.normalization import LayerNorm
from minillm.lessons.positions import sinusoidal
from minillm.lessons.transformer_block import PostNormBlock


class CrossBlock(PostNormBlock):
    """A block of the decoder: (B, T, D) and the memory (B, S, D) -> (B, T, D)."""

    def __init__(self, d_model: int, n_heads: int, d_ff: int):
        super().__init__(d_model, n_heads, d_ff)
        self.cross = MultiHeadAttention(d_model, n_heads)
        self.norm_3 = LayerNorm(d_model)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        x = self.norm_1(x + self.attention(x, x, causal=True))
        x = self.norm_2(x + self.cross(x, memory, causal=False))
        return self.norm_3(x + self.feedforward(x))


class Transformer(nn.Module):
    """Sources (B, S) and the targets so far (B, T) -> logits of the next target tokens (B, T, V)."""

    def __init__(self, vocab_size: int, d_model: int, n_heads: int, d_ff: int, n_layers: int):
        super().__init__()
        self.embed = nn.Embedding(vocab_size, d_model)
        nn.init.normal_(self.embed.weight, std=d_model**-0.5)
        self.encoder = nn.ModuleList(PostNormBlock(d_model, n_heads, d_ff) for _ in range(n_layers))
        self.decoder = nn.ModuleList(CrossBlock(d_model, n_heads, d_ff) for _ in range(n_layers))

    def read(self, tokens: Tensor) -> Tensor:
        vectors = self.embed(tokens)  # (B, T, D)
        T, D = vectors.shape[1:]
        return vectors * math.sqrt(D) + sinusoidal(T, D).to(vectors.dtype)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        memory, x = self.read(source), self.read(target)
        for block in self.encoder:
            memory = block(memory, causal=False)
        for block in self.decoder:
            x = block(x, memory)
        return x @ self.embed.weight.T


def main() -> None:
    """Learn to write four random digits in the reverse order."""
    torch.manual_seed(0)
    START = 5  # the token after the digits 0 to 4; every target begins with it
    model = Transformer(vocab_size=6, d_model=24, n_heads=2, d_ff=48, n_layers=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    print(f"a digit that must be guessed costs ln 5 = {math.log(5):.3f} nats")
    for step in range(121):
        source = torch.randint(5, (32, 4))  # (B, S)
        target = F.pad(source.flip(1), (1, 0), value=START)  # (B, T + 1)
        loss = F.cross_entropy(model(source, target[:, :-1]).flatten(0, 1), target[:, 1:].flatten())
        if step % 40 == 0:
            print(f"step {step:3}  loss of 32 new examples {loss.item():.1f}")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    source, written = torch.tensor([[3, 1, 4, 2]]), [START]
    for _ in range(4):
        logits = model(source, torch.tensor([written]))[0, -1]  # (V,)
        written.append(int(logits.argmax()))
    print("in: ", *source[0].tolist())
    print("out:", *written[1:])


if __name__ == "__main__":
    main()
