"""From the metadata of a GGUF file, the tokenizers of llama.cpp's names are those of their families' tokenizer.json."""

import json
import random
import re

import pytest

from minillm.interop.gguf_tokenizer import CUTS, read_gguf_tokenizer
from minillm.interop.tokenizer_json import read_tokenizer
from tests.interop.tokenizer_families import FAMILIES, file_of, random_text

pytest.importorskip("regex")

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
NAMES = {"gpt2": "gpt-2", "llama3": "llama-bpe", "qwen2": "qwen2", "smollm2": "smollm", "gpt-oss": "gpt-4o"}


def metadata_of(name: str) -> dict:
    """The metadata with which llama.cpp's converter describes a family."""
    file, config = file_of(name), FAMILIES[name]["config"]
    vocab = file["model"]["vocab"]
    tokens = sorted(vocab, key=vocab.get)
    types = [BYTE if token.startswith("<0x") else NORMAL for token in tokens]
    for each in file["added_tokens"]:
        types[each["id"]] = CONTROL if each["special"] else USER_DEFINED
    found = {"tokens": tokens, "token_type": types, "eos_token_id": vocab[config["eos_token"]]}
    if config.get("bos_token"):
        found["bos_token_id"] = vocab[config["bos_token"]]
    if name in NAMES:
        found |= {"model": "gpt2", "pre": NAMES[name], "merges": [" ".join(pair) for pair in file["model"]["merges"]]}
    else:
        types[vocab["<unk>"]] = UNKNOWN
        learned = {"".join(pair): -float(i) for i, pair in reversed(list(enumerate(file["model"]["merges"])))}
        found |= {"model": "llama", "scores": [learned.get(token, -1e4) for token in tokens]}
        found |= {"add_space_prefix": name != "gemma"}
    return {f"tokenizer.ggml.{key}": value for key, value in found.items()}


@pytest.mark.parametrize("name", [*NAMES, "llama2", "gemma"])
def test_the_ids_are_those_of_the_familys_own_file(name):
    tokenizer = read_gguf_tokenizer(metadata_of(name))
    expected = read_tokenizer(file_of(name), FAMILIES[name]["config"])
    generator = random.Random(name)
    for _ in range(300):
        text = random_text(generator)
        if name == "gemma":  # runs of spaces are pieces in one file, and added tokens in the other
            text = re.sub("[ ▁]+", " ", text)
        assert tokenizer.encode(text) == expected.encode(text)
        assert tokenizer.encode_parts(tokenizer.parts(text)) == expected.encode_parts(expected.parts(text))
    assert (tokenizer.end_id, tokenizer.opening, tokenizer.closing) == (expected.end_id, expected.opening, ())
    assert tokenizer.special_tokens == expected.special_tokens


def test_all_names_of_cuts_can_be_made_and_differ_where_they_should():
    metadata, text = metadata_of("gpt2"), "It'S 1234 apples,\r\n  don't!!"
    ids = {pre: tuple(read_gguf_tokenizer(metadata | {"tokenizer.ggml.pre": pre}).encode(text)) for pre in CUTS}
    assert len(set(ids.values())) >= 4 and ids["smollm"] == ids["starcoder"] and ids["llama3"] == ids["llama-bpe"]


def test_ends_of_a_turn_stop_an_answer_and_unused_rows_are_holes():
    metadata = metadata_of("llama3")
    metadata["tokenizer.ggml.eot_token_id"] = 1
    metadata["tokenizer.ggml.tokens"] = [*metadata["tokenizer.ggml.tokens"], "[PAD600]", "[PAD601]"]
    metadata["tokenizer.ggml.token_type"] = [*metadata["tokenizer.ggml.token_type"], UNUSED, NORMAL]
    tokenizer = read_gguf_tokenizer(metadata)
    assert tokenizer.stop_ids == {1} and tokenizer.decode([tokenizer.vocab_size - 2]) == ""
    assert json.loads(json.dumps(tokenizer.to_dict()))["texts"][-2:] == [None, "[PAD601]"]


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("model", "bert", "tokenizer.ggml.model = 'bert': expected one of gpt2, llama"),
        ("model", None, "tokenizer.ggml.model: expected a str, found none"),
        ("pre", "qwen3-next", "tokenizer.ggml.pre = 'qwen3-next': expected"),
        ("pre", None, "tokenizer.ggml.pre: expected a str, found none"),
        ("tokens", "a b", "tokenizer.ggml.tokens: expected a list, found str"),
        ("merges", None, "tokenizer.ggml.merges: expected a list"),
        ("token_type", [1], "token_type: 1 values: expected one for each of"),
        ("eos_token_id", 10**9, "eos_token_id = 1000000000: expected 0"),
        ("eos_token_id", None, "eos_token: expected the token"),
    ],
)
def test_metadata_that_is_not_understood_is_refused(key, value, said):
    with pytest.raises(ValueError, match=said):
        read_gguf_tokenizer(metadata_of("gpt2") | {f"tokenizer.ggml.{key}": value})


def test_sentencepiece_needs_a_score_for_each_piece():
    with pytest.raises(ValueError, match="scores: 1 values: expected one for each"):
        read_gguf_tokenizer(metadata_of("llama2") | {"tokenizer.ggml.scores": [0.0]})
