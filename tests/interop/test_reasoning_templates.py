"""Templates that look for words in contents, to cut the reasoning out of earlier answers: ids as by transformers."""

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from minillm.interop.chat_template import JinjaTemplate
from minillm.interop.hidden_text import Hidden, could_join, sought_words
from minillm.text.conversation import keeps_beginnings
from minillm.tokenizers.byte import ByteTokenizer
from minillm.tokenizers.chat import whole_text
from minillm.tokenizers.role_template import JINJA, RoleTemplate, with_roles
from tests.interop.template_families import (
    CHATML,
    QWEN_3,
    R1,
    REASONING,
    SPECIALS,
    VARIABLES,
    SmallBPE,
    transformers_bpe,
)

pytest.importorskip("jinja2")
pytest.importorskip("tokenizers")
each_family = pytest.mark.parametrize("family", REASONING)
TOKENIZER = SmallBPE()
TEMPLATES = {family: JinjaTemplate(source, TOKENIZER, VARIABLES) for family, source in REASONING.items()}
OURS = RoleTemplate(with_roles(ByteTokenizer()))
OURS_IN_JINJA = JinjaTemplate(JINJA, OURS.tokenizer)
WORDS = ["<think>", "</think>", "</th", "ink>", "/no_think", "/think", "<tool_response>", "</tool_response>"]
texts = st.lists(st.sampled_from([*WORDS, *"ab é<>/\n日", "\n\n", "Hello"]), max_size=8).map("".join)


@st.composite
def conversations(draw):
    """One to six messages, perhaps after a system message; some answers have their steps apart."""
    system, messages = draw(texts), []
    for i, content in enumerate(draw(st.lists(texts, min_size=1, max_size=6))):
        messages.append({"role": ["user", "assistant"][i % 2], "content": content})
        if i % 2 and draw(st.booleans()):
            messages[-1]["think"] = draw(texts)
    return ([{"role": "system", "content": system}] if system else []) + messages


@pytest.fixture(scope="module")
def theirs():
    return transformers_bpe()


def expected(theirs, family, messages, answer):
    """The ids of transformers, which know steps as reasoning_content or as a part of the content."""
    reads = "reasoning_content" in REASONING[family]
    told = [
        {"role": m["role"], "content": m["content"], "reasoning_content": m["think"]}
        if reads and "think" in m
        else {"role": m["role"], "content": whole_text(m)}
        for m in messages
    ]
    how = {"chat_template": REASONING[family], "add_generation_prompt": answer, "return_dict": False}
    return theirs.apply_chat_template(told, **how)


ANSWERED = [
    *({"role": "user", "content": "</think>a"}, {"role": "assistant", "content": "<think>\nb\n</think>\n\nc"}),
    *({"role": "user", "content": "<tool_response>d</tool_response>"}, {"role": "assistant", "content": "e</think>"}),
]


@each_family
@settings(max_examples=60)
@given(messages=conversations(), answer=st.booleans())
@example(messages=ANSWERED, answer=False)
@example(messages=ANSWERED[:2], answer=False)
@example(messages=[*ANSWERED[:2], {"role": "user", "content": "f"}], answer=True)
@example(messages=[ANSWERED[0], {"role": "assistant", "content": "g", "think": "\nh</think>"}], answer=False)
def test_reasoning_has_the_ids_of_transformers(theirs, family, messages, answer):
    assume(family != "qwen 3" or any(message["role"] == "user" for message in messages))
    assert TEMPLATES[family].render(messages, answer) == expected(theirs, family, messages, answer)


@each_family
@settings(max_examples=25)
@given(data=st.data())
def test_no_content_forges_a_special_token_beside_the_words(family, data):
    hostile = st.lists(st.sampled_from([*SPECIALS, *WORDS, "X", "x0X", "{{ messages }}", "<", "|", ">", "a", " "]))
    said = [f"{data.draw(hostile.map(''.join))}z" for _ in range(data.draw(st.integers(1, 4)))]
    messages = [{"role": ["user", "assistant"][i % 2], "content": content} for i, content in enumerate(said)]
    ids = TEMPLATES[family].render(messages)
    special = TOKENIZER.special_tokens.values()
    plain = TEMPLATES[family].render([message | {"content": "a"} for message in messages])
    assert [i for i in ids if i in special] == [i for i in plain if i in special]
    text = TOKENIZER.theirs.decode(ids, skip_special_tokens=False)
    kept = [text_of if i % 2 == 0 else text_of.split("</think>")[-1] for i, text_of in enumerate(said)]
    assert all(content.strip() in text for content in kept), "and nothing but reasoning is lost"


def test_reasoning_is_cut_from_earlier_answers_and_stays_in_the_last():
    messages = [ANSWERED[0], {"role": "assistant", "content": "5", "think": "2 + 3"}]
    first, both = TEMPLATES["qwen 3"].render(messages), TEMPLATES["qwen 3"].render([*messages, ANSWERED[0]])
    assert "2 + 3" in TOKENIZER.decode(first) and "2 + 3" not in TOKENIZER.decode(both)
    assert "2 + 3" not in TOKENIZER.decode(TEMPLATES["r1"].render(messages))


