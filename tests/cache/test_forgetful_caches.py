"""Lossy caches: exact within the budget; beyond it, they keep the tokens that their papers name, in bounded memory."""

from functools import partial

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from minillm.cache.build_cache import FORGETFUL, CacheConfig, build_cache
from minillm.cache.contiguous import ContiguousCache
from minillm.cache.h2o import H2OCache
from minillm.cache.kv_cache import Positions
from minillm.cache.snapkv import SnapKVCache
from minillm.cache.streaming import StreamingCache
from minillm.constants import EMPTY
from minillm.decoding.generate import generate
from minillm.decoding.sampler import Sampler, seeded
from minillm.layers.positions import Alibi
from minillm.lessons import cache_eviction as lesson
from tests.tiny import N_HEADS, SHAPES, assert_equal, assert_reads_on, decoder, tokens

ROOMY = {"streaming": partial(StreamingCache, 31), "h2o": partial(H2OCache, 31), "snapkv": partial(SnapKVCache, 31)}
TIGHT = {
    "streaming": partial(StreamingCache, 7, sinks=2),
    "h2o": partial(H2OCache, 7),
    "snapkv": partial(SnapKVCache, 7, 3, 3),
}
RENUMBERED = ["rotary", "alibi", "none"]

every_roomy_cache = pytest.mark.parametrize("cache", ROOMY.values(), ids=ROOMY)
every_forgetful_cache = pytest.mark.parametrize("name", TIGHT)
every_tight_cache = pytest.mark.parametrize("cache", TIGHT.values(), ids=TIGHT)


@st.composite
def shapes(draw):
    """Kinds of position that can be renumbered, every sharing of heads, and windows around the budget."""
    window = draw(st.sampled_from([0, 3, 7, 8]))
    return {
        "positions": draw(st.sampled_from(RENUMBERED)),
        "n_kv_heads": draw(st.sampled_from([1, 2, N_HEADS])),
        "window": window,
    }


def scattered(n_rows: int, n_columns: int, seed: int) -> torch.Tensor:
    """Tokens with EMPTY anywhere between them."""
    some = torch.rand(n_rows, n_columns, generator=torch.Generator().manual_seed(seed)) < 0.4
    return tokens(n_rows, n_columns, seed).masked_fill(some, EMPTY)


READABLE = [
    name
    for name, shape in SHAPES.items()
    if shape.get("positions", "rotary") in RENUMBERED and "ngram_rows" not in shape
]


@every_roomy_cache
@pytest.mark.parametrize("shape", READABLE)
def test_with_room_for_every_token_a_cache_that_could_forget_is_exact(cache, shape):
    model, rows = decoder(**SHAPES[shape]), [[], [], []]
    state = model.start(3, cache=cache)
    for chunk in (tokens(3, 5), scattered(3, 9, seed=1), tokens(3, 0), tokens(3, 1, seed=2)):
        assert_reads_on(model, state, rows, chunk)
    state.reorder(torch.tensor([2, 0, 2, 1]))
    rows = [rows[i].copy() for i in (2, 0, 2, 1)]
    assert_reads_on(model, state, rows, scattered(4, 6, seed=3))
    state.truncate(torch.tensor([0, *map(len, rows[1:])]))
    assert_reads_on(model, state, [[], *rows[1:]], tokens(4, 2, seed=4))


@pytest.mark.parametrize("name", ["streaming", "snapkv"])
def test_while_nothing_is_forgotten_tokens_can_be_taken_back(name):
    model, text = decoder(n_kv_heads=2), tokens(3, 11)
    state = model.start(3, cache=ROOMY[name])
    model(text, state)
    state.truncate(torch.tensor([4, 11, 0]))
    assert_reads_on(
        model, state, [row[:n] for row, n in zip(text.tolist(), [4, 11, 0], strict=True)], tokens(3, 6, seed=1)
    )


