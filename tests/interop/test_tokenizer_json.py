"""Read from tokenizer.json, the tokenizers of all families give the ids of the `tokenizers` package, or are refused."""

import copy
import json
import random
import sys

import pytest

from minillm.interop.tokenizer_json import read_tokenizer
from minillm.text.scoring import split_at
from minillm.tokenizers.build_tokenizer import tokenizer_from_dict
from minillm.tokenizers.imported import ImportedTokenizer
from minillm.tokenizers.tokenizer import END, StreamDecoder
from tests.interop.tokenizer_families import FAMILIES, file_of, random_text, reference

pytest.importorskip("regex")

N_STRINGS, N_SLOW = 1_000, 20_000
each_family = pytest.mark.parametrize("name", FAMILIES)


def read(name: str, **config: object) -> ImportedTokenizer:
    return read_tokenizer(file_of(name), {**FAMILIES[name]["config"], **config})


def is_young(char: str, name: str, tokenizer: ImportedTokenizer) -> bool:
    """Whether the package has a character in no table yet, or in an older one: what it does with it alone differs."""
    package = reference(name, special=False)
    normalize = package.normalizer.normalize_str if package.normalizer else str
    around = (f"a{char}b", f"a\u0345{char}", f"a{char}\u0334")  # two marks that others are sorted before or after
    if any(tokenizer.normalize(text) != normalize(text) for text in around):
        return True
    if FAMILIES[name]["model"] != "WordPiece":
        return False
    cut = [word for word, _ in package.pre_tokenizer.pre_tokenize_str(normalize(around[0]))]
    return cut != list(tokenizer.words(around[0]))


def assert_the_packages_ids(name: str, n_strings: int) -> None:
    tokenizer, generator, n_young = read(name), random.Random(name), 0
    names = tokenizer.added.special
    for _ in range(n_strings):
        text = random_text(generator)
        ids = tokenizer.encode(text)
        whole = tokenizer.encode_parts(tokenizer.parts(text))
        assert tokenizer.never.isdisjoint(ids)
        # the package's Unigram finds special tokens among its pieces, also where it is told to find none
        comparable = FAMILIES[name]["model"] != "Unigram" or not any(special in text for special in names)
        expected = reference(name, special=False).encode(text, add_special_tokens=False).ids if comparable else ids
        framed = reference(name, special=True).encode(text).ids
        if (ids, [*tokenizer.opening, *whole, *tokenizer.closing]) != (expected, framed):
            assert any(is_young(char, name, tokenizer) for char in text), (text, ids, expected, whole, framed)
            n_young += 1
    assert n_young <= n_strings * 0.1
    assert n_young == 0 or file_of(name)["normalizer"] is not None


@each_family
def test_ids_are_those_of_the_package_for_text_and_for_text_with_special_tokens(name):
    assert_the_packages_ids(name, N_STRINGS)


@pytest.mark.slow
@each_family
def test_ids_are_those_of_the_package_for_twenty_thousand_strings(name):
    assert_the_packages_ids(name, N_SLOW)


@each_family
def test_a_tokenizer_read_back_from_json_is_the_same(name):
    tokenizer, generator = read(name), random.Random(name)
    again = tokenizer_from_dict(json.loads(json.dumps(tokenizer.to_dict())))
    assert again.to_dict() == tokenizer.to_dict() and again.special_tokens == tokenizer.special_tokens
    assert (again.opening, again.closing, again.stop_ids) == (tokenizer.opening, tokenizer.closing, tokenizer.stop_ids)
    for _ in range(50):
        text = random_text(generator)
        assert again.encode(text) == tokenizer.encode(text)
        assert again.decode(again.encode(text)) == tokenizer.decode(tokenizer.encode(text))


