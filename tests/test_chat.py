"""python -m minillm.chat: a conversation with a small run, its commands, and what it refuses."""

import io
import json
import shutil
import signal
import sys

import pytest

import minillm
from minillm import chat
from minillm.console import chatting
from minillm.console.terminal import visible
from minillm.interop.chat_template import JinjaTemplate
from minillm.runs import folder
from tests.small_runs import started

pytest.importorskip("jinja2")
TEMPLATE = """\
{% for m in messages %}
{{ '<|end|>' ~ m.role ~ '\\n' ~ m['content'] -}}
{% endfor %}
{% if add_generation_prompt %}
<|end|>assistant
{% endif %}"""
SIZES = {"tokenizer__kind": "byte", "model__context_length": 96, "text__max_new_tokens": 5}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of two steps with a chat template."""
    how = {"train__max_steps": 2, "schedule__warmup_steps": 0, "text__template": TEMPLATE}
    return started(tmp_path_factory.mktemp("chat"), **SIZES, **how)


def chatted(run, monkeypatch, capsys, *lines, flags=("--seed", 3), status=0):
    """The output for these lines of input, below the two lines about the run; and the errors."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
    capsys.readouterr()
    assert chat.main([*([str(run)] if run else []), *map(str, flags)]) == status
    found = capsys.readouterr()
    return found.out.partition("\n\n")[2], found.err


def ids(*said):
    """The ids of messages in turn, from a user, and of the beginning of the answer."""
    found = []
    for i, content in enumerate(said):
        found += [256, *f"{['user', 'assistant'][i % 2]}\n{content}".encode()]
    return [*found, 256, *b"assistant\n"]


def test_a_run_keeps_its_template_and_reads_it_again(run):
    opened = folder.open_run(run)
    assert opened.config.text.template == TEMPLATE and TEMPLATE.splitlines()[0] in (run / "config.toml").read_text()
    assert opened.text.converse([{"role": "user", "content": "<|end|>"}]) == ids("<|end|>")


def test_each_answer_is_the_models_and_is_counted_in_the_next_question(run, monkeypatch, capsys):
    out, err = chatted(run, monkeypatch, capsys, "hello", "", "bye", flags=("--seed", 3, "--top-p", 1))
    text, sampling = folder.open_run(run).text, chat.SamplingConfig()
    how = {"sampling": sampling, "max_new_tokens": 5}
    first = text.generate([ids("hello")], seeds=[3], **how)[0].text
    second = text.generate([ids("hello", first, "bye")], seeds=[4], **how)[0].text
    cut = "[cut off by --max-new-tokens 5]\n"
    assert out == f"{visible(first)}\n{cut}{visible(second)}\n{cut}" and err == ""


def test_commands_change_the_conversation(run, monkeypatch, capsys, tmp_path):
    saved = tmp_path / "saved.json"
    lines = [
        *("/system Be kind.", "/temperature 0", "one \\", "text", '"""', "two", 'lines"""', "//sent", "/undo"),
        *("/retry", f"/save {saved}", "/help", "/quit", "never read"),
    ]
    out, err = chatted(run, monkeypatch, capsys, *lines)
    messages = json.loads(saved.read_text())
    contents = [message["content"] for message in messages if message["role"] == "user"]
    assert contents == ["one \ntext", "\ntwo\nlines"] and err == ""
    assert messages[0] == {"role": "system", "content": "Be kind."} and len(messages) == 5
    assert "taken back: /sent" in out and "/retry" in out and out.endswith(chatting.HELP + "\n")
    model = minillm.load(run)
    assert model.chat(messages[:-1], temperature=0) == messages[-1]["content"], "greedy, so the seed is no matter"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("/tempreture 3", "did you mean /temperature?"),
        ("/temperature x", "--temperature = 'x': expected float >= 0"),
        ("/temperature -1", "expected float >= 0"),
        ("/undo", "expected one to take back"),
        ("/retry", "expected one to take back"),
        ("/undo 3", "expected nothing after /undo"),
        ("/save", "expected the name of a new file"),
        ("/save /dev/null", "expected the name of a new file"),
        ("/save /proc/nowhere/x.json", "expected"),
        ("a" * 99, "99 characters: expected fewer"),
        ("\udcff", "lone surrogate"),
    ],
)
def test_what_cannot_be_done_is_said_and_the_chat_goes_on(run, monkeypatch, capsys, line, expected):
    out, err = chatted(run, monkeypatch, capsys, line, "/temperature 0.5")
    assert expected in err and err.count("\n") == 1 and out == "temperature 0.5\n"


def test_a_message_without_its_end_is_not_sent(run, monkeypatch, capsys):
    for lines in (["/temperature 1", "abc\\"], ["/temperature 1", '"""', "abc"]):
        assert (
            chatted(run, monkeypatch, capsys, *lines)[0]
            == "temperature 1\nthe last message has no end and was not sent\n"
        )


