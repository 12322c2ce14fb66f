"""Cache eviction: keep the keys and values of only a few chosen tokens, so memory stays constant while a text grows.

    StreamingLLM: the first tokens (attention sinks) and the last ones; positions are counted inside the cache
    H2O:          the last tokens and the heavy hitters: those with the largest sum of weights from all queries so far
    SnapKV:       once, after the prompt: the last `window` tokens and those to which their queries attend most

Softmax weights sum to 1, and models learn to put the weight that they do not need on the first tokens. A plain window
drops these tokens, and the model fails. Each rule loses something: StreamingLLM all that has left the window, H2O
tokens that no query has attended to yet, SnapKV tokens that the end of the prompt does not attend to. `slope` times the
distance is subtracted from the scores (ALiBi).

Paper: Xiao et al. 2023 (StreamingLLM); Zhang et al. 2023 (H2O); Li et al. 2024 (SnapKV).
Read before: kv_cache, positions (ALiBi).
Then read: minillm/cache/streaming.py, minillm/cache/h2o.py, minillm/cache/snapkv.py
Try: python sample.py --cache streaming --cache-budget 64

Change it:
    - places = torch.arange(len(held))
    + places = torch.tensor(held)
Shown: largest distance 15
"""

import math

import torch
from torch import Tensor


def weights_of(q: Tensor, k: Tensor, slope: float, distance: Tensor) -> Tensor:
    """A query (K,) over keys (S, K) that lie `distance` (S,) before it -> its weights (S,)."""
    return (k @ q / math.sqrt(len(q)) - slope * distance).softmax(dim=0)


def streaming_llm(q: Tensor, k: Tensor, v: Tensor, slope: float, budget: int, n_sinks: int) -> tuple[Tensor, list, int]:
    """Read a text (T, K) token by token -> outputs (T, K), the tokens held at the end, and the largest distance."""
    held: list[int] = []
    outputs, largest = [], 0
    for t in range(len(q)):
        held.append(t)
        places = torch.arange(len(held))  # positions inside the cache
        distance = places[-1] - places
        outputs.append(weights_of(q[t], k[held], slope, distance) @ v[held])
        largest = max(largest, int(distance.max()))
        if len(held) > budget:
            del held[n_sinks]
    return torch.stack(outputs), held, largest


def h2o(q: Tensor, k: Tensor, v: Tensor, slope: float, budget: int) -> tuple[Tensor, list[int]]:
    """Read a text (T, K) token by token -> outputs (T, K) and the tokens held at the end."""
    held: list[int] = []
    outputs, score = [], torch.zeros_like(q[:, 0])
    for t in range(len(q)):
        held.append(t)
        weights = weights_of(q[t], k[held], slope, t - torch.tensor(held))
        outputs.append(weights @ v[held])
        score[held] += weights
        if len(held) > budget:
            held.remove(min(held[: -(budget // 2)], key=lambda i: score[i]))
    return torch.stack(outputs), held


def snapkv(q: Tensor, k: Tensor, slope: float, budget: int, window: int, kernel: int) -> list[int]:
    """The tokens kept of a prompt (T, K), T > budget; each token has the largest vote of the `kernel` around it."""
    T = len(q)
    voters, n_older, half = range(T - window, T), T - window, kernel // 2
    votes = sum(weights_of(q[t], k[: t + 1], slope, t - torch.arange(t + 1))[:n_older] for t in voters)
    pooled = [max(votes[max(0, i - half) : i + half + 1]) for i in range(n_older)]
    best = sorted(range(n_older), key=lambda i: -pooled[i])[: budget - window]
    return sorted(best) + list(voters)


def main() -> None:
    """A prompt of 16 tokens: all queries attend to token 2, and the last one also to the fact at token 9."""
    q, k = torch.zeros(16, 2), torch.zeros(16, 2)
    q[:, 0], q[15, 1] = 5.0, 7.0  # a query's first number looks for "popular", its second for "fact"
    k[2, 0], k[9, 1] = 1.0, 1.0
    v = torch.arange(16.0)[:, None]
    print("token 2 is popular; token 9 holds a fact, and only the last token asks for it; 6 tokens are kept")
    _, held, largest = streaming_llm(q, k, v, slope=0.0, budget=6, n_sinks=2)
    print(f"StreamingLLM  {held}  largest distance {largest}")
    print(f"H2O           {h2o(q, k, v, slope=0.0, budget=6)[1]}")
    print(f"SnapKV        {snapkv(q, k, slope=0.0, budget=6, window=2, kernel=1)}")


if __name__ == "__main__":
    main()