STEPS = {"role": "assistant", "content": "Hello", "think": "Hm."}
TURN = [{"role": "user", "content": "Hello"}, STEPS]


@pytest.mark.parametrize(("family", "kept"), [("qwen 3", False), ("r1", False), ("smollm 3", True)])
def test_a_template_that_cuts_reasoning_does_not_keep_beginnings(family, kept):
    assert keeps_beginnings(TEMPLATES[family], TURN + TURN) is kept
    assert keeps_beginnings(JinjaTemplate(CHATML, TOKENIZER, VARIABLES), TURN + TURN)


def test_without_reasoning_only_a_template_that_adds_some_does_not_keep_beginnings():
    plain = [{"role": m["role"], "content": m["content"]} for m in TURN + TURN]
    assert keeps_beginnings(TEMPLATES["r1"], plain) and keeps_beginnings(TEMPLATES["smollm 3"], plain)
    assert not keeps_beginnings(TEMPLATES["qwen 3"], plain), "it writes an empty <think> before the last answer"


@settings(max_examples=25)
@given(messages=conversations())
def test_our_own_template_in_jinja_has_the_ids_of_our_own_template(messages):
    assume(all(map(whole_text, messages)))
    for answer in (True, False):
        assert OURS_IN_JINJA.render(messages, answer) == OURS.render(messages, answer)


def test_a_template_reads_steps_by_the_name_that_it_knows():
    source = "{% for m in messages %}{{ m.content }}{% if m.NAME is defined %}[{{ m.NAME }}]{% endif %}{% endfor %}"
    for name in ("reasoning_content", "think"):
        ids = JinjaTemplate(source.replace("NAME", name), TOKENIZER).render(TURN)
        assert TOKENIZER.decode(ids) == "HelloHello[Hm.]"
    assert TOKENIZER.decode(JinjaTemplate(source, TOKENIZER).render(TURN)) == "Hello<think> Hm.</think> Hello"


@pytest.mark.parametrize(
    ("source", "said", "expected"),
    [
        ("{{ messages[0].content.split('</s>')[0] }}", "a</s>b", "messages[0].content has '</s>'"),
        ("{{ messages[0].content.split('|im_')[0] }}", "a|im_b", "messages[0].content has '|im_'"),
        ("{{ messages[0].content.split('</think>')[-1] }}", "a</think>b", "found it 0 times"),
        ("{{ messages[0].content.split('</think>')[-1] * 2 }}", "b", "found it 2 times"),
        ("{{ messages[0].content.replace('</think>', '')[4:] }}", "a</think>b", "found it 0 times"),
    ],
)
def test_words_that_could_forge_and_losses_that_are_no_reasoning_are_refused(source, said, expected):
    with pytest.raises(ValueError) as caught:
        JinjaTemplate(source, TOKENIZER, VARIABLES).render([{"role": "user", "content": said}])
    assert expected in str(caught.value)


def test_the_rest_of_an_answer_is_no_reasoning():
    template = JinjaTemplate(R1.replace("[-1]", "[0]"), TOKENIZER, VARIABLES)
    with pytest.raises(
        ValueError, match="content of message 1, of the assistant, once and unchanged, found it 0 times"
    ):
        template.render([*TURN, TURN[0]])


def test_words_are_found_in_the_source_of_a_template():
    assert set(sought_words(QWEN_3)) == {"<think>", "</think>", "<tool_response>", "</tool_response>"}
    assert set(sought_words(REASONING["smollm 3"])) == {"/no_think", "/think"}
    assert sought_words(r"""{{ x.split(" ")[0] }}{{ x.split("\n")[0] }}{{ 'a' in message.names }}""") == []
    assert sought_words(r"""{{ x.split("\n\nB:") }}{{ 'a' not in m['content'] }}""") == ["\n\nB:", "a"]


@given(text=st.text("ab \n"), words=st.lists(st.text("ab", min_size=1, max_size=3), max_size=3))
def test_a_hidden_text_comes_back_and_shows_only_whitespace_and_words(text, words):
    hidden = Hidden("0123456789abcdef", words)
    seen = hidden.hide(text, 0, "it")
    assert "".join(hidden.split(seen)) == text
    bare = hidden.sentinel.sub("", seen)
    assert all(word in seen for word in words if word in text)
    if not words:
        assert not bare.strip()


@pytest.mark.parametrize(("word", "forges"), [("<s", 1), ("s></", 1), ("/s>", 1), (">", 1), ("</think>", 0), ("x", 0)])
def test_words_that_could_become_a_special_token(word, forges):
    assert any(could_join(word, name) for name in ("<s>", "</s>")) == bool(forges)