@each_family
def test_decoding_is_the_packages_and_streams_and_gives_back_the_text_where_nothing_is_lost(name):
    tokenizer, package, generator = read(name), reference(name, special=False), random.Random(name)
    for _ in range(200):
        text = random_text(generator)
        ids, stream = tokenizer.encode(text), StreamDecoder(tokenizer)
        decoded = tokenizer.decode(ids)
        assert "".join(map(stream.push, ids)) + stream.flush() == decoded
        if tokenizer.lossless:
            assert decoded == text
        if FAMILIES[name]["model"] == "BPE" and tokenizer.unknown is None and name != "flags":
            theirs = package.decode(ids, skip_special_tokens=True)
            assert decoded == theirs or (decoded == " " + theirs and name in ("llama2", "mistral"))
    lossless = {"gpt2", "llama3", "gpt-oss"}
    assert tokenizer.lossless == (name in lossless)


@each_family
def test_the_special_tokens_are_named_and_decode_to_nothing(name):
    tokenizer = read(name)
    assert next(iter(tokenizer.special_tokens)) == END
    for each in file_of(name)["added_tokens"]:
        if each["special"] and each["id"] != tokenizer.unknown:
            assert tokenizer.special_tokens[each["content"]] == each["id"]
            assert tokenizer.decode([each["id"]]) == ""
        else:
            assert tokenizer.decode([each["id"]]).strip() == each["content"].replace("▁", " ").strip()
        assert tokenizer.parts(f"a{each['content']}b") == (
            ["a", each["id"], "b"] if each["special"] else [f"a{each['content']}b"]
        )


def test_end_is_the_token_that_the_config_names():
    assert read("qwen2").end_id == read("qwen2").special_tokens["<|im_end|>"] == read("qwen2").special_tokens[END]
    assert read("qwen2", eos_token="<|endoftext|>").end_id == read("qwen2").special_tokens["<|endoftext|>"]
    assert read("bert").end_id == read("bert").special_tokens["[SEP]"]
    with pytest.raises(ValueError, match="eos_token: expected the token in"):
        read_tokenizer(file_of("gpt2"))
    with pytest.raises(ValueError, match="eos_token = '<nothing>': expected a piece"):
        read("gpt2", eos_token="<nothing>")


def test_a_token_of_the_file_with_the_name_of_end_keeps_its_id():
    tokenizer = read("gpt-oss")
    own = next(each["id"] for each in file_of("gpt-oss")["added_tokens"] if each["content"] == END)
    assert tokenizer.special_tokens[END] == own != tokenizer.end_id == tokenizer.special_tokens["<|return|>"]
    assert tokenizer.parts(f"Hi{END}") == ["Hi", own]


def test_opening_and_closing_come_from_the_post_processor_unless_the_config_says_more():
    begin, end = (read("llama2").special_tokens[name] for name in ("<s>", "</s>"))
    assert (read("llama2").opening, read("llama2").closing) == ((begin,), ())
    assert (read("mistral").opening, read("mistral", add_bos_token=False).opening) == ((begin,), ())
    assert read("mistral", add_bos_token=True, add_eos_token=True).closing == (end,)
    assert read("qwen2").opening == () and read("llama3").opening == (
        read("llama3").special_tokens["<|begin_of_text|>"],
    )
    assert read("roberta").closing == (read("roberta").end_id,)


def test_ids_that_end_an_answer_may_be_more_than_one():
    tokenizer = read_tokenizer(file_of("llama3"), FAMILIES["llama3"]["config"], stop_ids=[0, 2])
    assert tokenizer.stop_ids == frozenset({0, 2})
    with pytest.raises(ValueError, match=r"stop_ids\[0\] = 9999: expected 0"):
        read_tokenizer(file_of("llama3"), FAMILIES["llama3"]["config"], stop_ids=[9999])


