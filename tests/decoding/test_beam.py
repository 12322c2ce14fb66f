"""Beam search against all possible texts, the lesson, transformers and greedy decoding, for all models with a state."""

import itertools
import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel

from minillm.datasets.batch import Batch
from minillm.decoding.beam import BeamConfig, beam_search, best
from minillm.decoding.generate import generate
from minillm.decoding.sampler import Sampler, SamplingConfig, build_pipeline, seeded
from minillm.lessons import beam_search as lesson
from minillm.models.decoder import Decoder, DecoderConfig
from minillm.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from minillm.models.ngram import Ngram, NgramConfig
from minillm.models.rnn import CELLS, RNN, RNNConfig
from tests.decoding.toys import AT_THE_END_OF_A_CONTEXT_OF_12, Markov, Remembers
from tests.models.test_decoder_against_transformers import copy, randomized

law = settings(max_examples=10, deadline=None, derandomize=True)
V = 7
GREEDY = Sampler(build_pipeline(SamplingConfig(temperature=0)))

all_prompts = st.lists(st.lists(st.integers(0, V - 1), min_size=1, max_size=9), min_size=1, max_size=4)
alphas = st.sampled_from([-1.0, 0.0, 0.7, 1.0, 2.0])
stoppings = st.sampled_from(["always", "likely", "never"])


def decoder(**changes):
    torch.manual_seed(0)
    sizes = {
        "n_layers": 2,
        "d_model": 12,
        "n_heads": 3,
        "d_ff": 10,
        "context_length": 16,
        "init_std": 0.6,
        "init_embed": 0.6,
    }
    return Decoder(DecoderConfig(**(sizes | changes)), V).double().eval()


def ngram():
    model = Ngram(NgramConfig(order=3), V).double()
    text = torch.randint(V, (3, 40), generator=torch.Generator().manual_seed(5))
    model.count(Batch(text[:, :-1], text[:, 1:]))
    return model


def recurrent(cell):
    torch.manual_seed(0)
    return RNN(RNNConfig(cell=cell, d_hidden=11, init_embed=1.5), V).double().eval()


MODELS = {
    "ngram": ngram(),
    "remembers": Remembers(V, context_length=12).eval(),
    "decoder": decoder(n_kv_heads=1),
    "learned positions": decoder(positions="learned"),
    "experts": decoder(n_experts=5),
    **{cell: recurrent(cell) for cell in CELLS},
}
every_model = pytest.mark.parametrize("name", MODELS)


EXPECTED = {  # for each early_stopping: the best score that an unfinished text is expected to reach
    "always": lambda logprob, length, longest, alpha: -math.inf,
    "likely": lesson.likely,
    "never": lambda logprob, length, longest, alpha: logprob / (longest if alpha > 0 else length) ** alpha,
}


@torch.inference_mode()
def found_by_the_lesson(model, prompt, n_beams, alpha, stopping, n_most, end_id, forbidden=lambda text: ()):
    """Oracle: (score, tokens, ended) of at most n_beams texts, the best first; forbidden(text): tokens not to add."""

    def logprobs(text):
        after = model(torch.tensor([text]))[0][0, -1].double().log_softmax(-1).tolist()
        banned = set(forbidden(text))
        return [-math.inf if token in banned else x for token, x in enumerate(after)]

    found = lesson.beam_search(logprobs, prompt, n_beams, alpha, n_most, end_id, EXPECTED[stopping])
    return [(score, new[: len(new) - (new[-1] == end_id)], new[-1] == end_id) for score, new in found]


@torch.inference_mode()
def logprob_of(model, prompt, new):
    """The log probability of the tokens `new` after the prompt, by one call of the model."""
    text = torch.tensor([[*prompt, *new]])
    logprobs = model(text[:, :-1])[0][0].double().log_softmax(-1)
    return float(logprobs[len(prompt) - 1 :].gather(1, text[0, len(prompt) :, None]).sum())


def every_text(model, prompt, alpha, n_most, end_id):
    """(score, tokens, ended) of all possible texts, with END or of full length, the best first."""
    found = []
    for n in range(1, n_most + 1):
        for new in itertools.product(range(model.vocab_size), repeat=n):
            ended = new[-1] == end_id
            if end_id not in new[:-1] and (ended or n == n_most):
                found.append((logprob_of(model, prompt, new) / n**alpha, list(new[: n - ended]), ended))
    return sorted(found, key=lambda text: -text[0])


