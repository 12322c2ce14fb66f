"""Byte-level BPE equals the lesson and the `tokenizers` package, and fulfils its laws."""

import json
from collections import Counter
from itertools import pairwise

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm.lessons import bpe as lesson
from minillm.tokenizers.bpe import BYTES, BPETokenizer, gpt2_alphabet, learn_merges
from minillm.tokenizers.pretokenize import split_words
from minillm.tokenizers.tokenizer import END

laws = settings(max_examples=100, deadline=None)
small_words = (
    st.text("ab", max_size=13)
    | st.text("abc", max_size=11)
    | st.sampled_from(["aaa", "aaaa", "aaaaa", "abab", "ababa", "aabaa"])
)
SENTENCES = [
    "the theme of the thesis is there",
    "  aaa aaaa aaaaa\n\n",
    "banana bandana, an ananas: ¡mañana!",
    "x = 111 + 1111\n",
]


def with_merges(merges: list[lesson.Pair]) -> BPETokenizer:
    return BPETokenizer([*BYTES, *map(b"".join, merges), b""], merges, end_id=256 + len(merges))


def pieces_of(tokenizer: BPETokenizer, text: str) -> list[bytes]:
    return [tokenizer.pieces[token] for token in tokenizer.encode(text)]


def test_the_wikipedia_example():
    tokenizer = BPETokenizer.train(["aaabdaaabac"], vocab_size=1000)
    assert tokenizer.merges == [(b"a", b"a"), (b"a", b"b"), (b"aa", b"ab")]
    assert pieces_of(tokenizer, "aaabdaaabac") == [b"aaab", b"d", b"aaab", b"a", b"c"]
    assert tokenizer.vocab_size == 256 + 3 + 1 and tokenizer.end_id == 259


def test_a_run_is_merged_from_the_left_and_ties_go_to_the_first_pair_in_byte_order():
    assert learn_merges(Counter({"aaa": 1, "xyxy": 1}), 1) == [(b"a", b"a")]  # (a, a) twice, (x, y) twice
    assert learn_merges(Counter({"zb": 2, "ya": 2}), 1) == [(b"y", b"a")]
    tokenizer = BPETokenizer.train(["aaa"], 258)
    assert pieces_of(tokenizer, "aaaaa") == [b"aa", b"aa", b"a"]


@laws
@given(words=st.lists(small_words, min_size=1, max_size=9), n_merges=st.integers(0, 17))
def test_training_is_the_lessons_training_and_leaves_words_as_encode_does(words, n_merges):
    merges, segmented = lesson.train([word.encode() for word in words], n_merges)
    assert learn_merges(Counter(words), n_merges) == merges
    assert [pieces_of(with_merges(merges), word) for word in words] == segmented


@laws
@given(words=st.lists(small_words, min_size=1, max_size=9), text=st.text("abc", max_size=29))
def test_encoding_is_the_lessons_encoding_of_words_never_trained_on(words, text):
    tokenizer = BPETokenizer.train([" ".join(["", *words])], 300)
    expected = [piece for word in split_words(text) for piece in lesson.encode(word.encode(), tokenizer.merges)]
    assert pieces_of(tokenizer, text) == expected


@laws
@given(data=st.data())
def test_encoding_follows_ranks_also_where_no_training_would_have_ordered_them_so(data):
    """A merge may have a lower rank than the merges that make its pieces; then it is applied as soon as both exist."""
    learned, _ = lesson.train([b"abaabaaabab", b"aabbaabb", b"bababa", b"aba"], 9)
    merges = data.draw(st.permutations(learned))
    text = data.draw(st.text("ab", max_size=19))
    assert pieces_of(with_merges(merges), text) == lesson.encode(text.encode(), merges)


@settings(max_examples=30, deadline=None)
@given(order=st.permutations(SENTENCES))
def test_training_does_not_depend_on_the_order_of_documents(order):
    assert BPETokenizer.train(order, 300).merges == BPETokenizer.train(SENTENCES, 300).merges


def test_training_text_encoded_again_uses_each_merge_as_often_as_training_counted():
    text = "".join(SENTENCES)
    tokenizer = BPETokenizer.train([text], 290)
    for n, (left, right) in enumerate(tokenizer.merges):
        before = with_merges(tokenizer.merges[:n])
        pairs = Counter(pair for word in split_words(text) for pair in pairwise(pieces_of(before, word)))
        assert pairs[left, right] == max(pairs.values())
        assert min(pair for pair in pairs if pairs[pair] == pairs[left, right]) == (left, right)


def test_a_long_word_without_spaces_is_encoded_in_passing():
    tokenizer = BPETokenizer.train(["acgtgca" * 10], 270)
    text = "acgtgcatt" * 5000
    assert tokenizer.decode(tokenizer.encode(text)) == text and len(tokenizer.encode(text)) < len(text) / 2