def test_holes_in_a_vocabulary_decode_to_nothing_and_never_come():
    file = copy.deepcopy(file_of("gpt2"))
    shift = {text: token + 100 * (token > 300) for text, token in file["model"]["vocab"].items()}
    file["model"]["vocab"] = shift
    tokenizer = read_tokenizer(file, FAMILIES["gpt2"]["config"])
    assert tokenizer.vocab_size == read("gpt2").vocab_size + 100
    assert tokenizer.decode([301, 400]) == "" and tokenizer.decode([401]) != ""
    ids = tokenizer.encode("the theme of the thesis")
    assert ids == [token + 100 * (token > 300) for token in read("gpt2").encode("the theme of the thesis")]


@pytest.mark.parametrize("name", ["unigram", "unigram-with-bytes"])
def test_unigram_does_not_find_special_tokens_among_its_pieces(name):
    tokenizer = read(name)
    ids = reference(name, special=False).encode("a</s>b", add_special_tokens=False).ids
    assert tokenizer.special_tokens["</s>"] in ids, "the package does"
    assert tokenizer.end_id not in tokenizer.encode("a</s>b")


def test_a_merge_that_makes_a_special_token_is_not_made():
    file = copy.deepcopy(file_of("gemma"))
    vocab = file["model"]["vocab"]
    vocab |= {"<bo": len(vocab), "s>": len(vocab) + 1, "<b": len(vocab) + 2}
    file["model"]["merges"] += [["<", "b"], ["<b", "o"], ["s", ">"], ["<bo", "s>"]]
    tokenizer = read_tokenizer(file, FAMILIES["gemma"]["config"])
    assert tokenizer.encode("<bos>") == [vocab["<bo"], vocab["s>"]]


def changed(name: str, *path: object, value: object) -> dict:
    """The file of a family with one value changed."""
    file = inner = copy.deepcopy(file_of(name))
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return file


BAD = [
    ("gpt2", ("stemmer",), {}, "tokenizer.json: stemmer = {}: expected only"),
    ("gpt2", ("normalizer",), {"type": "Nmt"}, "normalizer 'Nmt': expected"),
    ("gpt2", ("normalizer",), {"type": "Precompiled", "precompiled_charsmap": "AA=="}, "normalizer 'Precompiled'"),
    ("gpt2", ("normalizer",), {"type": "NFC", "form": 2}, "normalizer NFC: form = 2: expected only no options"),
    ("gpt2", ("normalizer",), {"type": "Replace", "content": "b"}, "normalizer Replace: expected a value for pattern"),
    ("gpt2", ("pre_tokenizer",), {"type": "ByteLevl"}, "pre_tokenizer 'ByteLevl': .*did you mean ByteLevel"),
    ("gpt2", ("pre_tokenizer", "loud"), 1, "pre_tokenizer ByteLevel: loud = 1"),
    ("llama3", ("pre_tokenizer", "pretokenizers", 0, "behavior"), "Contiguous", "Split: behavior = 'Contiguous'"),
    ("llama3", ("pre_tokenizer", "pretokenizers", 0, "pattern"), {"Regex": "("}, r"pattern = '\(': expected a regular"),
    ("gpt2", ("decoder",), {"type": "CTC"}, "decoder: expected ByteLevel alone"),
    ("llama2", ("decoder", "decoders", 1), {"type": "BPEDecoder"}, "decoder 'BPEDecoder'"),
    ("llama2", ("decoder",), None, "decoder : expected ByteFallback"),
    ("bert", ("decoder", "prefix"), "@@", "expected WordPiece with the prefix '##'"),
    ("gpt2", ("post_processor",), {"type": "Other"}, "post_processor 'Other': expected TemplateProcessing"),
    ("llama2", ("post_processor", "single"), [], "single: expected the text once, found it 0 times"),
    ("gpt2", ("model", "dropout"), 0.1, "model BPE: dropout = 0.1: expected None"),
    ("gpt2", ("model", "end_of_word_suffix"), "</w>", "end_of_word_suffix = '</w>': expected None"),
    ("gpt2", ("model", "speed"), 1, "model BPE: speed = 1: expected only"),
    ("gpt2", ("model", "type"), "WordLevel", "model 'WordLevel': expected one of BPE"),
    ("bert", ("model", "continuing_subword_prefix"), "@@", "continuing_subword_prefix = '@@': expected '##'"),
    ("gpt2", ("model", "vocab", "the"), 2**60, f"id {2**60}: expected 0"),
    ("gpt2", ("model", "vocab", "the"), -1, "id -1: expected 0"),
    ("gpt2", ("model", "vocab", "new"), 7, "both have id 7"),
    ("gpt2", ("model", "vocab", "new"), 7.5, "vocab: expected an id for each piece"),
    ("gpt2", ("model", "merges", 3), ["t", "nothing"], r"merges\[3\] = \['t', 'nothing'\]: expected two pieces"),
    ("gpt2", ("model", "merges", 3), "t h e", r"merges\[3\] = 't h e': expected two pieces"),
    ("unigram", ("model", "vocab", 9), ["a", float("nan")], "expected a list of pieces and scores"),
    ("unigram", ("model", "unk_id"), None, "unk_id = None: expected"),
    ("gpt2", ("added_tokens", 0, "single_word"), True, "single_word = true: expected false"),
    ("gpt2", ("added_tokens", 0, "id"), 10**12, f"id {10**12}: expected 0"),
    ("gpt2", ("added_tokens", 0, "color"), "red", "color: expected only"),
    ("gpt2", ("added_tokens", 0), 5, "expected its parts in their usual form"),
    ("gpt2", ("model",), [], "expected an algorithm and its pieces"),
    ("llama2", ("added_tokens", 1, "normalized"), True, "normalized = true: expected a special token that"),
]