TAKEN_BACK = {  # lengths that are refused, with the message, and lengths that still work
    "streaming": ([20, 5], r"lengths = \[20, 5\]: expected the tokens read, \[21, 6\], or 0.*budget = 7", [0, 2]),
    "h2o": ([21, 4], r"lengths = \[21, 4\]: expected the tokens read, \[21, 6\], or 0", [0, 0]),
    "snapkv": (
        [16, 5],
        r"lengths = \[16, 5\]: expected at least those of the compressed prompts, \[17, 0\], or 0",
        [18, 2],
    ),
}


@pytest.mark.parametrize("name", TAKEN_BACK)
def test_what_cannot_be_taken_back_is_refused_and_nothing_changes(name):
    model, (impossible, sentence, possible) = decoder(), TAKEN_BACK[name]
    text = tokens(2, 20)
    text[1, 2:17] = EMPTY
    states = [model.start(2, cache=TIGHT[name]) for _ in range(2)]
    for state in states:
        model(text[:, :17], state)
        model(text[:, 17:], state)
        model(tokens(2, 1), state)
    with pytest.raises(ValueError, match=sentence):
        states[0].truncate(torch.tensor(impossible))
    assert states[0].lengths.tolist() == [21, 6]
    assert_equal(*(model(tokens(2, 1, seed=1), state)[0] for state in states))
    states[0].truncate(torch.tensor(possible))
    assert states[0].lengths.tolist() == possible
    fresh = model.start(2, cache=TIGHT[name])
    text[0, possible[0] :] = text[1, possible[1] :] = EMPTY
    model(text[:, :17], fresh)
    model(text[:, 17:], fresh)
    assert_equal(*(model(tokens(2, 3, seed=2), state)[0] for state in (states[0], fresh)))


def test_a_prompt_of_exactly_the_budget_is_not_compressed_beside_a_longer_one():
    model, text = decoder(n_kv_heads=2), tokens(3, 9)
    text[0, :2] = text[2, :3] = EMPTY  # 7 tokens, 9, and 6, where the budget is 7
    state = model.start(3, cache=TIGHT["snapkv"])
    model(text, state)
    assert [cache.compressed.tolist() for cache in state.caches] == [[0, 9, 0]] * 2
    state.truncate(torch.tensor([2, 9, 5]))
    state.reorder(torch.tensor([0, 2]))
    assert_reads_on(model, state, [text[0, 2:4].tolist(), text[2, 3:8].tolist()], tokens(2, 3, seed=1))


@pytest.mark.parametrize("n_read", [1, 6, 7])
@every_tight_cache
def test_up_to_exactly_the_budget_nothing_is_forgotten(cache, n_read):
    model, rows = decoder(n_kv_heads=2), [[], []]
    state = model.start(2, cache=cache)
    assert_reads_on(model, state, rows, tokens(2, n_read))
    assert_reads_on(model, state, rows, tokens(2, 1, seed=1))


def test_the_counts_of_streaming_follow_their_rows_and_say_which_can_go_back():
    model, text = decoder(), tokens(3, 9)
    text[1, 7:] = text[2, 2:] = EMPTY  # 9 tokens, 7 and 2, where the budget is 7
    state = model.start(3, cache=TIGHT["streaming"])
    model(text, state)
    state.reorder(torch.tensor([2, 0, 1, 2]))
    assert [cache.n_read.tolist() for cache in state.caches] == [[2, 9, 7, 2]] * 2
    for lengths in ([2, 8, 7, 2], [2, 1, 7, 2]):
        with pytest.raises(ValueError, match=r"expected the tokens read, \[2, 9, 7, 2\], or 0"):
            state.truncate(torch.tensor(lengths))
    state.truncate(torch.tensor([1, 0, 3, 2]))  # no token of these rows has left the window
    kept = [text[2, :1], [], text[1, :3], text[2, :2]]
    assert_reads_on(model, state, [list(map(int, row)) for row in kept], tokens(4, 4, seed=1))