@pytest.fixture(scope="module")
def gpt2_files(tmp_path_factory):
    """A small vocabulary trained by the `tokenizers` package, in the files that GPT-2 was published in."""
    package = tokenizers.Tokenizer(tokenizers.models.BPE())
    package.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    package.train_from_iterator(
        [*SENTENCES, "½ ½½ ٣٤ Ⅷ e\u0301 naïve __init__ don't we'll 漢字 🦔🦔 <|endoftext|>\x85\x1c" * 3], trainer
    )
    folder = tmp_path_factory.mktemp("gpt2")
    package.model.save(str(folder))
    plain = tokenizers.Tokenizer(
        tokenizers.models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
    )
    plain.pre_tokenizer = package.pre_tokenizer
    return folder, plain, BPETokenizer.from_gpt2(folder / "vocab.json", folder / "merges.txt")


odd = st.sampled_from([*"½Ⅷ²٣_ \n\x1c\x1f\x85\xa0\u180e\u200b\u3000\u3007\ufeff", "'s", "'ll", "'S", "  ", "e\u0301"])
# subtle: characters that this Python's Unicode tables do not know (Cn) may be letters to the package's newer tables
known = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cn"]))
mixtures = st.lists(known | odd | st.sampled_from(SENTENCES), max_size=7).map("".join)


@settings(max_examples=200, deadline=None)
@given(text=mixtures)
def test_files_of_gpt2_give_the_ids_that_the_tokenizers_package_gives(gpt2_files, text):
    _, package, tokenizer = gpt2_files
    assert tokenizer.encode(text) == package.encode(text).ids
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_files_of_gpt2_keep_the_end_and_survive_json(gpt2_files):
    _, package, tokenizer = gpt2_files
    assert tokenizer.vocab_size == package.get_vocab_size()
    assert tokenizer.special_tokens == {END: package.token_to_id("<|endoftext|>")}
    again = BPETokenizer.from_dict(json.loads(json.dumps(tokenizer.to_dict())))
    for text in SENTENCES:
        assert again.encode(text) == package.encode(text).ids
    assert again.end_id not in again.encode("<|endoftext|>")


def test_the_printable_alphabet_is_the_packages():
    assert len(gpt2_alphabet()) == 256 and set(gpt2_alphabet()) == set(tokenizers.pre_tokenizers.ByteLevel.alphabet())


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda vocab: vocab.pop("<|endoftext|>"), "expected the ids 0"),
        (
            lambda vocab: vocab.update({"<|endofText|>": vocab.pop("<|endoftext|>")}),
            r"expected the piece '<\|endoftext\|>'",
        ),
        (lambda vocab: vocab.update({"漢": vocab.pop("a")}), "piece '漢': expected byte-level"),
        (lambda vocab: vocab.update({"zzzz": vocab.pop("Ā")}), r"pieces lack b'\\x00'"),
    ],
)
def test_files_that_are_not_like_gpt2s_are_refused(gpt2_files, tmp_path, change, complaint):
    folder, _, _ = gpt2_files
    vocab = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    change(vocab)
    (tmp_path / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    with pytest.raises(ValueError, match=complaint):
        BPETokenizer.from_gpt2(tmp_path / "vocab.json", folder / "merges.txt")


@pytest.mark.parametrize("line", ["a", "a b c", "a "])
def test_a_line_of_merges_that_is_no_pair_is_refused(gpt2_files, tmp_path, line):
    folder, _, _ = gpt2_files
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + line + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=f"'{line}': expected two pieces"):
        BPETokenizer.from_gpt2(folder / "vocab.json", tmp_path / "merges.txt")


@pytest.mark.parametrize("merge", [("#", "#"), ("##", "#"), ("#", "version"), ("#version", ":"), ("#version:", "#")])
@pytest.mark.parametrize("headed", [True, False])
def test_only_the_first_line_of_merges_is_a_heading_and_signs_that_look_like_one_are_merged(tmp_path, merge, headed):
    learned = [
        *pairwise_merges("##"),
        *pairwise_merges("###"),
        *pairwise_merges("version"),
        *pairwise_merges("#version:#"),
    ]
    merges = list(dict.fromkeys([*learned, merge]))
    pieces = list(dict.fromkeys([*gpt2_alphabet(), *(left + right for left, right in merges), "<|endoftext|>"]))
    (tmp_path / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(pieces)}), encoding="utf-8")
    lines = ["#version: 0.2"] * headed + [" ".join(pair) for pair in merges]
    (tmp_path / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    tokenizer = BPETokenizer.from_gpt2(tmp_path / "vocab.json", tmp_path / "merges.txt")
    assert tokenizer.merges == [(left.encode(), right.encode()) for left, right in merges]


def pairwise_merges(word: str) -> list[tuple[str, str]]:
    """The merges that make a word from the left, one character at a time."""
    return [(word[:i], word[i]) for i in range(1, len(word))]
