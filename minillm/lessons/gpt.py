"""GPT: a stack of causal transformer blocks that, at each place of a text, gives every possible next token a score.

    x = embed(token) + embed_positions(place)
    x = block(x)                                 once for each block; no token sees a later one
    logits = norm(x) embed^T                     softmax(logits): the probabilities of the next token

One matrix embeds the input tokens and scores the next ones (tied weights). With small initial weights the predictions
are uniform, so an untrained model has a loss of ln V. Every place of a text is a training example: its target is the
following token, and thanks to the causal mask one forward pass trains on all places.

Paper: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners" (GPT-2).
Read before: transformer_block, normalization, training_loop.
Then read: minillm/models/decoder.py
Try: python train.py --config gpt-tiny

Change it:
    - tokens, targets = windows[:, :-1], windows[:, 1:]
    + tokens, targets = windows[:, :-1], windows[:, :-1]
Shown: one tttttttttttt
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minillm.lessons.normalization import LayerNorm
from minillm.lessons.transformer_block import PreNormBlock


class GPT(nn.Module):
    """Tokens (B, T) -> logits (B, T, V)."""

    def __init__(self, vocab_size: int, context_length: int, d_model: int, n_heads: int, n_layers: int):
        super().__init__()
        self.embed = nn.Embedding(vocab_size, d_model)
        self.embed_positions = nn.Embedding(context_length, d_model)
        self.blocks = nn.ModuleList(PreNormBlock(d_model, n_heads, 4 * d_model) for _ in range(n_layers))
        self.norm = LayerNorm(d_model)
        for parameter in self.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        places = torch.arange(tokens.shape[1])  # (T,)
        x = self.embed(tokens) + self.embed_positions(places)  # (B, T, D)
        for block in self.blocks:
            x = block(x, causal=True)
        return self.norm(x) @ self.embed.weight.T


def main() -> None:
    """Train a GPT of 26,000 parameters to count from one to ten, character by character, and generate text with it."""
    torch.manual_seed(0)
    text = "one two three four five six seven eight nine ten one two "
    characters = sorted(set(text))
    ids = torch.tensor([characters.index(character) for character in text])
    windows = ids.unfold(0, 9, 1)  # (B, T + 1): every piece of 9 characters
    tokens, targets = windows[:, :-1], windows[:, 1:]
    print(f"in:      {len(windows)} windows such as {text[:8]!r}, each character an id from 0 to {len(characters) - 1}")
    print(f"targets: the same, shifted by one place: {text[1:9]!r}")

    model = GPT(len(characters), context_length=8, d_model=32, n_heads=2, n_layers=2)
    print(f"out:     logits (B, T, V) = {tuple(model(tokens).shape)}")
    print(f"a uniform guess costs ln {len(characters)} = {math.log(len(characters)):.3f} nats for each character")
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for step in range(121):
        loss = F.cross_entropy(model(tokens).flatten(0, 1), targets.flatten())
        if step % 40 == 0:
            print(f"step {step:3}  loss {loss.item():.3f}")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print("the remaining loss is at the first characters of the windows, which have too little context")

    written = [characters.index(character) for character in "one t"]
    for _ in range(48):
        logits = model(torch.tensor([written[-8:]]))[0, -1]  # (V,)
        written.append(int(logits.argmax()))
    print("the most probable text after 'one t':", "".join(characters[i] for i in written))


if __name__ == "__main__":
    main()
