"""Every shipped config can be read and trained."""

import json
import math
import random
import string
from functools import partial

import pytest
import torch

from minillm.config.flags import override
from minillm.datasets.tokens import token_stream
from minillm.runs import wiring
from minillm.runs.config import CONFIGS, load_config
from minillm.tasks import documents, translate
from minillm.training.loop import Progress, train


def text(seed: int) -> str:
    """A line of random words: every id of a tokenizer occurs, so that a mean over tokens is one over ids."""
    draw = random.Random(seed)
    return " ".join("".join(draw.choices(string.ascii_letters, k=5)) for _ in range(60)) + "\n"


NAMES = sorted(path.stem for path in CONFIGS.glob("*.toml"))


def on_a_tiny_text(name, tmp_path, monkeypatch, flags):
    """The config of that name with a small corpus, and its data."""
    for task in (documents, translate):
        monkeypatch.setattr(task, "token_stream", partial(token_stream, cache=tmp_path / "cache"))
    config = load_config(name)
    pairs = config.data.corpus == "translation"
    many = config.data.corpus != "shakespeare"
    talks = config.task.kind == "sft"
    corpus = tmp_path / ("pairs.tsv" if pairs else "talks.jsonl" if talks else "texts" if many else "text.txt")
    if talks:
        records = [{"instruction": text(i)[:9], "output": text(-i - 1)} for i in range(200)]
        corpus.write_text("\n".join(map(json.dumps, records)))
    elif pairs:
        corpus.write_text("".join(f"{text(i)[:30]}\t{text(-i - 1)[:30]}\n" for i in range(200)))
    elif many:
        corpus.mkdir()
        for i in range(40):
            (corpus / f"{i}.txt").write_text(text(i))
    else:
        corpus.write_text("".join(map(text, range(20))))
    small = {"model.context_length": "48" if pairs else "16", "tokenizer.vocab_size": "300", "train.precision": "fp32"}
    # only generated stories have labels
    source = {"data.corpus": str(corpus)} if config.task.kind != "labels" else {"data.n_stories": "40"}
    config = override(config, source | small | flags)
    return config, wiring.build_data(config, say=lambda line: None)


@pytest.mark.parametrize("name", NAMES)
def test_a_config_that_ships_trains_two_steps_on_a_tiny_text(name, tmp_path, monkeypatch):
    model, quick = load_config(name).model, {"train.batch_size": "3", "train.max_steps": "2"}
    quick |= {"model.n_layers": "1"} if hasattr(model, "n_layers") else {}
    quick |= {"schedule.warmup_steps": "0"} if load_config(name).task.kind != "count" else {}
    config, data = on_a_tiny_text(name, tmp_path, monkeypatch, quick)
    model, rows = wiring.build_model(config, data.tokenizer.vocab_size), []
    frozen = {key: wiring.assemble(config, data.tokenizer.vocab_size).eval() for key in config.task.companions()}
    step, validation = wiring.build_step(config, model, frozen), wiring.build_validation(config, data)
    train(
        config.train,
        step,
        wiring.build_batches(config, data, frozen),
        lambda: validation(model),
        lambda *_: None,
        rows.append,
        Progress(),
    )
    assert (
        [row["step"] for row in rows if "loss" in row] == [row["step"] for row in rows if "val_loss" in row] == [1, 2]
    )
    assert all(math.isfinite(value) for row in rows for value in row.values())
    assert config.about.summary


@pytest.mark.parametrize("name", NAMES)
def test_a_config_that_ships_starts_at_the_loss_of_a_uniform_guess(name, tmp_path, monkeypatch):
    config, data = on_a_tiny_text(name, tmp_path, monkeypatch, {"train.batch_size": "32"})
    of_text = config.tokenizer.kind in ("char", "byte")  # others have as many ids as the config says
    vocab_size = data.tokenizer.vocab_size if of_text else load_config(name).tokenizer.vocab_size
    model, batch = wiring.build_model(config, vocab_size), wiring.build_batches(config, data)(0)
    beside = config.task.companions()  # a loss that compares with a teacher starts elsewhere
    objective = wiring.build_validation(config, data).objective if beside else wiring.build_objective(config)
    with torch.no_grad():
        loss = objective(model.train(), batch)
    n_answers = 2 if config.task.kind == "labels" else vocab_size
    assert abs(float(loss.total) / loss.count - math.log(n_answers)) < 0.1
