"""Sizes derived from the text: laws for every text; a size set by a flag never changes."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm.adapters.lora import LoRAConfig
from minillm.config.flags import override
from minillm.datasets.split import Splits
from minillm.datasets.tokens import TokenStream, token_stream
from minillm.datasets.windows import Windows
from minillm.runs import sizing, wiring
from minillm.runs.config import CONFIGS, load_config
from minillm.runs.expectations import differences
from minillm.tasks import documents, translate
from minillm.tasks.task import Data
from minillm.tokenizers.byte import ByteTokenizer
from minillm.tokenizers.extended import ExtendedTokenizer

GPT = load_config("gpt-tiny")
SENTENCE = "The quick brown fox jumps over the lazy dog, and dog number {} sleeps on.\n"


def of_size(n_train: int, n_val: int = 50) -> Data:
    """Data of this size; its content is all zeros."""
    train, val = (TokenStream(np.zeros(n, np.uint8), np.array([0]), n) for n in (n_train, n_val))
    return Data(ByteTokenizer(), False, train, val, None)


@pytest.fixture(autouse=True)
def no_cache_of_tokens(tmp_path, monkeypatch):
    for task in (documents, translate):
        monkeypatch.setattr(task, "token_stream", partial(token_stream, cache=tmp_path / "cache"))


def fitted(tmp_path, n_sentences: int, flags: dict[str, str] | None = None, config: str = "gpt-tiny"):
    """(config, data, reported lines, config before) for a text of `n_sentences` sentences."""
    file, said = tmp_path / "my.txt", []
    file.write_text("".join(SENTENCE.format(i) for i in range(n_sentences)))
    flags = {"data.corpus": str(file)} | (flags or {})
    asked = override(load_config(config), flags)
    return *sizing.fit(asked, wiring.build_data(asked), flags, say=said.append), said, asked


def names(said: list[str]) -> list[str]:
    """The keys that the lines report."""
    return [line.split(" = ")[0] for line in said]


@pytest.mark.parametrize("n_sentences", [1, 2, 5, 40, 300])
def test_a_small_text_gets_sizes_that_fit_and_each_change_is_said(tmp_path, n_sentences):
    config, data, said, asked = fitted(tmp_path, n_sentences)
    n_bytes = n_sentences * len(SENTENCE)
    assert config.data.val_fraction == 0.1 and data.val.n_bytes >= 0.1 * n_bytes
    most = max(300, (n_bytes + n_sentences) // 30)  # numbers have up to three digits
    assert data.tokenizer.vocab_size <= config.tokenizer.vocab_size <= most
    windows = Windows(data.train, config.model.context_length, 8, 0, "epochs", data.documents)
    assert windows.rows_per_epoch >= 8 or config.model.context_length == sizing.LEAST_CONTEXT
    changed = differences(config, asked)
    assert sorted(names(said)) == sorted(changed) and {"data.val_fraction", "tokenizer.vocab_size"} <= set(changed)
    again, data_again = sizing.fit(config, data, {}, say=said.append)
    assert again == config and data_again is data, "a config that fits is left alone"


def test_what_a_flag_has_said_stays_and_the_rest_still_fits(tmp_path):
    flags = {"tokenizer.vocab_size": "900", "model.context_length": "170", "data.val_fraction": "0.03"}
    for name, value in flags.items():
        config, _, said, _ = fitted(tmp_path, 9, {name: value})
        section, key = name.split(".")
        assert str(getattr(getattr(config, section), key)) == value
        assert set(names(said)) == flags.keys() - {name}
    config, _, said, asked = fitted(tmp_path, 9, flags)
    assert config == asked and said == []


def test_a_context_that_was_asked_for_and_is_too_long_is_refused(tmp_path):
    config, data, _, _ = fitted(tmp_path, 2, {"model.context_length": "176"})
    with pytest.raises(ValueError, match=r"expected at least 177.*lower model.context_length or give more text"):
        wiring.build_batches(config, data)


def test_a_tokenizer_that_comes_with_a_model_keeps_vocabulary_and_context(tmp_path):
    _, data, _, asked = fitted(tmp_path, 5)
    said = []
    config, again = sizing.fit(asked, data, {}, data.tokenizer, said.append)
    assert config.model == asked.model and config.tokenizer == asked.tokenizer and again.tokenizer is data.tokenizer
    assert names(said) == ["data.val_fraction"] and again.val.n_bytes > 35


def test_a_large_text_changes_nothing():
    data = of_size(2_000_000)
    config, same = sizing.fit(GPT, data, {}, say=lambda line: pytest.fail(line))
    assert config == GPT and same is data


@pytest.mark.parametrize(
    ("n_tokens", "fraction", "held_out"), [(87_000, 0.01, 0.1), (89_000, 0.01, 0.01), (87_000, 0.3, 0.3)]
)
def test_a_text_that_is_read_more_than_sixteen_times_holds_out_a_tenth_at_least(
    n_tokens, fraction, held_out, monkeypatch
):
    data = of_size(n_tokens)
    monkeypatch.setattr(wiring, "build_data", lambda *_: data)
    config, _ = sizing.fit(override(GPT, {"data.val_fraction": str(fraction)}), data, {}, say=lambda line: None)
    assert config.data.val_fraction == held_out


def test_texts_with_labels_keep_their_context():
    data = of_size(89_000)._replace(labels=Splits([0] * 9_000, [1], []))
    asked = override(load_config("encoder-ending"), {"model.context_length": "20000"})
    assert sizing.fit(asked, data, {"data.val_fraction", "tokenizer.vocab_size"})[0] == asked


def test_characters_have_a_vocabulary_of_their_own_and_lanes_get_a_window_each(tmp_path):
    flags = {"tokenizer.kind": "char", "task.order": "contiguous"}
    config, data, said, _ = fitted(tmp_path, 30, flags, "rnn-tiny")
    assert not any("vocab" in line for line in said)
    assert len(data.train.ids) // config.model.context_length >= config.train.batch_size
    assert wiring.build_batches(config, data)(0).tokens.shape == (16, config.model.context_length)


def test_pairs_keep_their_context_which_sentences_need(tmp_path):
    file = tmp_path / "my.tsv"
    file.write_text("".join(f"mot numéro {i}\tword number {i}\n" for i in range(400)))
    asked, said = (
        override(load_config("translate-tiny"), {"data.corpus": str(file), "model.context_length": "4000"}),
        [],
    )
    config, data = sizing.fit(asked, wiring.build_data(asked), {}, say=said.append)
    assert names(said) == ["data.val_fraction", "tokenizer.vocab_size"]
    assert config.model == asked.model and config.task.extent(config, data).passes == 700 * 128 / len(data.train)


def steps(every: int, max_steps: int) -> int:
    """Number of validations of a run."""
    return len({*range(every, max_steps + 1, every), max_steps})


@settings(max_examples=200)
@given(st.integers(30, 3_000_000), st.integers(1, 3000), st.integers(1, 64), st.integers(1, 300))
def test_validations_are_often_enough_and_cheap(n_tokens, max_steps, batch_size, context_length):
    train = replace(GPT.train, max_steps=max_steps, batch_size=batch_size)
    how = {
        "model": replace(GPT.model, context_length=context_length),
        "schedule": replace(GPT.schedule, warmup_steps=0),
    }
    config = replace(GPT, train=train, **how)
    data = of_size(n_tokens)
    t, passes = sizing.set_cadence(config, data).train, config.task.extent(config, data).passes
    assert passes == pytest.approx(max_steps * batch_size * context_length / n_tokens)
    assert t.eval_every >= 1 and steps(t.eval_every, max_steps) >= min(8, max_steps)
    assert t.eval_every <= max(5, max_steps / passes + 1), "the best may lie within a pass"
    trained_between = t.eval_every * batch_size * context_length
    assert t.eval_tokens <= max(4096, 0.06 * trained_between), "a forward pass is a third of a step: 2 % of the time"
    assert (t.patience > 0) == (passes > 16)
    assert sizing.set_cadence(replace(config, train=t), of_size(7)).train == t, (
        "what is decided is decided: on resume it stays"
    )


def test_what_was_asked_for_is_not_decided_again():
    asked = override(GPT, {"train.eval_every": "7", "train.eval_tokens": "11", "train.patience": "0"})
    assert sizing.set_cadence(asked, of_size(500)) == asked


def test_the_cadence_of_another_run_is_decided_anew_but_for_what_flags_give():
    decided, large = sizing.set_cadence(GPT, of_size(500)), of_size(2_000_000)
    assert decided.train.patience == 8 and sizing.set_cadence(decided, large) == decided
    assert sizing.set_cadence(sizing.reopen(decided, {}), large) == sizing.set_cadence(GPT, large)
    kept = sizing.reopen(decided, {"train.patience", "train.eval_every"}).train
    assert (kept.patience, kept.eval_every, kept.eval_tokens) == (8, 5, 0)


def test_the_plan_says_how_often_the_text_is_read_and_warns_of_a_small_one():
    def plan(n_tokens: int, **flags: str) -> str:
        data = of_size(n_tokens, 900_000)
        return sizing.plan(
            sizing.set_cadence(override(GPT, {f"train.{name}": x for name, x in flags.items()}), data), data
        )

    large = plan(2_816_000)
    assert large == "0.5 passes over the text; validation every 125 steps, on about 10,560 of the 900,000 tokens"
    small = plan(3520)
    assert (
        small.startswith("400 passes")
        and "\nwarning: in 400 passes" in small
        and "after 8 validations (40 steps)" in small
    )
    assert "early" not in plan(3520, patience="0") and "warning" in plan(3520, patience="0")
    assert "warning" not in plan(88_000) and "warning" in plan(87_000), "16 passes"
    assert "on all 900,000 tokens" in plan(3520, eval_tokens="900000")


@pytest.mark.parametrize("name", sorted(path.stem for path in CONFIGS.glob("*.toml")))
def test_no_config_that_ships_validates_less_than_eight_times(name):
    t = load_config(name).train
    assert t.eval_every == 0 or t.max_steps / t.eval_every >= 8


def test_rows_that_a_config_names_are_trained_and_no_others():
    config = replace(load_config("gpt-tiny"), adapter=LoRAConfig(rows=(258,)))
    longer = ExtendedTokenizer(ByteTokenizer(), special=["<|user|>", "<|assistant|>"])
    said = []
    for adapter, rows in ((config.adapter, (258,)), (LoRAConfig(), (257, 258))):
        found = sizing.train_new_tokens(replace(config, adapter=adapter), ByteTokenizer(), longer, (), said.append)
        assert found.adapter.rows == rows
    assert len(said) == 1