def assert_found(hypotheses, expected):
    """Check for the same texts with the same scores in the same order; ties may be in any order."""
    assert [h.score for h in hypotheses] == pytest.approx([score for score, *_ in expected], abs=1e-9)
    scores = [score for score, *_ in expected]
    clear = [i for i, x in enumerate(scores) if all(abs(x - y) > 1e-9 for j, y in enumerate(scores) if j != i)]
    assert [(hypotheses[i].tokens, hypotheses[i].reason == "end") for i in clear] == [
        tuple(expected[i][1:]) for i in clear
    ]


@pytest.mark.parametrize("end_id", [None, 1])
@pytest.mark.parametrize("alpha", [-1.0, 0.0, 0.7, 1.0, 3.0])
@pytest.mark.parametrize("n_most", [1, 3])
def test_wide_beams_find_every_text_in_the_order_of_its_score(end_id, alpha, n_most):
    model = Remembers(4, seed=3).eval()
    config = BeamConfig(4**n_most, alpha, "never", num_return=4**n_most)
    [found] = beam_search(model, [[2, 0]], config, max_new_tokens=n_most, end_id=end_id)
    assert_found(found, every_text(model, [2, 0], alpha, n_most, end_id))


def test_a_stop_id_ends_a_text_as_the_end_does():
    model, config = Remembers(4, seed=3).eval(), BeamConfig(9, 0.7, "never", num_return=9)
    search = partial(beam_search, model, [[2, 0]], config, max_new_tokens=3)
    assert search(stop_ids=frozenset([1])) == search(end_id=1) != search()
    both = search(end_id=2, stop_ids=frozenset([1]))
    assert both == search(end_id=1, stop_ids=frozenset([2])) != search(end_id=1)
    assert all(not {1, 2} & set(each.tokens) for each in both[0])


@every_model
@law
@given(
    prompts=all_prompts,
    n=st.integers(1, 6),
    n_beams=st.integers(1, 5),
    alpha=alphas,
    stopping=stoppings,
    use_cache=st.booleans(),
)
def test_a_ragged_batch_finds_what_the_lesson_finds_for_each_prompt(
    name, prompts, n, n_beams, alpha, stopping, use_cache
):
    model = MODELS[name]
    config = BeamConfig(n_beams, alpha, stopping, num_return=n_beams)
    found = beam_search(model, prompts, config, max_new_tokens=n, end_id=2, use_cache=use_cache)
    for prompt, hypotheses in zip(prompts, found, strict=True):
        n_most = min(n, (model.context_length or 99) - len(prompt))
        assert_found(hypotheses, found_by_the_lesson(model, prompt, n_beams, alpha, stopping, n_most, 2))


def test_each_early_stopping_is_that_of_the_lesson_and_each_stops_elsewhere():
    found = {stopping: [] for stopping in EXPECTED}
    for seed, (stopping, texts) in itertools.product(range(17), found.items()):
        model = Remembers(5, seed=seed).eval()
        [hypotheses] = beam_search(model, [[3]], BeamConfig(2, 2.0, stopping, num_return=2), max_new_tokens=7, end_id=1)
        assert_found(hypotheses, found_by_the_lesson(model, [3], 2, 2.0, stopping, 7, 1))
        texts.append(hypotheses)
    assert found["always"] != found["likely"] != found["never"] != found["always"]


@every_model
@law
@given(prompts=all_prompts, n=st.integers(0, 12), n_beams=st.integers(1, 4), alpha=alphas, stopping=stoppings)
def test_scores_are_those_of_a_full_reading_and_each_text_ends_once(name, prompts, n, n_beams, alpha, stopping):
    model, config = MODELS[name], BeamConfig(n_beams, alpha, stopping, num_return=n_beams)
    for prompt, hypotheses in zip(
        prompts, beam_search(model, prompts, config, max_new_tokens=n, end_id=2), strict=True
    ):
        assert len({(tuple(h.tokens), h.reason) for h in hypotheses}) == len(hypotheses)
        assert [h.score for h in hypotheses] == sorted((h.score for h in hypotheses), reverse=True)
        for h in hypotheses:
            assert 2 not in h.tokens and len(prompt) + len(h.tokens) <= (model.context_length or 99) and h.length <= n
            new = [*h.tokens, *([2] if h.reason == "end" else [])]
            assert h.length == len(new)
            if new:
                assert h.logprob == pytest.approx(logprob_of(model, prompt, new), abs=1e-9)
                assert h.score == h.logprob / h.length**alpha


