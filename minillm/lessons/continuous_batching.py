"""Continuous batching: requests join and leave the batch between two steps, instead of waiting for the whole batch.

    each step:  waiting requests take the free places;  one call of the model for all;  finished requests leave

A step of a large model takes almost as long for one text as for many, so a full batch gives the most tokens per second.
A static batch runs as long as its longest text, while the places of finished texts stay unused. Shorter texts are
padded and the model ignores the padding, so the tokens of a request depend only on the request.

Paper: Yu et al. 2022, "Orca: A Distributed Serving System for Transformer-Based Generative Models".
Read before: generation, paged_cache.
Then read: minillm/engine/scheduler.py, minillm/engine/engine.py
Try: python -m benchmarks.engine

Change it:
    - n_free = n_places - len(running)
    + n_free = 0 if running else n_places
Shown: 9 steps for 11 tokens, 61 % of the places used
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

EMPTY = -1  # no token
Model = Callable[[Tensor], list[int]]  # texts (B, T), padded with EMPTY at the end -> the next token of each


class Request(NamedTuple):
    """A prompt and the number of tokens to generate; generation stops early at the token `end`."""

    prompt: Sequence[int]
    n_new: int
    end: int


def serve(model: Model, requests: Sequence[Request], n_places: int) -> list[list[tuple[int, int]]]:
    """Serve all requests, first come, first served. Returns, for each step, pairs (number of a request, new token)."""
    waiting, running = list(range(len(requests))), {}  # running: number -> text
    steps = []
    while waiting or running:
        n_free = n_places - len(running)
        for number in waiting[:n_free]:
            running[number] = list(requests[number].prompt)
        del waiting[:n_free]
        width = max(map(len, running.values()))
        texts = torch.tensor([text + [EMPTY] * (width - len(text)) for text in running.values()])
        steps.append(list(zip(running, model(texts), strict=True)))
        for number, token in steps[-1]:
            text, request = running[number], requests[number]
            text.append(token)
            if token == request.end or len(text) == len(request.prompt) + request.n_new:
                del running[number]
    return steps


def written(steps: list[list[tuple[int, int]]], number: int) -> list[int]:
    """The new tokens of a request."""
    return [token for step in steps for other, token in step if other == number]


def weighted_sum(texts: Tensor) -> list[int]:
    """A model for the demonstration: 1 x the first token + 2 x the second + ..., modulo 7."""
    places = torch.arange(1, texts.shape[1] + 1)
    return ((texts * places).masked_fill(texts == EMPTY, 0).sum(dim=1) % 7).tolist()


def main() -> None:
    """Three requests in two places."""
    requests = [Request([3, 1], 6, end=EMPTY), Request([2], 2, end=EMPTY), Request([1, 1, 4], 3, end=EMPTY)]
    steps = serve(weighted_sum, requests, n_places=2)
    print("model: the next token is 1 x first + 2 x second + ... modulo 7; two places, three requests")
    for number, (prompt, n_new, _) in enumerate(requests):
        tokens = [dict(step).get(number, ".") for step in steps]
        print(f"request {number}: prompt {list(prompt)}, {n_new} new tokens   step by step:", *tokens)
    n_tokens = sum(map(len, steps))
    used = 100 * n_tokens / (2 * len(steps))
    print(f"{len(steps)} steps for {n_tokens} tokens, {used:.0f} % of the places used")
    print("static batches, requests 0 and 1, then 2: 6 + 3 = 9 steps")
    alone = [written(serve(weighted_sum, [request], n_places=1), 0) for request in requests]
    print("each request has the same tokens as alone:", alone == [written(steps, number) for number in range(3)])


if __name__ == "__main__":
    main()
