"""Beam search over one prompt with lists, reading everything anew at every step; and the score of every text."""

import itertools

import torch


@torch.inference_mode()
def logprob_of(model, prompt, new):
    """What the model thinks of the tokens `new` after the prompt, in one reading."""
    text = torch.tensor([[*prompt, *new]])
    logprobs = model(text[:, :-1])[0][0].double().log_softmax(-1)
    return float(logprobs[len(prompt) - 1 :].gather(1, text[0, len(prompt) :, None]).sum())


def every_text(model, prompt, alpha, n_most, end_id):
    """(score, tokens, ended) of each possible text, the best first: those that end, and those of full length."""
    found = []
    for n in range(1, n_most + 1):
        for new in itertools.product(range(model.vocab_size), repeat=n):
            ended = new[-1] == end_id
            if end_id not in new[:-1] and (ended or n == n_most):
                found.append((logprob_of(model, prompt, new) / n**alpha, list(new[: n - ended]), ended))
    return sorted(found, key=lambda text: -text[0])


@torch.inference_mode()
def beam_search(model, prompt, n_beams, alpha, stopping, n_most, end_id, forbidden=lambda tokens: ()):
    """(score, tokens, ended) of at most `n_beams` texts, best first; `forbidden`: tokens that may not follow a text."""
    going, ended = [(0.0, [])], []
    for n in range(1, n_most + 1):
        candidates = []
        for logprob, new in going:
            text = [*prompt, *new]
            after = model(torch.tensor([text]))[0][0, -1].double().log_softmax(-1).tolist()
            banned = set(forbidden(text))
            candidates += [(logprob + x, [*new, token]) for token, x in enumerate(after) if token not in banned]
        candidates = sorted(candidates, key=lambda c: -c[0])[: 2 * n_beams]
        over = [(x, new) for x, new in candidates[:n_beams] if new[-1] == end_id or n == n_most]
        ended += [(x / n**alpha, new[:-1] if new[-1] == end_id else new, new[-1] == end_id) for x, new in over]
        ended = sorted(ended, key=lambda e: -e[0])[:n_beams]
        going = [(x, new) for x, new in candidates if new[-1] != end_id and n < n_most][:n_beams]
        if not going:
            break
        if len(ended) == n_beams:
            hoped = going[0][0] / (n_most if stopping == "never" and alpha > 0 else n) ** alpha
            if stopping == "always" or hoped <= ended[-1][0]:
                break
    return ended
