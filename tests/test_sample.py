"""sample.py passes each flag, preset and config key on to generation, tested with an untrained model."""

import dataclasses
import re
import shlex
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sample
from minillm.cache.build_cache import CacheConfig
from minillm.console import writing
from minillm.console.writing import Memory
from minillm.datasets.corpus import DataConfig
from minillm.decoding.drafts import ModelDrafter
from minillm.decoding.explain import ExplainingSampler, from_json
from minillm.decoding.presets import PRESETS
from minillm.decoding.sampler import SamplingConfig
from minillm.models.decoder import Decoder
from minillm.models.rnn import RNN, RNNConfig
from minillm.runs.config import RunConfig
from minillm.runs.folder import OpenRun
from minillm.text.model import TextConfig, TextModel
from minillm.tokenizers.char import CharTokenizer
from tests import tiny

LETTERS = CharTokenizer.train(["abcdefghijklm"])
END = str(LETTERS.end_id)
torch.manual_seed(0)
SHAPE = tiny.config(n_kv_heads=2)  # 2 layers, 6 heads, a context of 32
MODEL = Decoder(SHAPE, LETTERS.vocab_size).double().eval()
CONFIG = RunConfig(model=SHAPE, text=TextConfig(prompt="abc", max_new_tokens=11))
OTHERS = {  # a value of each key that no preset has
    "temperature": 1.75, "top_k": 7, "top_p": 0.55, "min_p": 0.03, "typical_p": 0.85, "repetition_penalty": 1.45,
    "presence_penalty": 0.35, "frequency_penalty": 0.15, "no_repeat_ngram": 5, "min_new_tokens": 3,
    "banned_tokens": (2, 4),
}  # fmt: skip


def opened(config: RunConfig = CONFIG, model=MODEL) -> OpenRun:
    return OpenRun(Path("nowhere"), config, TextModel(model, LETTERS, documents=True), 7)


def asked(*words: object, run: OpenRun | None = None, path: str = "nowhere") -> str:
    """What is printed below the first line. Raises AssertionError for a refusal."""
    out = StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out):
        patch.setattr(sample, "open_run", lambda args: (run or opened())._replace(path=Path(path)))
        assert sample.main([str(word) for word in words]) == 0
    return out.getvalue()


def written(*words: object, run: OpenRun | None = None) -> list[str]:
    """The texts that are printed."""
    return asked(*words, run=run).partition("\n\n")[2].removesuffix("\n").split("\n---\n")


def order_of(*words: str, run: OpenRun | None = None) -> writing.Order:
    """The order that sample.py passes to generation."""
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sample, "write", lambda order, *_: found.append(order))
        asked(*words, run=run)
    return found[0]


