"""The own template of conversations: the mask of what is learned, and special tokens that text never yields."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minillm.constants import IGNORE
from minillm.datasets.conversations import Conversations
from minillm.decoding.stopping import StopText
from minillm.interop.chat_template import JinjaTemplate
from minillm.lessons import instruction_tuning as lesson
from minillm.tokenizers.bpe import BPETokenizer
from minillm.tokenizers.build_tokenizer import tokenizer_from_dict
from minillm.tokenizers.byte import ByteTokenizer
from minillm.tokenizers.char import CharTokenizer
from minillm.tokenizers.extended import ExtendedTokenizer
from minillm.tokenizers.role_template import JINJA, MARKS, TURN, RoleTemplate, own_template, with_roles
from minillm.tokenizers.sentencepiece import SentencePieceTokenizer
from minillm.tokenizers.tokenizer import END, StreamDecoder, Tokenizer
from minillm.tokenizers.unigram import UnigramTokenizer

TEXTS = ["Who went to the lake? <think>Anna did.</think> Anna and her friend went to the lake. "] * 20
BASES = {
    "byte": ByteTokenizer(),
    "bpe": BPETokenizer.train(TEXTS, 300),
    "sentencepiece": SentencePieceTokenizer.train(TEXTS, 290),
}
each_base = pytest.mark.parametrize("base", BASES.values(), ids=BASES)
CONTROLS = [*MARKS.values(), TURN, "<|end|>", "<think>", "</think>", "<|", "|>"]

texts = st.lists(st.sampled_from([*CONTROLS, "a", " ", "Anna", "\n", "é"]), min_size=1, max_size=6).map("".join)
answers = st.fixed_dictionaries(
    {"role": st.just("assistant"), "content": texts}, optional={"think": texts | st.just("")}
)
questions = st.fixed_dictionaries({"role": st.just("user"), "content": texts})
systems = st.fixed_dictionaries({"role": st.just("system"), "content": texts})
conversations = st.builds(
    lambda first, rest: [*first, *rest], st.lists(systems, max_size=1), st.lists(questions | answers, min_size=1)
)


@each_base
@given(messages=conversations)
def test_the_learned_tokens_are_the_answers_and_their_ends_and_nothing_else(base, messages):
    tokenizer = with_roles(base)
    found = RoleTemplate(tokenizer).rendering(messages)
    assert len(found.tokens) == len(found.learned)
    assert not found.learned[0] and found.tokens[0] == base.end_id
    turns, at = [], 1
    while at < len(found.tokens):  # read the tokens alone: a mark of a role, then what is said
        role = {token: role for role, token in RoleTemplate(tokenizer).marks.items()}[found.tokens[at]]
        said = at + 1
        while said < len(found.tokens) and found.tokens[said] not in RoleTemplate(tokenizer).marks.values():
            said += 1
        assert not found.learned[at]
        assert found.learned[at + 1 : said] == [role == "assistant"] * (said - at - 1)
        assert (found.tokens[said - 1] == RoleTemplate(tokenizer).turn) == (role == "assistant")
        turns.append((role, tokenizer.decode(found.tokens[at:said])))
        at = said
    whole = [m["content"] if "think" not in m else f"<think> {m['think']}</think> {m['content']}" for m in messages]
    assert turns == [(message["role"], text) for message, text in zip(messages, whole, strict=True)]


@each_base
@given(messages=conversations)
def test_the_text_before_an_answer_is_the_same_when_asked_for_and_as_history(base, messages):
    template = RoleTemplate(with_roles(base))
    whole = template.render(messages, answer=False)
    for i, message in enumerate(messages):
        if message["role"] == "assistant" and i:
            asked = template.render(messages[:i])
            assert whole[: len(asked)] == asked


@each_base
@given(text=st.text(st.sampled_from("<|>thinkuser/ é\n"), max_size=30) | texts)
def test_text_keeps_its_ids_and_never_yields_a_special_token(base, text):
    tokenizer = with_roles(base)
    found = tokenizer.encode(text)
    assert tokenizer.decode(found) == text
    assert not set(found) & set(tokenizer.special_tokens.values())
    assert tokenizer.encode_many([text, "a", text]) == [found, tokenizer.encode("a"), found]
    if "think>" not in text:
        assert found == base.encode(text)
    assert tokenizer_from_dict(json.loads(json.dumps(tokenizer.to_dict()))).encode(text) == found


@each_base
def test_the_same_notation_in_jinja_gives_the_same_ids(base):
    pytest.importorskip("jinja2")
    tokenizer = with_roles(base)
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "<|assistant|>Who?"},
        {"role": "assistant", "content": "Anna."},
        {"role": "user", "content": "Why?"},
    ]
    jinja = JinjaTemplate(JINJA, tokenizer)
    for answer in (True, False):
        assert jinja.render(messages, answer) == RoleTemplate(tokenizer).render(messages, answer)


def test_a_word_that_begins_a_message_or_follows_a_mark_of_steps_has_the_id_that_it_has_in_a_text():
    tokenizer = with_roles(UnigramTokenizer.train(["Who went to see Anna? The friends of Anna, and Anna. "] * 20, 290))
    [anna] = tokenizer.encode(" Anna")
    assert tokenizer.encode("Anna") != [anna]
    messages = [{"role": "user", "content": "Anna"}, {"role": "assistant", "think": "Anna", "content": "Anna"}]
    found = RoleTemplate(tokenizer).render(messages, answer=False)
    assert found.count(anna) == 3 and tokenizer.decode(found) == "Anna<think> Anna</think> Anna"


@each_base
@given(text=texts)
def test_a_space_after_a_mark_is_no_part_of_the_text_also_in_a_stream(base, text):
    tokenizer = with_roles(base)
    mark, ids = tokenizer.special_tokens[MARKS["assistant"]], tokenizer.encode(" " + text)
    assert tokenizer.decode([mark, *ids]) == text and tokenizer.decode(ids) == " " + text
    for before, shown in ((mark, text), (None, " " + text), (tokenizer.encode("<think>")[0], " " + text)):
        stream = StreamDecoder(tokenizer, before)
        assert "".join([*map(stream.push, ids), stream.flush()]) == shown
        prompt = () if before is None else (ids[0], before)
        watcher = StopText(tokenizer, prompt=prompt)
        assert not any(map(watcher.push, ids)) and not watcher.finish() and watcher.text == shown


class Words(Tokenizer):
    """A word is a token."""

    def __init__(self):
        self.words = ["<end>", "say", "twice", "cat", "dog"]
        self.vocab_size, self.special_tokens = len(self.words), {END: 0}

    def encode(self, text):
        return [self.words.index(word) for word in text.split()]

    def decode_bytes(self, tokens):
        return " ".join(self.words[token] for token in tokens).encode()

    def to_dict(self):
        return {}


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["user", "assistant"]),
            st.lists(st.sampled_from(["say", "twice", "cat", "dog"]), min_size=1, max_size=4).map(" ".join),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_the_rendering_is_that_of_the_lesson(messages):
    tokens, learned = lesson.render(messages)
    found = RoleTemplate(with_roles(Words())).rendering([{"role": role, "content": text} for role, text in messages])
    names = [*Words().words, "<system>", "<user>", "<assistant>", "<turn>"]
    assert found.learned[1:] == learned
    assert [names[token] for token in found.tokens[1:]] == [lesson.WORDS[token] for token in tokens]
    targets = Conversations([found], 0, 0).batch([0]).targets[0].tolist()
    assert [target != IGNORE for target in targets[1:]] == [
        target != lesson.IGNORE for target in lesson.targets_of(tokens, learned)
    ]


def test_marks_are_added_once_and_end_a_completion():
    tokenizer = with_roles(ByteTokenizer())
    assert with_roles(tokenizer) is tokenizer and own_template(ByteTokenizer()) is None
    assert tokenizer.stop_ids == {tokenizer.special_tokens[TURN]}
    assert sorted(tokenizer.special_tokens.values()) == [256, 257, 258, 259, 260] and tokenizer.vocab_size == 263
    assert tokenizer_from_dict(tokenizer.to_dict()).stop_ids == tokenizer.stop_ids
    assert tokenizer.decode([257, 97, 261, 98, 260]) == "a<think>b"
    for token in (263, -1):
        with pytest.raises(ValueError, match=f"= {token}: expected"):
            tokenizer.decode([97, token])


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([], "expected a list of at least one"),
        ([{"role": "robot", "content": "a"}], r"messages\[0\].role = 'robot': expected"),
        ([{"role": "user", "content": ""}], r"messages\[0\].content = '': expected text"),
        ([{"role": "user", "content": 5}], r"messages\[0\].content = 5: expected text"),
        ([{"role": "user"}], "expected a role and a content"),
        ([{"role": "user", "content": "a", "think": "b"}], r"messages\[0\].think: expected none"),
        ([{"role": "assistant", "content": "a", "think": 5}], r"messages\[0\].think = 5: expected text"),
        (
            [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}],
            r"messages\[1\].role = 'system': expected the system message first",
        ),
    ],
)
def test_what_the_notation_cannot_write_is_refused(messages, said):
    with pytest.raises(ValueError, match=said):
        RoleTemplate(with_roles(ByteTokenizer())).rendering(messages)


def test_names_that_are_taken_are_refused():
    with pytest.raises(ValueError, match="expected a name that is not taken"):
        ExtendedTokenizer(ByteTokenizer(), special=["<|end|>"])
    with pytest.raises(ValueError, match="expected a name that is not taken"):
        ExtendedTokenizer(ByteTokenizer(), special=["<a>"], ordinary=["<a>"])
    with pytest.raises(ValueError, match=r"expected all of .* or none, found <\|turn\|>"):
        with_roles(ExtendedTokenizer(ByteTokenizer(), special=[TURN]))


def test_a_character_that_the_base_lacks_is_refused():
    template = RoleTemplate(with_roles(CharTokenizer.train(["abc"])))
    with pytest.raises(ValueError, match="'z'"):
        template.rendering([{"role": "user", "content": "abz"}])
