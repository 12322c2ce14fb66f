"""Tokenizers and embeddings that differ in size: rows without an id, and added tokens without a row."""

import copy
import json
import random

import pytest
import torch

from minillm.interop.imported import fit_to_vocabulary
from minillm.interop.tokenizer_json import read_tokenizer
from tests.interop.tokenizer_families import FAMILIES, file_of, random_text

pytest.importorskip("regex")

IMAGE = {"content": "<image>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
families = pytest.mark.parametrize("name", ["gemma", "llama3", "unigram", "bert"])
forms = pytest.mark.parametrize("among_pieces", [False, True])


def state_of(n_rows: int) -> dict[str, torch.Tensor]:
    """A tied embedding."""
    embedding = torch.randn(n_rows, 3)
    return {"embed.weight": embedding, "head.weight": embedding, "norm.weight": torch.ones(3)}


def with_images(file: dict, among_pieces: bool = False) -> dict:
    """The file with two further added tokens behind all others; perhaps they are listed as pieces too."""
    n, file = read_tokenizer(file, {"eos_token": file["added_tokens"][0]["content"]}).vocab_size, copy.deepcopy(file)
    added = [{"id": n + i, **IMAGE, "content": text, "special": not i} for i, text in enumerate(["<image>", "<sound>"])]
    file["added_tokens"] += added
    for each in added if among_pieces else []:
        vocab = file["model"]["vocab"]
        vocab.append([each["content"], 0.0]) if isinstance(vocab, list) else vocab.update({each["content"]: each["id"]})
    return file


@families
@forms
def test_added_tokens_without_a_row_are_left_out_and_named(name, among_pieces):
    plain = read_tokenizer(file_of(name), FAMILIES[name]["config"])
    n_rows, state = plain.vocab_size, state_of(plain.vocab_size)
    wider = read_tokenizer(with_images(file_of(name), among_pieces), FAMILIES[name]["config"])
    assert wider.vocab_size == n_rows + 2
    found, remarks = fit_to_vocabulary(state, wider)
    assert remarks == [
        f"added tokens '<image>' ({n_rows}), '<sound>' ({n_rows + 1}): beyond the {n_rows} rows of the embedding, "
        "so the model cannot read them: left out"
    ]
    assert found.to_dict() == plain.to_dict() and state["embed.weight"] is state["head.weight"]
    generator = random.Random(name)
    for _ in range(50):
        text = f"{random_text(generator)}<image> <sound>{random_text(generator)}"
        assert found.encode(text) == plain.encode(text)


@families
def test_of_two_added_tokens_the_one_with_a_row_stays(name):
    plain = read_tokenizer(file_of(name), FAMILIES[name]["config"])
    wider = read_tokenizer(with_images(file_of(name)), FAMILIES[name]["config"])
    found, [remark] = fit_to_vocabulary(state_of(plain.vocab_size + 1), wider)
    assert found.vocab_size == plain.vocab_size + 1 and "'<image>'" not in remark and "'<sound>'" in remark
    assert found.special_tokens == plain.special_tokens | {"<image>": plain.vocab_size}
    again = type(found).from_dict(json.loads(json.dumps(found.to_dict())))
    assert json.dumps(again.to_dict()) == json.dumps(found.to_dict())


def test_rows_without_an_id_are_cut_and_stay_tied():
    tokenizer = read_tokenizer(file_of("gemma"), FAMILIES["gemma"]["config"])
    state = state_of(tokenizer.vocab_size + 3)
    found, remarks = fit_to_vocabulary(state, tokenizer)
    assert found is tokenizer and remarks == ["3 rows of the embedding belong to no id of the tokenizer: left out"]
    assert len(state["embed.weight"]) == tokenizer.vocab_size and state["embed.weight"] is state["head.weight"]


@families
def test_a_piece_without_a_row_is_refused(name):
    plain = read_tokenizer(file_of(name), FAMILIES[name]["config"])
    for tokenizer in (plain, read_tokenizer(with_images(file_of(name)), FAMILIES[name]["config"])):
        with pytest.raises(ValueError, match=f"tokenizer of {plain.vocab_size} ids: expected at most"):
            fit_to_vocabulary(state_of(plain.vocab_size - 1), tokenizer)


@pytest.mark.parametrize("role", ["eos_token", "bos_token"])
def test_a_token_without_a_row_that_begins_or_ends_texts_is_refused(role):
    config = FAMILIES["llama3"]["config"] | {role: "<image>", "add_bos_token": True}
    tokenizer = read_tokenizer(with_images(file_of("llama3")), config)
    name = {"eos_token": "end_id", "bos_token": r"opening\[0\]"}[role]
    with pytest.raises(ValueError, match=f"{name} = {tokenizer.vocab_size - 2}: expected 0 ... "):
        fit_to_vocabulary(state_of(tokenizer.vocab_size - 2), tokenizer)
