"""Continuations: the log-probability of given tokens after a context, and whether greedy decoding would write them.

    ln p(y | x) = sum over tokens t of y of ln p(y_t | x, y_1 ... y_(t-1)),    greedy: each y_t is the argmax

A batch is read piece by piece, each after the state of the pieces before. So a long text needs no more memory for its
logits than a short one, and a recurrent model reads a text of any length. Read before: `models/language_model.py`.
"""

from collections.abc import Sequence

import torch

from minillm.decoding.rows import logprobs_of, pad_right
from minillm.models.language_model import LanguageModel, device_of, evaluating

AT_ONCE = 2**25  # most logits in one call of the model, unless a single column of the batch has more


@torch.inference_mode()
def score(
    model: LanguageModel,
    rows: Sequence[Sequence[int]],
    questions: Sequence[tuple[int, Sequence[int]]],
    at_once: int = AT_ONCE,
) -> list[tuple[float, bool]]:
    """For each (row, continuation): its log-probability in nats, and whether each of its tokens is the most probable.

    A row of tokens is a context, at least one token, and the continuation without its last token, which is not read.
    """
    device = device_of(model)
    tokens = pad_right(rows).to(device)  # (B, T)
    width = max(1, at_once // (len(rows) * model.vocab_size))
    sums, greedy = [0.0] * len(questions), [True] * len(questions)
    with evaluating(model):
        state = model.start(len(rows))
        for begin in range(0, tokens.shape[1], width):
            logits, state = model(tokens[:, begin : begin + width], state)  # (B, T of the piece, V)
            for k, (row, continuation) in enumerate(questions):
                first = len(rows[row]) - len(continuation)  # the column that predicts its first token
                predicted = continuation[max(0, begin - first) : max(0, begin + width - first)]
                if predicted:
                    at, targets = max(0, first - begin), torch.tensor(predicted, device=device)  # (N,)
                    piece = logits[row, at : at + len(predicted)]  # (N, V)
                    sums[k] += float(logprobs_of(piece, targets).sum())
                    greedy[k] &= bool((piece.argmax(-1) == targets).all())
    return list(zip(sums, greedy, strict=True))