@every_tight_cache
def test_a_row_that_was_emptied_begins_as_if_it_had_never_read(cache):
    model, text = decoder(n_kv_heads=2), tokens(2, 11, seed=1)
    state, fresh = model.start(2, cache=cache), model.start(1, cache=cache)
    model(tokens(2, 20), state)
    state.truncate(torch.tensor([0, 20]))
    for chunk in text.split(5, 1):
        assert_equal(model(chunk, state)[0][:1], model(chunk[:1], fresh)[0])


@every_tight_cache
@settings(max_examples=5)
@given(shape=shapes(), seed=st.integers(0, 99), cuts=st.lists(st.integers(0, 23), max_size=3).map(sorted))
def test_a_row_is_read_in_the_same_way_alone_and_in_company(cache, shape, seed, cuts):
    model, text = decoder(**shape), scattered(3, 23, seed)
    together, alone = model.start(3, cache=cache), [model.start(1, cache=cache) for _ in range(3)]
    for a, b in zip([0, *cuts], [*cuts, 23], strict=True):
        logits = model(text[:, a:b], together)[0]
        for row, state in enumerate(alone):
            filled = text[row, a:b] >= 0
            if filled.any():
                assert_equal(logits[row, filled], model(text[row : row + 1, a:b][:, filled], state)[0][0])
    order = torch.tensor([2, 0])
    together.reorder(order)
    logits = model(tokens(2, 2), together)[0]
    for i, row in enumerate(order.tolist()):
        assert_equal(logits[i], model(tokens(2, 2)[i : i + 1], alone[row])[0][0])


def weights_of(layer, q, k, v, at_q, at_k, positions_kind, window):
    """Attention of one query over some keys, written out for each head: weights (H, n) and outputs (H, K)."""
    weights, answers, G = [], [], k.shape[1]
    for head in range(N_HEADS):
        group = head * G // N_HEADS
        turned = layer.rotate(q[None, head : head + 1, None], torch.tensor([[at_q]]))[0, 0, 0]
        scores = []
        for i, at in enumerate(at_k[group]):
            if window and at_q - at >= window:
                scores.append(-torch.inf)
                continue
            score = layer.rotate(k[i, group][None, None, None], torch.tensor([[at]]))[0, 0, 0] @ turned / 2
            scores.append(score - layer.score_bias.slopes[head] * (at_q - at) if positions_kind == "alibi" else score)
        weights.append(torch.tensor(scores, dtype=torch.float64).softmax(0))
        answers.append(weights[-1] @ v[: len(scores), group])
    return torch.stack(weights), torch.stack(answers)


