"""Speculative decoding of one row on one page: no state, no batch, lists of floats; slow and obvious. And what plain decoding may write."""

import itertools

import torch


def distribution(model, text, sampler):
    """What comes after a text, through a sampler: a list of probabilities."""
    logits = model(torch.tensor([text]))[0][:, -1]
    return sampler.shape(logits, torch.tensor([text])).double().softmax(-1)[0].tolist()


def inverse(weights, u):
    """The first token at which the weights, made to sum to one, have passed u."""
    sums = list(itertools.accumulate(w / sum(weights) for w in weights))
    return next(i for i, total in enumerate(sums) if total > u)


def slowly(target, draft, prompt, sampler, generator, max_new_tokens, k, end_id=None):
    """The new tokens, END not among them: k are drafted at a time, as long as so many and one more may be written."""
    text = list(prompt)
    while (room := max_new_tokens - (len(text) - len(prompt))) > 0:
        n = min(k, room - 1)
        u = torch.rand(2 * n + 1, generator=generator, dtype=torch.float64).tolist()
        guesses, q = [], []
        for i in range(n):
            q.append(distribution(draft, text + guesses, sampler))
            guesses.append(inverse(q[i], u[i]))
        new = []
        for i, guess in enumerate(guesses):
            p = distribution(target, text + new, sampler)
            if u[n + i] >= p[guess] / q[i][guess]:
                new.append(inverse([max(0.0, a - b) for a, b in zip(p, q[i], strict=True)], u[-1]))
                break
            new.append(guess)
        else:
            new.append(inverse(distribution(target, text + new, sampler), u[-1]))
        for token in new:
            if token == end_id:
                return text[len(prompt) :]
            text.append(token)
    return text[len(prompt) :]


def possible_texts(model, prompt, sampler, n, end_id=None):
    """Every text of n tokens, or fewer and END, that plain decoding may write, with its probability."""
    texts = {(): 1.0}
    for _ in range(n):
        grown = {}
        for text, probability in texts.items():
            if text[-1:] == (end_id,):
                grown[text] = probability
                continue
            for token, p in enumerate(distribution(model, [*prompt, *text], sampler)):
                if p:
                    grown[*text, token] = probability * p
        texts = grown
    return texts