def refused(words: list[str], capsys, run: OpenRun | None = None) -> str:
    """The sentence of a refusal."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sample, "open_run", lambda args: run or opened())
        assert sample.main(words) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    return err


@settings(max_examples=20)
@given(st.integers(0, 2**40), st.integers(1, 4), st.booleans())
def test_several_samples_are_those_of_the_seeds_that_count_up(seed, n, stream):
    together = written("--num-samples", n, "--seed", seed, *(["--stream"] if stream else []))
    assert [text.rstrip("\n") for text in together] == [written("--seed", seed + i)[0] for i in range(n)]


def test_without_a_seed_it_is_fresh_and_printed_and_repeats_the_text():
    outs = [asked() for _ in range(4)]
    seeds = [re.search(r"; seed (\d+) \(again: --seed \1\)\n", out)[1] for out in outs]
    assert len(set(seeds)) > 1
    for seed, out in zip(seeds, outs, strict=True):
        again = asked("--seed", seed)
        assert again.partition("\n\n")[2] == out.partition("\n\n")[2] and f"; seed {seed}\n" in again


def test_a_greedy_text_has_no_seed():
    assert "seed" not in asked("--temperature", 0) and "seed" not in asked("--beams", 2)


@pytest.mark.parametrize("seed", ["-1", "x", "1.5", str(2**70), str(2**63 - 2), ""])
def test_a_seed_that_no_generator_takes_is_refused(seed, capsys):
    assert "expected int 0 ... " in refused(["--num-samples", "3", f"--seed={seed}"], capsys)
    assert written("--num-samples", 3, "--seed", 2**63 - 3)


@pytest.mark.parametrize("preset", [None, *PRESETS])
@pytest.mark.parametrize("name", OTHERS)
def test_a_flag_wins_over_the_preset_and_a_preset_over_the_config_and_each_leaves_the_rest(name, preset):
    value = OTHERS[name]
    told = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    config = dataclasses.replace(
        CONFIG, sampling=SamplingConfig(**({"top_p": 0.95, "min_p": 0.01} | {name: value}) if preset else {})
    )
    words = ["--preset", preset] if preset else []
    base = PRESETS[preset] if preset else config.sampling
    assert order_of(*words, run=opened(config)).sampling == base
    got = order_of(*words, "--" + name.replace("_", "-"), told, run=opened(config)).sampling
    assert got == dataclasses.replace(base, **{name: value})
    assert set(OTHERS) == {field.name for field in dataclasses.fields(SamplingConfig)}


@given(st.integers(1, 25), st.integers(0, 25))
@settings(max_examples=25)
def test_as_many_tokens_are_written_as_the_flag_says_or_else_the_config(of_config, of_flag):
    run = opened(dataclasses.replace(CONFIG, text=TextConfig("abc", of_config)))
    flag = ["--max-new-tokens", of_flag] if of_flag else []
    for way in ([], ["--stream"], ["--best-of", 2], ["--beams", 2]):
        [text] = written("--banned-tokens", END, *flag, *way, run=run)
        assert len(text.split("\n")[0]) == len("abc") + (of_flag or of_config)


@pytest.mark.parametrize("name", ["temperature", "top_k", "top_p", "min_p", "typical_p"])
def test_how_a_config_draws_forbids_nothing_to_beams(name):
    sharp = {"temperature": 0.0, "top_k": 1, "top_p": 0.05, "min_p": 0.99, "typical_p": 0.05}[name]
    run = opened(dataclasses.replace(CONFIG, sampling=SamplingConfig(**{name: sharp})))
    words = ["--beams", 5, "--num-return", 5, "--early-stopping", "never"]
    assert written(*words, run=run) == written(*words)
    banned = opened(dataclasses.replace(CONFIG, sampling=SamplingConfig(banned_tokens=(0, 1, 5))))
    assert written(*words, run=banned) != written(*words)


@given(st.integers(1, 20), st.integers(1, 20), st.sampled_from(["contiguous", "paged", "int8", "int4"]))
@settings(max_examples=25)
def test_the_bytes_of_a_cache_are_those_of_the_last_state_beside_a_plain_one_of_as_many_tokens(before, n, cache):
    memory = Memory(opened().text, CacheConfig(cache), n_rows=3)
    for rows, length in ((2, before), (3, n)):
        state = memory(["abc"] * rows)(rows)
        MODEL(torch.zeros(rows, length, dtype=torch.long), state)
    _, plain = MODEL(torch.zeros(3, n, dtype=torch.long), MODEL.start(3))
    told = str(memory)
    assert f" {state.nbytes():,} bytes held" in told and f"after reading 3 x {n} tokens" in told
    assert (f"{state.nbytes() / plain.nbytes():.0%} of the {plain.nbytes():,} of the plain cache" in told) == (
        cache != "contiguous"
    )


@pytest.mark.parametrize(
    "words", [["--num-samples", 5], ["--beams", 6], ["--best-of", 3], ["--stream", "--num-samples", 2]]
)
@pytest.mark.parametrize("context", [7, 16, 17, 31])
def test_pages_without_a_budget_have_room_for_all_that_the_context_holds(words, context):
    shape = tiny.config(n_kv_heads=2, context_length=context)
    torch.manual_seed(1)
    run = opened(dataclasses.replace(CONFIG, model=shape), Decoder(shape, LETTERS.vocab_size).double().eval())
    how = ["--banned-tokens", END, "--max-new-tokens", 40, *words, *([] if "--beams" in words else ["--seed", 4])]
    plain = asked(*how, run=run)
    assert asked(*how, "--cache", "paged", run=run).startswith(plain.rstrip("\n"))


@pytest.mark.parametrize("draft", ["itself", "prompt"])
@pytest.mark.parametrize("seed", range(6))
def test_an_explained_draft_tells_one_choice_a_token_each_with_its_own_history(draft, seed, tmp_path, monkeypatch):
    if draft == "itself":  # every guess is accepted, those behind END too
        monkeypatch.setattr(writing, "build_drafter", lambda *_: ModelDrafter(MODEL, 0.1))
    path, prompt = tmp_path / "why.json", "abcabcab"
    words = [
        "--prompt",
        prompt,
        "--seed",
        seed,
        "--repetition-penalty",
        1.8,
        "--frequency-penalty",
        0.3,
        "--draft",
        draft,
    ]
    words += ["--draft-tokens", 3, "--max-new-tokens", 20]
    [text] = written(*words, "--explain", path)
    text = text.split("\n")[0].removeprefix(prompt)
    choices = from_json(path.read_text())
    tokens = [choice.token for choice in choices]
    assert LETTERS.decode([token for token in tokens if token != LETTERS.end_id]) == text and len(tokens) - len(
        text
    ) in (0, 1)
    assert LETTERS.end_id not in tokens[:-1] and (len(tokens) == len(text)) == (len(text) == 20)
    run = opened()
    sampling = SamplingConfig(repetition_penalty=1.8, frequency_penalty=0.3)
    explaining, ids = ExplainingSampler(run.text.sampler(sampling, [prompt]).pipeline), run.text.encode(prompt)
    for i, choice in enumerate(choices):
        history = torch.tensor([ids + tokens[:i]])
        expected = explaining._stages(MODEL(history)[0][:, -1], history)[0]
        for stage, wanted in zip(choice.stages, expected, strict=False):
            assert (stage.step, stage.n_possible) == (
                wanted.step,
                wanted.n_possible,
            ) and stage.entropy == pytest.approx(wanted.entropy)


def test_the_shortest_text_is_no_longer_than_the_longest(capsys):
    assert "--min-new-tokens = 12: expected at most --max-new-tokens = 11" in refused(
        ["--min-new-tokens", "12"], capsys
    )
    assert "expected at most --max-new-tokens = 5" in refused(
        ["--min-new-tokens", "6", "--max-new-tokens", "5"], capsys
    )
    assert len(written("--min-new-tokens", 11)[0]) == len("abc") + 11


def test_each_text_is_checked_where_its_world_is_known(capsys):
    out = asked("--check", "--num-samples", 3)
    assert len(re.findall(r"\ncheck: not a story from character 0 on", out)) == 3
    for way in (["--stream"], ["--beams", 2], ["--best-of", 2], ["--explain"], ["--draft", "prompt"]):
        assert asked("--check", *way).count("\ncheck: ") == 1
    plays = opened(dataclasses.replace(CONFIG, data=DataConfig(corpus="shakespeare")))
    assert "--check: expected a run of stories or diary" in refused(["--check"], capsys, plays)


def test_attention_is_shown_of_the_layer_and_the_head_that_are_asked_for(tmp_path):
    n = len("abc") + 11
    out = asked("--attention", "--banned-tokens", END, "--seed", 1, path=str(tmp_path))
    lines = out.partition("(layer 2 of 2, mean over 6 heads):\n\n")[2].splitlines()[: n + 1]
    assert [line.split()[0] for line in lines] == [str(i) for i in range(n + 1)] and lines[0].split()[1:] == [
        "END",
        "1.00",
        "END",
        "[0]",
    ]
    one = asked("--attention", "--attention-layer", 1, "--attention-head", 4, "--seed", 1, path=str(tmp_path))
    assert "(layer 1 of 2, head 4 of 6)" in one


RECURRENT = opened(
    dataclasses.replace(CONFIG, model=RNNConfig(d_hidden=5)), RNN(RNNConfig(d_hidden=5), LETTERS.vocab_size).eval()
)
WRONG = {
    "a layer beyond": (["--attention", "--attention-layer", "3"], "attention layer = 3: expected at most 2", None),
    "a head beyond": (["--attention", "--attention-head", "7"], "attention head = 7: expected at most 6", None),
    "a layer alone": (["--attention-layer", "1"], "--attention-layer would be ignored without --attention", None),
    "no attention": (["--attention"], "expected a model with attention, and nowhere is of model.kind = rnn", RECURRENT),
    "a stream": (["--attention", "--stream"], "--stream would be ignored beside --attention", None),
    "many": (["--attention", "--num-samples", "2"], "--num-samples would be ignored beside --attention", None),
    "a draft": (["--attention", "--draft", "prompt"], "--attention would be ignored beside --draft", None),
}


@pytest.mark.parametrize(("words", "sentence", "run"), WRONG.values(), ids=WRONG)
def test_attention_that_cannot_be_shown_is_refused_before_anything_is_written(words, sentence, run, capsys):
    assert sentence in refused(words, capsys, run)
    assert capsys.readouterr().out == ""


def test_help_is_a_short_page_whose_examples_work_and_headings_are_words(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    parser = sample.build_parser()
    page, everything = parser.format_help(), parser.format_all()
    assert len(page.splitlines()) <= 45 and page.index("python sample.py --top-p 0.9") < page.index("--run RUN")
    for line in sample.EXAMPLES.splitlines():
        start, *words = shlex.split(line, comments=True)[1:]
        assert start == "sample.py" and vars(parser.parse(words))
    assert not re.search(r"[a-z](Config|Request)|^Request", everything, re.M)
