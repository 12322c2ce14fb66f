"""Generation: read the text so far, choose the next token from the model's distribution, append it, and repeat.

    greedy      token = argmax p
    sampling    token = the first whose cumulative probability exceeds u, with u uniform on [0, 1)

Such models are called autoregressive: they read their own output. Greedy decoding takes the best next token, gives the
same text each time, and tends to repeat itself. Sampling draws each token with the probability that the model gives it.
A text ends with the token END, or after a given number of tokens. Here the model reads the whole text again for every
new token; the lesson on the KV cache avoids that.

Paper: Holtzman et al. 2019, "The Curious Case of Neural Text Degeneration".
Read before: gpt, ngram.
Then read: minillm/decoding/generate.py, minillm/decoding/sampler.py
Try: python sample.py --temperature 0

Change it:
    - token = choose(model(tokens))
    + token = choose(model(prompt))
Shown: greedy:  the cat cat cat cat
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

WORDS = ("the", "cat", "mat", "sat", "on", "END")
FOLLOWS = {  # last word -> probability of each next word
    "the": {"cat": 0.6, "mat": 0.4},
    "cat": {"sat": 0.9, "END": 0.1},
    "mat": {"END": 0.7, "sat": 0.3},
    "sat": {"on": 0.8, "END": 0.2},
    "on": {"the": 1.0},
}


def greedy(logits: Tensor) -> int:
    """The most probable token of logits (V,)."""
    return int(logits.argmax())


def draw(logits: Tensor, generator: torch.Generator) -> int:
    """A token drawn from softmax(logits (V,)) by one uniform random number."""
    u = torch.rand((), generator=generator, dtype=torch.float64)
    cumulative = logits.double().softmax(dim=-1).cumsum(dim=-1)  # (V,)
    return int((cumulative > u).nonzero()[0])


def generate(
    model: Callable[[Sequence[int]], Tensor],
    prompt: Sequence[int],
    choose: Callable[[Tensor], int],
    max_new_tokens: int,
    end_id: int,
) -> list[int]:
    """The new tokens, without END. The model returns the logits (V,) of the next token after a text."""
    tokens = list(prompt)
    for _ in range(max_new_tokens):
        token = choose(model(tokens))
        if token == end_id:
            break
        tokens.append(token)
    return tokens[len(prompt) :]


def main() -> None:
    """A model that is a table of five rows; its greedy text, and sampled texts of four seeds."""
    n_read = []

    def model(tokens: Sequence[int]) -> Tensor:
        n_read.append(len(tokens))
        after = FOLLOWS[WORDS[tokens[-1]]]
        return torch.tensor([after.get(word, 0.0) for word in WORDS], dtype=torch.float64).log()

    def write(choose: Callable[[Tensor], int]) -> str:
        new = generate(model, [0], choose, max_new_tokens=9, end_id=5)
        return " ".join(WORDS[token] for token in [0, *new])

    for word, after in FOLLOWS.items():
        print(f"after {word:<4}", *(f"{other} {p}  " for other, p in after.items()))
    print("\ngreedy: ", write(greedy))
    print("tokens read:", " + ".join(map(str, n_read)), "=", sum(n_read))
    for seed in (1, 2, 5, 8):
        print(f"seed {seed}: ", write(partial(draw, generator=torch.Generator().manual_seed(seed))))

    g = torch.Generator().manual_seed(0)
    drawn = [WORDS[draw(model([0]), g)] for _ in range(1000)]
    print("\nof 1000 draws after 'the':", *(f"{word} {drawn.count(word)}  " for word in ("cat", "mat")))


if __name__ == "__main__":
    main()
