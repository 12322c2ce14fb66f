"""Which runs may draft for a run, and from which text."""

import pytest
import torch

import train
from minillm.datasets.batch import Batch
from minillm.decoding.drafts import ModelDrafter
from minillm.models.ngram import Ngram, NgramConfig
from minillm.runs import drafter
from minillm.runs.drafter import DRAFT_ORDER, build_drafter, count_ngrams, ngram_table
from minillm.runs.folder import open_run
from minillm.runs.wiring import build_data
from tests import tiny

SMALL = {
    "tokenizer.kind": "char",
    "data.val_fraction": 0.2,
    "data.test_fraction": 0.2,
    "model.n_layers": 1,
    "model.d_model": 16,
    "model.n_heads": 2,
    "model.context_length": 8,
    "train.batch_size": 2,
    "train.max_steps": 1,
    "train.precision": "fp32",
}


def trained(folder, name, letters):
    """A run on its own text: every pair of letters, in random order, so that parts differ in their n-grams."""
    order = torch.randperm(400, generator=torch.Generator().manual_seed(ord(letters[0]))).tolist()
    text = folder / f"{name}.txt"
    text.write_text("".join(letters[i % 20] + letters[i // 20] for i in order), encoding="utf-8")
    flags = tiny.flags(SMALL, data__corpus=text, train__run=folder / name)
    assert train.main(["--config", "gpt-draft", *flags]) == 0
    return open_run(folder / name)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    return {
        name: trained(folder, name, letters)
        for name, letters in (("a", "abcdefghijklmnopqrst"), ("b", "bcdefghijklmnopqrstu"))
    }


def test_a_draft_whose_ids_mean_other_texts_is_refused_although_there_are_as_many(runs):
    a, b = runs["a"], runs["b"]
    assert a.text.model.vocab_size == b.text.model.vocab_size
    with pytest.raises(ValueError, match=r"expected the tokenizer of .*found a different one"):
        build_drafter(str(b.path), a, ["a"])
    assert isinstance(build_drafter(str(a.path), a, ["a"]), ModelDrafter)


def test_a_table_is_counted_from_all_training_text_and_nothing_else(runs):
    """Compared n-gram by n-gram: validation and test text must not be counted."""
    data = build_data(runs["a"].config, runs["a"].text.tokenizer, say=lambda line: None)
    expected, wrong = (Ngram(NgramConfig(order=DRAFT_ORDER), runs["a"].text.model.vocab_size) for _ in range(2))
    for model, parts in ((expected, [data.train]), (wrong, [data.train, data.val])):
        for part in parts:
            tokens = torch.as_tensor(part.ids[:].astype("int64"))[None]
            model.count(Batch(tokens[:, :-1], tokens[:, 1:]))
    for n in range(2, DRAFT_ORDER + 1):
        found, right, other = (model.counts.table(n) for model in (count_ngrams(runs["a"]), expected, wrong))
        assert torch.equal(found[0], right[0]) and torch.equal(found[1], right[1])
        assert len(other[0]) > len(right[0])


def test_a_table_is_counted_once_for_a_run_and_anew_for_another_text(runs, monkeypatch, capsys):
    counted, real = [], drafter.count_ngrams
    monkeypatch.setattr(drafter, "count_ngrams", lambda opened: counted.append(opened.path) or real(opened))
    a, b, c = (open_run(runs[name].path) for name in "aba")
    tables = [ngram_table(opened) for opened in (a, b, c)]
    assert counted == [a.path, b.path]
    assert all(
        torch.equal(x, y) for x, y in zip(tables[0].state_dict().values(), tables[2].state_dict().values(), strict=True)
    )
    prompt = torch.tensor([[1, 2, 3]])
    assert torch.equal(tables[0](prompt)[0], tables[2](prompt)[0]) and not torch.equal(
        tables[0](prompt)[0], tables[1](prompt)[0]
    )
    (a.path / "checkpoint" / "ngrams.pt").write_bytes(b"damaged")
    ngram_table(a)
    corpus = runs["a"].path.with_suffix(".txt")
    corpus.write_text(corpus.read_text(encoding="utf-8")[::-1], encoding="utf-8")
    ngram_table(a)
    ngram_table(a)
    assert counted == [a.path, b.path, a.path, a.path]
