"""Speculative decoding: a cheap draft model guesses k tokens, and the target model checks all of them in one call.

    accept a guess x, drawn from q, with probability min(1, p(x) / q(x))
    at the first rejection draw from max(0, p - q), divided by its sum; if all k are accepted, draw one more from p

p is the target's distribution, q the draft's. A token x is written with probability min(p, q) + max(0, p - q) = p: the
text has the target's distribution for any draft; a worse draft only costs time. If each guess is accepted with
probability a, a call of the target gives 1 + a + ... + a^k = (1 - a^(k+1)) / (1 - a) tokens on average.

Paper: Leviathan et al. 2023, "Fast Inference from Transformers via Speculative Decoding"; Chen et al. 2023.
Read before: generation, sampling, kv_cache.
Then read: minillm/decoding/speculative.py, minillm/decoding/drafts.py
Try: python sample.py --draft ngram

Change it:
    - return [max(0.0, a - b) for a, b in zip(p, q, strict=True)]
    + return p
Shown: token 0 is written with probability 0.690
"""

import itertools
from collections.abc import Callable, Iterator, Sequence

import torch

Model = Callable[[Sequence[int]], list[float]]  # a text -> the probability of each token as the next one


def draw(weights: Sequence[float], u: float) -> int:
    """Draw a token: the first one at which the weights, divided by their sum, add up to more than u in [0, 1)."""
    sums = itertools.accumulate(weight / sum(weights) for weight in weights)
    return next(token for token, total in enumerate(sums) if total > u)


def residual(p: Sequence[float], q: Sequence[float]) -> Sequence[float]:
    """The weights for the token that replaces a rejected guess: the excess of the target over the draft."""
    return [max(0.0, a - b) for a, b in zip(p, q, strict=True)]


def speculate(
    target: Model, draft: Model, prompt: Sequence[int], n_new: int, k: int, generator: torch.Generator
) -> Iterator[list[int]]:
    """Yield the tokens that each call of the target adds, n_new in all."""
    text = list(prompt)
    while (room := len(prompt) + n_new - len(text)) > 0:
        n = min(k, room - 1)  # a call adds one more token than it accepts
        u = torch.rand(2 * n + 1, generator=generator, dtype=torch.float64).tolist()
        guesses: list[int] = []
        for i in range(n):
            guesses.append(draw(draft(text + guesses), u[i]))
        q = [draft(text + guesses[:i]) for i in range(n)]
        p = [target(text + guesses[:i]) for i in range(n + 1)]  # a transformer computes all of these in one call
        new: list[int] = []
        for i, guess in enumerate(guesses):
            if u[n + i] * q[i][guess] >= p[i][guess]:  # rejected
                new.append(draw(residual(p[i], q[i]), u[-1]))
                break
            new.append(guess)
        else:
            new.append(draw(p[n], u[-1]))
        text += new
        yield new


def main() -> None:
    """Two distributions by hand, then 5,000 tokens."""
    p, q = [0.6, 0.4], [0.75, 0.25]
    print("target p =", *p, " draft q =", *q)
    accepted = [min(a, b) for a, b in zip(p, q, strict=True)]
    print("guessed and accepted, q min(1, p / q):", *(f"{x:.2f}" for x in accepted))
    left = residual(p, q)
    print(f"rejected: {1 - sum(accepted):.2f}, replaced by a draw with the weights", *(f"{x:.2f}" for x in left))
    for token in range(2):
        total = accepted[token] + (1 - sum(accepted)) * left[token] / sum(left)
        print(f"token {token} is written with probability {total:.3f}; the target has {p[token]:.3f}")

    a, k, generator = sum(accepted), 3, torch.Generator().manual_seed(0)
    calls = list(speculate(lambda text: p, lambda text: q, [0], 5000, k, generator))
    text = [token for new in calls for token in new]
    print(f"\n5,000 tokens with k = {k}: token 0 is {text.count(0) / len(text):.2f} of them")
    print(f"tokens for each call of the target: {len(text) / len(calls):.2f}")
    print(f"expected with a = {a:.2f}: (1 - a^4) / (1 - a) = {(1 - a ** (k + 1)) / (1 - a):.2f}")


if __name__ == "__main__":
    main()
