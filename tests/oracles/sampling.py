"""The sampling pipeline on one page of plain Python: one row, floats, dictionaries; slow and obvious."""

import math


def reference(x, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, typical_p=1.0):
    """The probability of every token, in order, after temperature, top-k, top-p, min-p and typical."""
    best = max(x)
    weight = {i: math.exp((x[i] - best) / temperature) for i in range(len(x))} if temperature else {x.index(best): 1.0}
    p = normalized(weight)
    ranked = sorted(p, key=lambda i: (-p[i], i))
    p = normalized({i: p[i] for i in ranked[: top_k or len(ranked)]})
    if top_p < 1:
        p = first(p, sorted(p, key=lambda i: (-p[i], i)), top_p)
    p = normalized({i: p[i] for i in p if p[i] >= min_p * max(p.values()) * (1 - 1e-12)})
    if typical_p < 1:
        entropy = -sum(q * math.log(q) for q in p.values() if q)
        p = first(p, sorted(p, key=lambda i: (abs(-math.log(p[i]) - entropy) if p[i] else math.inf, i)), typical_p)
    return [p.get(i, 0.0) for i in range(len(x))]


def first(p, ranked, mass):
    """The first tokens of a ranking, until their probabilities sum to `mass`."""
    kept = {}
    for i in ranked:
        kept[i] = p[i]
        if sum(kept.values()) >= mass - 1e-12:
            break
    return normalized(kept)


def normalized(p):
    return {i: p[i] / sum(p.values()) for i in p}