@pytest.mark.parametrize(("name", "path", "value", "said"), BAD, ids=[said[:40] for *_, said in BAD])
def test_what_is_not_understood_is_refused_by_name(name, path, value, said):
    with pytest.raises(ValueError, match=said):
        read_tokenizer(changed(name, *path, value=value), FAMILIES[name]["config"])


def test_two_files_that_contradict_each_other_are_refused():
    with pytest.raises(ValueError, match=r"do_lower_case = False, but .*BertNormalizer: lowercase = True"):
        read("bert", do_lower_case=False)
    with pytest.raises(ValueError, match="add_prefix_space = True, but"):
        read("gpt2", add_prefix_space=True)


def test_an_unknown_token_that_ends_texts_is_refused_since_text_would_yield_it():
    with pytest.raises(ValueError, match="expected another token than the one that ends a text"):
        read_tokenizer(changed("smollm2", "model", "unk_token", value="<|im_end|>"), FAMILIES["smollm2"]["config"])


def test_without_the_regex_package_a_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "regex", None)
    with pytest.raises(ValueError, match=r'regex: .*pip install "minillm\[interop\]"'):
        read("gpt2")
    assert read("bert").encode("apples") and read("mistral").encode("apples"), "these have no pattern"


def test_a_space_put_at_the_beginning_does_not_move_the_border_of_a_scored_text():
    tokenizer = read("llama2")
    tokens, n_given = split_at(tokenizer, "the hedgehog", " gathers apples")
    assert tokenizer.decode(tokens[:n_given]) == " the hedgehog"
    assert tokenizer.decode(tokens[n_given:]) == " gathers apples"


def test_a_file_is_read_from_its_path_and_must_be_json(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(file_of("gpt2")), encoding="utf-8")
    assert read_tokenizer(path, FAMILIES["gpt2"]["config"]).to_dict() == read("gpt2").to_dict()
    for content, said in (("{", "but Expecting"), ("[]", "found list"), ("[" * 10**5, "but maximum recursion")):
        path.write_text(content)
        with pytest.raises(ValueError, match=f"expected a tokenizer.json, {said}"):
            read_tokenizer(path)
    with pytest.raises(ValueError, match="found no file"):
        read_tokenizer(tmp_path / "other.json")