@every_model
@law
@given(
    prompts=all_prompts, n=st.integers(0, 12), stopping=st.sampled_from(["always", "likely"]), ngrams=st.integers(0, 3)
)
def test_one_beam_is_greedy(name, prompts, n, stopping, ngrams):
    model = MODELS[name]
    forbid = SamplingConfig(no_repeat_ngram=ngrams, min_new_tokens=min(2, n))
    built = [
        build_pipeline(c, end_id=2, prompt_lengths=[len(p) for p in prompts])
        for c in (forbid, SamplingConfig(temperature=0))
    ]
    config = BeamConfig(1, early_stopping=stopping)
    try:
        greedy = generate(
            model,
            prompts,
            Sampler([*built[0], *built[1]]),
            max_new_tokens=n,
            generators=seeded([0] * len(prompts)),
            end_id=2,
        )
    except ValueError:
        with pytest.raises(ValueError, match="banned"):
            beam_search(model, prompts, config, Sampler(built[0]), max_new_tokens=n, end_id=2)
        return
    found = beam_search(model, prompts, config, Sampler(built[0]), max_new_tokens=n, end_id=2)
    for [hypothesis], completion in zip(found, greedy, strict=True):
        assert (hypothesis.tokens, hypothesis.reason) == (completion.tokens, completion.reason)
        assert hypothesis.logprob == pytest.approx(sum(completion.logprobs), abs=1e-9)


@law
@given(
    prompts=all_prompts,
    n=st.integers(1, 5),
    n_beams=st.integers(1, 4),
    size=st.integers(1, 3),
    name=st.sampled_from(["gru", "ngram"]),
)
def test_no_hypothesis_repeats_an_n_gram_of_its_own(prompts, n, n_beams, size, name):
    def repeats(text):
        seen = [tuple(text[i : i + size]) for i in range(len(text) - size + 1)]
        return [token for token in range(V) if (*text[len(text) - size + 1 :], token) in seen]

    sampler = Sampler(build_pipeline(SamplingConfig(no_repeat_ngram=size)))
    config = BeamConfig(n_beams, num_return=n_beams)
    for prompt in prompts:
        expected = found_by_the_lesson(MODELS[name], prompt, n_beams, 1.0, "likely", n, 2, repeats)
        if expected:
            assert_found(beam_search(MODELS[name], [prompt], config, sampler, max_new_tokens=n, end_id=2)[0], expected)


@law
@given(all_prompts, st.integers(1, 6), st.integers(1, 4))
def test_a_translator_finds_for_each_source_what_it_finds_for_it_alone(sources, n, n_beams):
    torch.manual_seed(0)
    model = (
        EncoderDecoder(EncoderDecoderConfig(n_layers=2, d_model=12, n_heads=3, d_ff=10, context_length=16), V)
        .double()
        .eval()
    )
    model.embed.weight.data *= 4
    padded = torch.tensor([[*source, *[-1] * (9 - len(source))] for source in sources])
    config = BeamConfig(n_beams, num_return=n_beams)

    def search(rows):
        start = lambda batch_size: model.start(batch_size, source=padded[rows])  # noqa: E731
        return beam_search(model, [[2]] * len(rows), config, max_new_tokens=n, end_id=2, start=start)

    class Alone:
        """The decoder with one source, as a model for the lesson."""

        vocab_size = V

        def __init__(self, source):
            self.source = torch.tensor([source])

        def __call__(self, tokens):
            return model(tokens, source=self.source.expand(len(tokens), -1))

    for row, (found, source) in enumerate(zip(search(list(range(len(sources)))), sources, strict=True)):
        assert [h.tokens for h in found] == [h.tokens for h in search([row])[0]]
        assert_found(found, found_by_the_lesson(Alone(source), [2], n_beams, 1.0, "likely", n, 2))


@law
@given(st.lists(st.sampled_from([1, 3, 14, 15, 16]), min_size=1, max_size=4), st.integers(0, 4), st.integers(1, 3))
def test_a_translator_finds_the_best_texts_where_some_prompts_fill_the_context(sizes, n, n_beams):
    """Against the lesson for each prompt and source; a prompt of full length gets an empty text, as in `generate`."""
    torch.manual_seed(0)
    model = (
        EncoderDecoder(EncoderDecoderConfig(n_layers=1, d_model=12, n_heads=3, d_ff=10, context_length=16), V)
        .double()
        .eval()
    )
    model.embed.weight.data *= 4
    sources = torch.randint(V, (len(sizes), 5), generator=torch.Generator().manual_seed(n))
    prompts, config = [[2] * size for size in sizes], BeamConfig(n_beams, num_return=n_beams)
    how = {"max_new_tokens": n, "end_id": 3, "start": lambda batch_size: model.start(batch_size, source=sources)}
    plain = generate(model, prompts, GREEDY, generators=seeded([0] * len(sizes)), **how)
    for i, found in enumerate(beam_search(model, prompts, config, **how)):
        n_most = min(n, 16 - sizes[i])
        if not n_most:
            assert [(h.tokens, h.reason) for h in found] == [(plain[i].tokens, plain[i].reason)] and not plain[i].tokens
            continue

        class Alone:
            vocab_size = V

            def __call__(self, tokens, source=sources[i : i + 1]):
                return model(tokens, source=source.expand(len(tokens), -1))

        assert_found(found, found_by_the_lesson(Alone(), prompts[i], n_beams, 1.0, "likely", n_most, 3))