def test_ctrl_c_stops_an_answer_and_the_second_one_ends_the_chat(run, monkeypatch, capsys):
    prompts = iter(["hello", "again", KeyboardInterrupt, "/help", KeyboardInterrupt, KeyboardInterrupt, "never"])
    shown = []

    def read(prompt):
        line = next(prompts)
        if line is KeyboardInterrupt:
            raise KeyboardInterrupt
        return line

    def show(piece):
        shown.append(piece)
        if len(shown) == 2:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(chatting, "read_line", read)
    monkeypatch.setattr(chatting, "show", show)
    out, _ = chatted(
        run, monkeypatch, capsys, flags=("--seed", 1, "--banned-tokens", ",".join(map(str, range(128, 257))))
    )
    assert out.count("[stopped]") == 1 and len(shown) == 2 + 5, "one answer of two tokens, one of five"
    assert out.count("Ctrl-C again") == 2 and chatting.HELP in out and next(prompts) == "never"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_stats_tell_what_was_read_and_reused(run, monkeypatch, capsys):
    printable = ("--banned-tokens", ",".join(str(i) for i in range(257) if not 65 <= i < 91))
    out, _ = chatted(run, monkeypatch, capsys, "hello", "bye", flags=("--seed", 3, "--stats", *printable))
    first, second = [line for line in out.splitlines() if "reused" in line]
    n_first = len(ids("hello"))
    assert first.startswith(f"[{n_first} tokens read, 0 reused; first token after ") and " 5 written at " in first
    assert second.startswith(f"[{1 + len(ids('bye'))} tokens read, {n_first + 4} reused; ")


def test_a_full_context_is_remarked(run, monkeypatch, capsys):
    out, _ = chatted(run, monkeypatch, capsys, "a" * 40, "b" * 40, "c" * 30)
    assert out.count("the oldest turn is left out from now on") == 1 and "the oldest 2 turns are left out" in out


@pytest.mark.parametrize(
    "written", ["('' if loop.last else 'so ') ~ m['content']", "m['content'].split('</think>')[-1]"]
)
def test_a_template_that_writes_earlier_turns_anew_is_remarked_once(written, run, monkeypatch, capsys):
    real = folder.open_run

    def rewriting(*how):
        opened = real(*how)
        opened.text.template = JinjaTemplate(TEMPLATE.replace("m['content']", written), opened.text.tokenizer)
        return opened

    assert "writes earlier turns anew" not in chatted(run, monkeypatch, capsys, "a")[0]
    monkeypatch.setattr(folder, "open_run", rewriting)
    monkeypatch.setattr(sys, "stdin", io.StringIO("a\nb\n"))
    assert chat.main([str(run)]) == 0
    assert capsys.readouterr().out.count("writes earlier turns anew") == 1


def test_the_newest_run_with_a_template_is_taken_and_one_without_is_refused(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert "expected a run with a chat template, found none" in chatted(None, monkeypatch, capsys, status=2)[1]
    (tmp_path / "runs").mkdir()
    imported = shutil.copytree(run, tmp_path / "runs" / "speaks")
    (imported / "checkpoint" / "latest.pt").unlink()
    plain = started(tmp_path, **SIZES, train__max_steps=1, schedule__warmup_steps=0)
    plain.rename(tmp_path / "runs" / "plain")
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    capsys.readouterr()
    assert chat.main([]) == 0
    assert capsys.readouterr().out.startswith("run runs/speaks (step 2); top-p 0.9 -> draw; seed ")
    _, err = chatted("runs/plain", monkeypatch, capsys, status=2)
    assert "found none; name another, or continue a text with: python sample.py --run runs/plain" in err
    with pytest.raises(ValueError, match="expected a model that has learned from conversations"):
        minillm.load("runs/plain").chat([{"role": "user", "content": "a"}])


@pytest.mark.parametrize("flags", [("--top-p", "2"), ("--seed", "x"), ("--max-new-tokens", "x"), ("--preset", "x")])
def test_wrong_flags_are_refused(run, monkeypatch, capsys, flags):
    if flags[0] == "--preset":
        with pytest.raises(SystemExit):
            chat.main([str(run), *flags])
        assert "expected one of factual" in capsys.readouterr().err
    else:
        assert f"{flags[0]} = " in chatted(run, monkeypatch, capsys, flags=flags, status=2)[1]


def test_a_model_cannot_drive_the_terminal():
    assert visible("\x1b]0;title\a\r\x9b2J\u202egnp\u2028\ud800") == (r"\x1b]0;title\x07\r\x9b2J\u202egnp\u2028\ud800")
    assert visible("né\t日\n👩‍🔬 \u00a0") == "né\t日\n👩‍🔬 \u00a0"
