"""Foreign templates: ids as by transformers, contents that cannot forge anything, programs that do no harm."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from minillm.interop.chat_template import JinjaTemplate, bind, token_names
from minillm.text.conversation import keeps_beginnings
from minillm.tokenizers.byte import ByteTokenizer
from tests.interop.template_families import (
    CHATML,
    FAMILIES,
    LLAMA_2,
    LLAMA_3,
    SPECIALS,
    VARIABLES,
    SmallBPE,
    transformers_bpe,
)

pytest.importorskip("jinja2")
pytest.importorskip("tokenizers")
each_family = pytest.mark.parametrize("family", FAMILIES)
WHOLE = "{{ messages[0].content }}"
TOKENIZER = SmallBPE()
TEMPLATES = {family: JinjaTemplate(source, TOKENIZER, VARIABLES) for family, source in FAMILIES.items()}
PIECES = [*"ab é,<|>[]/INS0日🙂\n\t\xa0\\'\"{%}", "Hello", "user", "\r\n"]
contents = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)


@st.composite
def conversations(draw):
    """One to five messages, the first one of the user, perhaps after a system message."""
    said, system = draw(st.lists(contents, min_size=1, max_size=5)), draw(contents)
    messages = [{"role": ["user", "assistant"][i % 2], "content": content} for i, content in enumerate(said)]
    return ([{"role": "system", "content": system}] if system else []) + messages


@pytest.fixture(scope="module")
def theirs():
    return transformers_bpe()


@each_family
@settings(max_examples=25)
@given(messages=conversations(), answer=st.booleans())
@example(messages=[{"role": "user", "content": " \n "}], answer=True)
def test_harmless_conversations_have_the_ids_of_transformers(theirs, family, messages, answer):
    assume(not any(name in message["content"] for name in SPECIALS for message in messages))
    how = {"chat_template": FAMILIES[family], "add_generation_prompt": answer, "return_dict": False}
    assert TEMPLATES[family].render(messages, answer) == theirs.apply_chat_template(messages, **how)


def test_of_two_special_tokens_that_begin_alike_the_longer_one_is_meant(theirs):
    source, messages = "<|im_end|>!" + WHOLE + "<|im_end|>?", [{"role": "user", "content": "!"}]
    expected = theirs.apply_chat_template(messages, chat_template=source, return_dict=False)
    ids = JinjaTemplate(source, TOKENIZER).render(messages)
    assert ids == expected and ids[0] == TOKENIZER.special_tokens["<|im_end|>!"]


def specials(ids):
    return [i for i in ids if i in TOKENIZER.special_tokens.values()]


@each_family
@settings(max_examples=12)
@given(data=st.data())
def test_no_content_forges_a_special_token(family, data):
    hostile = st.lists(st.sampled_from([*SPECIALS, "X", "x0X", "{{ messages }}", "[INST]", "a", " "])).map("".join)
    said = data.draw(st.lists(hostile.filter(str.strip), min_size=1, max_size=4))
    messages = [{"role": ["user", "assistant"][i % 2], "content": content} for i, content in enumerate(said)]
    ids = TEMPLATES[family].render(messages)
    assert specials(ids) == specials(TEMPLATES[family].render([message | {"content": "a"} for message in messages]))
    text = TOKENIZER.theirs.decode(ids, skip_special_tokens=False)
    assert all(content.strip() in text for content in said), "and no content is lost"


@pytest.mark.parametrize("family", ["llama 3", "llama 2", "gemma"])
def test_a_conversation_begins_with_one_opening_token(family):
    ids = TEMPLATES[family].render([{"role": "user", "content": "<s>Hello"}])
    assert ids[0] == TOKENIZER.special_tokens["<s>"] and ids.count(ids[0]) == 1


@each_family
def test_the_beginning_of_an_answer_stays_the_beginning_of_the_next_prompt(family):
    messages = [
        *({"role": "system", "content": "Short answers."}, {"role": "user", "content": "Hello"}),
        *({"role": "assistant", "content": "I am well."}, {"role": "user", "content": " are you? "}),
        {"role": "assistant", "content": "Hello"},
    ]
    assert keeps_beginnings(TEMPLATES[family], messages)


def test_a_template_that_writes_earlier_answers_anew_is_recognized():
    source = CHATML.replace("message['content'] +", "('' if loop.last else 'so ') + message['content'] +")
    messages = [{"role": role, "content": "Hello"} for role in ("user", "assistant", "user", "assistant")]
    assert not keeps_beginnings(JinjaTemplate(source, TOKENIZER, VARIABLES), messages)
    assert keeps_beginnings(TEMPLATES["chatml"], messages)


def refusal(source, messages=({"role": "user", "content": "Hello"},), variables=VARIABLES):
    with pytest.raises(ValueError) as caught:
        JinjaTemplate(source, TOKENIZER, variables).render(list(messages))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500 and str(caught.value).isprintable()
    return str(caught.value)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ 'a' * 10**10 }}", "512 MB"),
        (
            "{% set n = namespace(x='a' * 99) %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
            "it needs more than",
        ),
        ("{% for i in range(10**9) %}{% endfor %}", "Range too big"),
        ("{% set r = range(99999) %}{% for i in r %}{% for j in r %}{% endfor %}{% endfor %}", "more than 2 s"),
        ("{{ 7 ** (10 ** 9) }}", "more than 2 s"),
        ("{% for i in range(9999) %}{{ 'a' * 999 }}{% endfor %}", "more than 1 MB"),
        ("{{ 'a' * 2**21 }}", "more than 1 MB"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "without an end"),
        ("{{ " + "(" * 9999 + "1" + ")" * 9999 + " }}", "without an end"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ cycler.__init__.__globals__.os.system('touch /tmp/w/forged') }}", "unsafe"),
        ("{{ ''['__cl' ~ 'ass__'].x }}", "unsafe"),
        ("{{ '{0.__class__}'.format(1).x.y }}", "has no attribute"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{% include '/etc/passwd' %}", "no loader"),
        ("{% for m in messages %}", "Unexpected end of template"),
        ("{{ raise_exception('not\x1b[2J\n' ~ messages[0].content ~ 'x' * 9999) }}", "not\\x1b[2J ...xxx"),
        ("{{ messages[0].content.x.y }}", "has no attribute"),
        ("nothing", "found it 0 times"),
        (WHOLE * 2, "found it 2 times"),
        ("{{ messages[0].content | upper }}", "found it 0 times"),
        ("{{ messages[0].content[:9] }}", "found it 0 times"),
        (WHOLE + "{{ messages[0].content[4:20] }}", "found a part"),
        (WHOLE + "{{ messages[0].content | title }}", "found a part"),
        (WHOLE + "{{ messages[0].content | replace('x0X', 'x99X') }}", "found a part"),
        ("{{ messages | tojson }}", "as JSON"),
    ],
)
def test_a_hostile_or_useless_template_is_one_sentence(source, expected, capfd):
    began = time.monotonic()
    assert expected in refusal(source)
    assert time.monotonic() - began < 15
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([], "expected a list of at least one"),
        ("Hello", "expected a list of at least one"),
        (["Hello"], "expected a role and a content"),
        ([{"role": "user"}], "expected a role and a content"),
        ([{"role": "user", "content": "a", "name": "b"}], "expected a role and a content"),
        ([{"role": "usr", "content": "a"}], "did you mean user"),
        ([{"role": "tool", "content": "a"}], "messages[0].role = 'tool'"),
        ([{"role": ["user"], "content": "a"}], "messages[0].role"),
        ([{"role": "user", "content": ["a"]}], "expected text"),
    ],
)
def test_what_is_no_conversation_is_refused(messages, expected):
    with pytest.raises(ValueError, match=re.escape(expected)):
        TEMPLATES["chatml"].render(messages)


def test_a_template_refuses_a_conversation_in_its_own_words():
    messages = [{"role": "user", "content": "Hello"}] * 2
    with pytest.raises(ValueError, match="template: roles must alternate"):
        TEMPLATES["llama 2"].render(messages)


def test_a_role_tool_is_for_templates_that_know_it():
    known = JinjaTemplate(
        CHATML.replace("message['role'] +", "('user' if message['role'] == 'tool' else 'x') +"), TOKENIZER
    )
    assert known.render([{"role": "tool", "content": "42"}])


def test_names_of_a_template_and_the_json_that_transformers_writes():
    source = "{% for i in [1, 2] %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}"
    source += "{{ {'b': 'é<', 'a': [1]} | tojson }}{{ [1] | tojson(indent=1) }}{{ strftime_now('%Y')|length }}" + WHOLE
    ids = JinjaTemplate(source, TOKENIZER).render([{"role": "user", "content": "?"}])
    assert TOKENIZER.decode(ids) == '1{"b": "é<", "a": [1]}[\n 1\n]4?'


def test_variables_come_from_the_tokenizer_or_are_bound_to_the_template():
    assert token_names(TOKENIZER) == VARIABLES and token_names(ByteTokenizer()) == {"eos_token": "<|end|>"}
    values = {"bos_token": 'a"\\\n{{é', "eos_token": "</s>"}
    ids = JinjaTemplate(bind("{{ bos_token }}" + WHOLE + "{{ eos_token }}", values), TOKENIZER, {}).render(
        [{"role": "user", "content": "Hello"}]
    )
    assert TOKENIZER.decode(ids[:-1]) == 'a"\\\n{{éHello' and ids[-1] == TOKENIZER.special_tokens["</s>"]


def test_whitespace_of_a_content_never_completes_a_special_token():
    class Spaced(ByteTokenizer):
        """Has a special token that ends in a newline."""

        def __init__(self):
            super().__init__()
            self.special_tokens = {"<|end|>": 256, "<|user|>\n": 255, "\n\n": 254}

    ids = JinjaTemplate("<|user|>" + WHOLE, Spaced()).render([{"role": "user", "content": "\n\nforged"}])
    assert bytes(ids) == b"<|user|>\n\nforged"


def process_of(template):
    return template.process.running.process


def test_the_process_is_kept_and_has_little_and_is_replaced_when_it_died():
    template = JinjaTemplate(CHATML, TOKENIZER)
    messages = [{"role": "user", "content": "Hello"}]
    expected = template.render(messages)
    first = process_of(template).pid
    assert template.render(messages) == expected and process_of(template).pid == first
    assert os.getsid(first) == first, "the terminal's Ctrl-C is not for it"
    if sys.platform == "linux":
        assert Path(f"/proc/{first}/environ").read_bytes() == b""
        limits = Path(f"/proc/{first}/limits").read_text()
        assert f"Max address space         {2**29}" in limits
    process_of(template).send_signal(signal.SIGKILL)
    process_of(template).wait()
    assert template.render(messages) == expected and process_of(template).pid != first
    with pytest.raises(ValueError, match="roles must"):
        template.source = LLAMA_2
        template.render([*messages, *messages])
    second = process_of(template)
    del template
    assert second.poll() is not None, "it ends with its template"


def test_the_process_ends_when_its_parent_is_killed():
    code = (
        "import os, signal; from minillm.interop.chat_template import JinjaTemplate\n"
        "from minillm.tokenizers.byte import ByteTokenizer\n"
        "t = JinjaTemplate('{{ messages[0].content }}', ByteTokenizer())\n"
        "t.render([{'role': 'user', 'content': 'a'}]); print(t.process.running.process.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    root = Path(__file__).parents[2]
    pid = int(subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True).stdout)
    until = time.monotonic() + 20
    while _runs(pid):
        assert time.monotonic() < until
        time.sleep(0.01)


def _runs(pid):
    """Whether a process runs; one that ended and was not waited for does not."""
    try:
        os.kill(pid, 0)
        return sys.platform != "linux" or Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_without_jinja2_a_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    template = JinjaTemplate(LLAMA_3, TOKENIZER)
    with pytest.raises(ValueError, match=r'jinja2 .*pip install "minillm\[interop\]"'):
        template.render([{"role": "user", "content": "Hello"}])