def gpt_2(vocab, context_length, n_layers, d_model, n_heads):
    """The model of transformers and ours, with the same weights."""
    torch.manual_seed(0)
    theirs = GPT2LMHeadModel(
        GPT2Config(vocab_size=vocab, n_positions=context_length, n_embd=d_model, n_layer=n_layers, n_head=n_heads)
    )
    theirs = randomized(theirs)
    weights = {
        "embed.weight": theirs.transformer.wte.weight,
        "embed_positions.table.weight": theirs.transformer.wpe.weight,
    }
    modules = {"norm": theirs.transformer.ln_f}
    for i, block in enumerate(theirs.transformer.h):
        modules |= {f"blocks.{i}.norm_1": block.ln_1, f"blocks.{i}.norm_2": block.ln_2}
        modules |= {f"blocks.{i}.attention.to_out": block.attn.c_proj}
        modules |= {f"blocks.{i}.feedforward.up": block.mlp.c_fc, f"blocks.{i}.feedforward.down": block.mlp.c_proj}
        for j, to in enumerate(("to_q", "to_k", "to_v")):
            weights[f"blocks.{i}.attention.{to}.weight"] = block.attn.c_attn.weight.chunk(3, dim=1)[j].T
            weights[f"blocks.{i}.attention.{to}.bias"] = block.attn.c_attn.bias.chunk(3)[j]
    for name, module in modules.items():
        weights |= {f"{name}.weight": module.weight.t(), f"{name}.bias": module.bias}
    shape = {"positions": "learned", "norm": "layernorm", "feedforward": "gelu", "bias": True, "tied": True}
    config = DecoderConfig(n_layers=n_layers, d_model=d_model, n_heads=n_heads, context_length=context_length, **shape)
    return theirs, copy(Decoder(config, vocab), weights)


@pytest.fixture(scope="module")
def twins():
    return gpt_2(vocab=11, context_length=29, n_layers=2, d_model=35, n_heads=5)


@pytest.mark.parametrize("ngrams", [0, 2])
@pytest.mark.parametrize("alpha", [-0.5, 0.0, 1.0, 2.0])
@pytest.mark.parametrize(("stopping", "theirs_called"), [("always", True), ("likely", False), ("never", "never")])
def test_transformers_finds_the_same(twins, stopping, theirs_called, alpha, ngrams):
    """transformers also counts new tokens with END as the length, and skips banned tokens without renormalizing."""
    theirs, mine = twins
    prompts, ended = torch.randint(11, (6, 5), generator=torch.Generator().manual_seed(1)), []
    free = beam_search(mine, prompts.tolist(), BeamConfig(1), max_new_tokens=5)
    for end_id in {hypotheses[0].tokens[i] for hypotheses, i in zip(free, (0, 2, 4), strict=False)}:
        how = {
            "num_beams": 4,
            "num_return_sequences": 3,
            "do_sample": False,
            "length_penalty": alpha,
            "early_stopping": theirs_called,
        }
        how |= {"no_repeat_ngram_size": ngrams, "max_new_tokens": 17, "eos_token_id": end_id, "pad_token_id": 10}
        out = theirs.generate(
            prompts, attention_mask=torch.ones_like(prompts), return_dict_in_generate=True, output_scores=True, **how
        )
        sampler = Sampler(build_pipeline(SamplingConfig(no_repeat_ngram=ngrams)))
        config = BeamConfig(4, alpha, stopping, num_return=3)
        found = beam_search(mine, prompts.tolist(), config, sampler, max_new_tokens=17, end_id=end_id)
        for h, row, score in zip(
            itertools.chain(*found), out.sequences[:, 5:].tolist(), out.sequences_scores.tolist(), strict=True
        ):
            new = [*h.tokens, *([end_id] if h.reason == "end" else [])]
            assert row[: len(new)] == new and set(row[len(new) :]) <= {10}
            assert h.score == pytest.approx(score, rel=1e-5)
            ended.append(h.reason == "end")
    assert any(ended)


