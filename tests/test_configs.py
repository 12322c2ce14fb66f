"""Every config that ships can be read and trained with."""

import math
from functools import partial

import pytest

from minillm import run
from minillm.datasets.tokens import token_stream
from minillm.flags import override
from minillm.run_config import CONFIGS, load_config
from minillm.tasks import documents, translation
from minillm.training.loop import Progress, train

TEXT = "the quick brown fox jumps over the lazy dog, and the dog sleeps on.\n"


@pytest.mark.parametrize("name", sorted(path.stem for path in CONFIGS.glob("*.toml")))
def test_a_config_that_ships_trains_two_steps_on_a_tiny_text(name, tmp_path, monkeypatch):
    for task in (documents, translation):
        monkeypatch.setattr(task, "token_stream", partial(token_stream, cache=tmp_path / "cache"))
    config = load_config(name)
    pairs = config.data.corpus == "translation"
    many = config.data.corpus != "shakespeare"
    corpus = tmp_path / ("pairs.tsv" if pairs else "texts" if many else "text.txt")
    if pairs:
        corpus.write_text("".join(f"{i} {TEXT.strip()}\t{TEXT.strip()} {i}\n" for i in range(200)))
    elif many:
        corpus.mkdir()
        for i in range(40):
            (corpus / f"{i}.txt").write_text(f"{i}. " + TEXT * (1 + i % 5))
    else:
        corpus.write_text(TEXT * 100)
    small = {"model.context_length": "48" if pairs else "16", "tokenizer.vocab_size": "300"}
    small |= {"model.n_layers": "1"} if hasattr(config.model, "n_layers") else {}
    quick = {"train.batch_size": "3", "train.max_steps": "2", "train.precision": "fp32"}
    quick |= {"schedule.warmup_steps": "0"} if config.model.kind != "ngram" else {}
    text = {"data.corpus": str(corpus)} if config.labels.kind == "none" else {"data.n_stories": "40"}  # of stories the labels are known
    config = override(config, {**text, **small, **quick})
    data = run.build_data(config, say=lambda line: None)
    model, rows = run.build_model(config, data.tokenizer.vocab_size), []
    step, validation = run.build_step(config, model), run.build_validation(config, data)
    train(config.train, step, run.build_batches(config, data), lambda: validation(model), lambda *_: None, rows.append, Progress())
    assert [row["step"] for row in rows] == [1, 2, 2]
    assert all(math.isfinite(value) for row in rows for value in row.values())
    assert config.about.summary
