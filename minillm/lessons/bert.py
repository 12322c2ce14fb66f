"""BERT: a transformer in which each token sees the text on both sides, trained to predict masked tokens.

    x = norm(embed(token) + embed_positions(place) + embed_segments(segment))
    x = block(x)                                             once for each block; every token sees every other
    logits = norm(gelu(dense(x))) embed^T + bias             at each place, a score for each token of the vocabulary

Some tokens of a text are chosen, 15 % in the paper, and replaced by [MASK] (10 % of them by a random token, 10 %
stay); the loss is the cross-entropy of the true tokens at these places only. Since it reads both sides, BERT cannot
generate text from left to right; it is fine-tuned for other tasks, such as classifying texts. Segments distinguish the
first text of a pair from the second.

Paper: Devlin et al. 2019, "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding".
Read before: gpt, transformer_block, normalization.
Then read: minillm/models/encoder.py, minillm/models/heads.py, minillm/datasets/masking.py
Try: python train.py --config encoder-tiny

Change it:
    - x = block(x, causal=False)
    + x = block(x, causal=True)
Shown: the [MASK] barks    cat 0.3    cow 0.3    dog 0.3
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minillm.lessons.normalization import LayerNorm
from minillm.lessons.transformer_block import PostNormBlock, gelu


class BERT(nn.Module):
    """Tokens and segments (B, T) -> logits (B, T, V)."""

    def __init__(self, vocab_size: int, context_length: int, d_model: int, n_heads: int, d_ff: int, n_layers: int):
        super().__init__()
        self.embed = nn.Embedding(vocab_size, d_model)
        self.embed_positions = nn.Embedding(context_length, d_model)
        self.embed_segments = nn.Embedding(2, d_model)
        self.embed_norm = LayerNorm(d_model)
        self.blocks = nn.ModuleList(PostNormBlock(d_model, n_heads, d_ff) for _ in range(n_layers))
        self.dense = nn.Linear(d_model, d_model)
        self.norm = LayerNorm(d_model)
        self.bias = nn.Parameter(torch.zeros(vocab_size))
        for parameter in self.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, tokens: Tensor, segments: Tensor) -> Tensor:
        places = torch.arange(tokens.shape[1])
        x = self.embed(tokens) + self.embed_positions(places) + self.embed_segments(segments)
        x = self.embed_norm(x)  # (B, T, D)
        for block in self.blocks:
            x = block(x, causal=False)
        return self.norm(gelu(self.dense(x))) @ self.embed.weight.T + self.bias


def main() -> None:
    """Learn three sentences from their masked tokens; then predict a masked animal from the verb to its right."""
    torch.manual_seed(0)
    sentences = [sentence.split() for sentence in ("the cat meows", "the cow moos", "the dog barks")]
    words = sorted({word for sentence in sentences for word in sentence} | {"[MASK]"})
    texts = torch.tensor([[words.index(word) for word in sentence] for sentence in sentences])  # (3, 3)
    texts = texts.repeat_interleave(3, dim=0)  # (9, 3): each text once for each place that is masked
    masked = torch.eye(3, dtype=torch.bool).repeat(3, 1)
    tokens = texts.masked_fill(masked, words.index("[MASK]"))
    segments = torch.zeros_like(tokens)
    print("in: 9 texts, each place of each sentence masked once, such as:", *(words[i] for i in tokens[1]))

    model = BERT(len(words), context_length=3, d_model=24, n_heads=2, d_ff=48, n_layers=2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for step in range(101):
        loss = F.cross_entropy(model(tokens, segments)[masked], texts[masked])
        if step % 50 == 0:
            print(f"step {step:3}  loss of the masked tokens {loss.item():.3f}")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    print("out: what stands at the [MASK]")
    for row, probs in zip(tokens[1::3], model(tokens, segments)[1::3, 1].softmax(dim=-1), strict=True):
        guesses = "    ".join(f"{word} {probs[words.index(word)]:.1f}" for word in ("cat", "cow", "dog"))
        print(*(words[i] for i in row), "  ", guesses)


if __name__ == "__main__":
    main()