@pytest.mark.parametrize(("length", "n", "written", "reason"), AT_THE_END_OF_A_CONTEXT_OF_12)
def test_a_row_never_outgrows_the_context(length, n, written, reason):
    model = Remembers(V, context_length=12).eval()
    first, second = beam_search(model, [[1] * length, [2]], BeamConfig(3, num_return=3), max_new_tokens=n)
    assert {(len(h.tokens), h.reason) for h in first} == {(written, reason)}
    assert {(len(h.tokens), h.reason) for h in second} == {(n, "length")}
    assert len(first) == (3 if written else 1)


def test_a_prompt_is_read_once_and_prompts_that_are_over_are_not_read():
    model = Remembers(V, context_length=12).eval()
    beam_search(model, [[1] * 9, [2, 3], [4] * 12], BeamConfig(3), max_new_tokens=5)
    assert model.calls == [(2, 9), (6, 1), (6, 1), (3, 1), (3, 1)]


def test_a_larger_length_penalty_never_chooses_a_shorter_text():
    model = Remembers(4, seed=3).eval()
    found = [
        beam_search(model, [[2]], BeamConfig(64, alpha, "never"), max_new_tokens=4, end_id=1)[0][0]
        for alpha in (-1, 0, 0.5, 1, 2, 5)
    ]
    lengths = [hypothesis.length for hypothesis in found]
    assert lengths == sorted(lengths) and lengths[0] < lengths[-1]


def test_of_texts_that_tie_the_lower_ids_come_first():
    model = Markov(torch.zeros(V, V, dtype=torch.float64))
    [found] = beam_search(model, [[0]], BeamConfig(4, num_return=4), max_new_tokens=2)
    assert [h.tokens for h in found] == [[0, 0], [0, 1], [0, 2], [0, 3]]


@law
@given(
    st.lists(st.lists(st.sampled_from([-torch.inf, -1.0, 0.0, 0.5]), min_size=5, max_size=5), min_size=1, max_size=4),
    st.integers(1, 7),
)
def test_the_best_are_those_of_a_stable_sort(rows, k):
    scores = torch.tensor(rows)
    values, places = best(scores, k)
    expected = [sorted(range(5), key=lambda i, row=row: -row[i])[:k] for row in rows]
    assert values.tolist() == [[row[i] for i in order] for row, order in zip(rows, expected, strict=True)]
    alive = values > -torch.inf
    assert (places[alive] == torch.tensor(expected)[alive]).all()


def test_the_model_is_in_eval_mode_meanwhile_and_as_it_was_afterwards():
    model = Remembers(V).train()
    found = [beam_search(model, [[1]], BeamConfig(2), max_new_tokens=9) for _ in range(2)]
    assert model.training and model.dropout.training and found[0] == found[1]


BANNED = Sampler(build_pipeline(SamplingConfig(banned_tokens=tuple(range(V)))))


@pytest.mark.parametrize(
    ("prompts", "changed", "message"),
    [
        ([[1], []], {}, "prompt 1 = .*END"),
        ([[1] * 13], {}, "prompt 0 has 13 tokens: expected at most context_length = 12"),
        ([[1]], {"max_new_tokens": -1}, "max_new_tokens"),
        ([[1]], {"end_id": V}, "end_id"),
        ([[1]], {"config": BeamConfig()}, "beams = 0"),
        ([[1]], {"sampler": BANNED}, "every token is banned"),
        ([[1]], {"start": Remembers(V).start, "use_cache": False}, "use_cache=False"),
    ],
)
def test_what_cannot_work_is_refused(prompts, changed, message):
    with pytest.raises(ValueError, match=message):
        beam_search(
            Remembers(V, context_length=12).train(),
            prompts,
            **({"config": BeamConfig(2), "max_new_tokens": 3} | changed),
        )


def test_a_model_that_diverged_is_refused():
    with pytest.raises(ValueError, match="diverged"):
        beam_search(Markov(torch.full((V, V), torch.nan)), [[1]], BeamConfig(2), max_new_tokens=3)


WRONG = [{"beams": -1}, {"beams": 2, "num_return": 3}, {"length_penalty": torch.inf}, {"early_stopping": "soon"}]


@pytest.mark.parametrize("changed", WRONG)
def test_a_config_that_cannot_work_is_refused(changed):
    with pytest.raises(ValueError, match=r"expected"):
        BeamConfig(**changed)