def held_by_oracle(name, layer, qkv, n_prompt, kind, window):
    """Outputs (T, H, K) of a row read token by token (streaming, h2o) or prompt first (snapkv), by plain lists."""
    (q, k, v), G = qkv, qkv[1].shape[1]
    held, scores, answers = [[] for _ in range(G)], [{} for _ in range(G)], []
    for t in range(len(q)):
        for group in held:
            group.append(t)
        at_k = [range(len(group)) for group in held] if name == "streaming" else held
        at_q = len(held[0]) - 1 if name == "streaming" else t
        kept = torch.stack([torch.stack([k[i, g] for i in held[g]]) for g in range(G)], 1)
        values = torch.stack([torch.stack([v[i, g] for i in held[g]]) for g in range(G)], 1)
        weights, answer = weights_of(layer, q[t], kept, values, at_q, at_k, kind, window)
        answers.append(answer)
        for g in range(G):
            for head in range(g * N_HEADS // G, (g + 1) * N_HEADS // G):
                for i, weight in zip(held[g], weights[head].tolist(), strict=True):
                    if name == "h2o" or t >= n_prompt - 3:
                        scores[g][i] = scores[g].get(i, 0.0) + weight
        if name == "streaming" and len(held[0]) > 7:
            held = [group[:2] + group[3:] for group in held]
        if name == "h2o" and len(held[0]) > 7:
            for g in range(G):
                held[g].remove(min((i for i in held[g] if i <= t - 3), key=lambda i, g=g: (scores[g][i], -i)))
        if name == "snapkv" and t == n_prompt - 1 and n_prompt > 7:
            for g in range(G):
                pooled = {
                    i: max(scores[g].get(j, 0.0) for j in (i - 1, i, i + 1) if 0 <= j < n_prompt - 3)
                    for i in range(n_prompt - 3)
                }
                best = sorted(pooled, key=lambda i, p=pooled: (-p[i], i))[:4]
                held[g] = sorted(best) + list(range(n_prompt - 3, n_prompt))
    return torch.stack(answers)


@every_forgetful_cache
@settings(max_examples=4)
@given(shape=shapes(), seed=st.integers(0, 99), n_prompt=st.sampled_from([1, 7, 8, 13]))
@example(shape={"positions": "rotary", "n_kv_heads": 2, "window": 0}, seed=1, n_prompt=17)
@example(shape={"positions": "alibi", "n_kv_heads": 3, "window": 0}, seed=2, n_prompt=16)
def test_a_forgetful_cache_answers_as_its_paper_does_on_lists(name, shape, seed, n_prompt):
    layer, qkv, answers = answers_of(name, shape, seed, n_prompt)
    assert_equal(answers, held_by_oracle(name, layer, qkv, n_prompt, shape["positions"], shape["window"]))


def answers_of(name, shape, seed, n_prompt, T=19):
    """An attention layer; queries, keys and values (T, heads, K) of a random text; outputs (T, H, K) over a cache."""
    layer, g = decoder(**shape).requires_grad_(False).blocks[0].attention, torch.Generator().manual_seed(seed)
    x, cache = torch.randn(1, T, 10, generator=g, dtype=torch.float64), TIGHT[name]()
    reads = [n_prompt] + [1] * (T - n_prompt) if name == "snapkv" else [1] * T
    asked = []
    hook = layer.to_out.register_forward_pre_hook(lambda _, inputs: asked.append(inputs[0]))
    for a, n in zip([sum(reads[:i]) for i in range(len(reads))], reads, strict=True):
        at = min(a, 7) if name == "streaming" else a
        layer(x[:, a : a + n], Positions(torch.arange(at, at + n)[None], True), cache)
    hook.remove()
    qkv = [to(x).view(T, -1, 4) for to in (layer.to_q, layer.to_k, layer.to_v)]
    return layer, qkv, torch.cat(asked, 1).view(T, N_HEADS, 4)


def answers_of_lesson(name, q, k, v, slope, n_prompt):
    """The lesson's outputs (T', K) for one head, and the first token that they begin at."""
    if name == "streaming":
        return 0, lesson.streaming_llm(q, k, v, slope, budget=7, n_sinks=2)[0]
    if name == "h2o":
        return 0, lesson.h2o(q, k, v, slope, budget=7)[0]
    held, answers = lesson.snapkv(q[:n_prompt], k[:n_prompt], slope, budget=7, window=3, kernel=3), []
    for t in range(n_prompt, len(q)):
        held.append(t)
        answers.append(lesson.weights_of(q[t], k[held], slope, t - torch.tensor(held)) @ v[held])
    return n_prompt, torch.stack(answers)


@every_forgetful_cache
@pytest.mark.parametrize("kind", ["none", "alibi"])
@pytest.mark.parametrize("n_prompt", [8, 13])
def test_a_forgetful_cache_answers_as_the_lesson_does_for_each_head(name, kind, n_prompt):
    _, qkv, answers = answers_of(name, {"positions": kind, "n_kv_heads": N_HEADS}, 3, n_prompt)
    slopes = Alibi(N_HEADS).slopes.tolist() if kind == "alibi" else [0.0] * N_HEADS
    for head, slope in enumerate(slopes):
        start, expected = answers_of_lesson(name, *(x[:, head] for x in qkv), slope, n_prompt)
        assert_equal(answers[start:, head], expected)


def test_a_streaming_model_of_one_layer_reads_sinks_and_window_as_a_text_of_their_own():
    model, text = decoder(n_layers=1, n_kv_heads=3), tokens(2, 60)
    state = model.start(2, cache=partial(StreamingCache, 9, sinks=3))
    for t in range(60):
        held = torch.cat([text[:, : min(3, t)], text[:, max(3, t - 6) : t], text[:, t : t + 1]], 1)
        assert_equal(model(text[:, t : t + 1], state)[0][:, 0], model(held)[0][:, -1])


@pytest.mark.parametrize("n_tokens", [400, pytest.param(10_000, marks=pytest.mark.slow)])
def test_a_streaming_cache_writes_far_beyond_the_context_at_constant_memory(n_tokens):
    model, states, held = decoder(n_kv_heads=1), [], set()

    def start(n):
        states.append(model.start(n, cache=partial(StreamingCache, 11)))
        return states[0]

    class Watching(Sampler):
        def __call__(self, *what):
            if states[0].lengths[0] > 11:
                held.add(states[0].nbytes())
            return super().__call__(*what)

        def for_rows(self, rows):
            return self

    [completion] = generate(
        model, [[1, 2, 3]], Watching([]), max_new_tokens=n_tokens, generators=seeded([0]), start=start
    )
    assert len(completion.tokens) == n_tokens and completion.reason == "length" and model.context_length == 32
    assert len(held) == 1
    assert generate(model, [[1]], Sampler([]), max_new_tokens=50, generators=seeded([0]))[0].reason == "context"


@every_tight_cache
def test_after_a_read_no_more_is_held_than_the_budget(cache):
    model = decoder(n_kv_heads=2)
    state = model.start(2, cache=cache)
    model(tokens(2, 20), state)
    slot = 2 * 4 * 8 + 8 + 8 * (cache.func is H2OCache)  # key, value, position, score
    beside = 2 * 8 * (cache.func is not H2OCache)  # a count for each row
    assert state.nbytes() == 2 * (2 * 2 * 7 * slot + beside)


def test_caches_that_count_positions_themselves_are_refused_where_positions_are_added_to_tokens_or_too_few():
    for positions in ("learned", "sinusoidal"):
        with pytest.raises(ValueError, match="cache: expected one that does not renumber positions"):
            decoder(positions=positions).start(1, cache=ROOMY["streaming"])
    with pytest.raises(ValueError, match=r"budget = 32: expected less than model\.context_length = 32"):
        decoder().start(1, cache=partial(StreamingCache, 32))


REFUSED = {
    "no budget": (CacheConfig, ("h2o", 0), "cache_budget = 0: expected the number of tokens that h2o keeps"),
    "a useless budget": (CacheConfig, ("int4", 5), "cache_budget = 5 would be ignored by int4"),
    "an unknown cache": (CacheConfig, ("streeming", 5), "did you mean streaming"),
    "fewer than the sinks": (
        lambda *what: build_cache(CacheConfig(*what)),
        ("streaming", 4),
        "budget = 4: expected more than the 4 sinks",
    ),
    "fewer than vote": (
        lambda *what: build_cache(CacheConfig(*what)),
        ("snapkv", 8),
        "budget = 8: expected more than the window = 8",
    ),
    "one token": (lambda *what: build_cache(CacheConfig(*what)), ("h2o", 1), "budget = 1: expected at least 2 tokens"),
}


@pytest.mark.parametrize(("make", "what", "sentence"), REFUSED.values(), ids=REFUSED)
def test_a_cache_that_makes_no_sense_is_refused_in_a_sentence(make, what, sentence):
    with pytest.raises(ValueError, match=sentence):
        make(*what)


def test_a_cache_is_built_by_name():
    for name, kind in FORGETFUL.items():
        assert isinstance(build_cache(CacheConfig(name, 17))(), kind)
    assert isinstance(build_cache(CacheConfig())(), ContiguousCache)
    assert build_cache(CacheConfig("paged", 33))().pool.n_pages == 3
    assert [build_cache(CacheConfig(name))().bits for name in ("int8", "int4")] == [8, 4]
