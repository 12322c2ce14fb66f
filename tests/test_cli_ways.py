"""Decoding methods by the scripts: beam search, best-of-N, explanations; and combinations that are refused."""

import json
import re

import pytest

import sample
import train
from minillm.decoding import explain
from tests.test_cli import flags


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    path = tmp_path_factory.mktemp("ways") / "gpt"
    assert train.main(["--config", "gpt-tiny", *flags(train__run=path)]) == 0
    return path


def asked(trained, capsys, *words) -> str:
    assert sample.main(["--run", str(trained), "--prompt", "One day", "--max-new-tokens", "12", *words]) == 0
    return capsys.readouterr().out.partition("\n\n")[2]


def test_one_beam_is_greedy_and_more_are_at_least_as_probable(trained, capsys):
    greedy = asked(trained, capsys, "--temperature", "0").rstrip("\n")
    one = asked(trained, capsys, "--beams", "1", "--length-penalty", "0").rstrip("\n")
    assert one.startswith(greedy + "\n[")
    several = asked(
        trained, capsys, "--beams", "4", "--num-return", "3", "--length-penalty", "0", "--early-stopping", "never"
    )
    scores = [float(score) for score in re.findall(r"\[(-[\d.]+) = -[\d.]+ / \d+\^0\]", several)]
    assert len(scores) == 3 and scores == sorted(scores, reverse=True) and several.count("One day") == 3
    assert scores[0] >= float(re.search(r"\[(-[\d.]+) =", one)[1])


def test_beams_never_repeat_what_they_may_not(trained, capsys):
    [text] = re.findall(r"One day(.*)\n\[", asked(trained, capsys, "--beams", "3", "--no-repeat-ngram", "1"), re.S)
    assert text != re.findall(r"One day(.*)\n\[", asked(trained, capsys, "--beams", "3"), re.S)[0]


def test_the_best_of_several_is_one_of_them_and_the_most_probable(trained, capsys):
    out = asked(trained, capsys, "--best-of", "5", "--num-samples", "5", "--seed", "2")
    ranked = re.findall(r"\[(-[\d.]+) nats a token, seed (\d)\]", out)
    assert [float(score) for score, _ in ranked] == sorted((float(score) for score, _ in ranked), reverse=True)
    assert {int(seed) for _, seed in ranked} <= set(range(2, 7)) and "of 5" in out.splitlines()[-1]
    best = out[: out.index("\n[")]
    assert asked(trained, capsys, "--seed", ranked[0][1]).rstrip("\n") == best
    assert asked(trained, capsys, "--best-of", "5", "--seed", "2").startswith(best + "\n[")


def test_reasons_are_shown_and_kept_and_change_nothing(trained, capsys, tmp_path):
    plain = asked(trained, capsys, "--top-p", "0.9", "--seed", "5").rstrip("\n")
    path = tmp_path / "why.json"
    out = asked(trained, capsys, "--top-p", "0.9", "--seed", "5", "--explain", str(path))
    assert out.startswith(plain + "\n\n   1  ") and "top-p 0.9" in out and f"replay {path}" in out
    assert json.loads(path.read_text())["prompt"] == "One day" and explain.main(["replay", str(path)]) == 0
    first = path.read_bytes()
    assert asked(trained, capsys, "--top-p", "0.9", "--seed", "5", "--explain") in out
    asked(trained, capsys, "--top-p", "0.9", "--seed", "5", "--explain", str(path))
    assert path.read_bytes() == first, "an explanation is the same to the last byte"


def test_the_verdict_on_every_guess_is_told_and_changes_nothing(trained, capsys, tmp_path):
    path, words = tmp_path / "why.json", ["--top-p", "0.9", "--seed", "5", "--draft", "ngram", "--draft-tokens", "2"]
    drafted = asked(trained, capsys, *words)
    out = asked(trained, capsys, *words, "--explain", str(path))
    written = out[: out.index("\n\n   1  ")]
    assert drafted.startswith(written + "\n")
    assert "accepted, since" in out and "rejected, since" in out and "residual max(0, p - q)" in out
    assert explain.main(["replay", str(path)]) == 0


BAD = {
    "beams and a temperature": (
        ["--beams", "2", "--temperature", "0.7"],
        "--temperature would be ignored beside --beams",
    ),
    "beams and a seed": (["--beams", "2", "--seed", "1"], "--seed would be ignored beside --beams"),
    "beams and a stream": (["--beams", "2", "--stream"], "--stream would be ignored beside --beams"),
    "beams and a preset": (["--beams", "2", "--preset", "factual"], "--preset would be ignored beside --beams"),
    "beams and a draft": (["--beams", "2", "--draft", "prompt"], "--draft would be ignored beside --beams"),
    "a penalty without beams": (["--length-penalty", "2"], "--length-penalty would be ignored without --beams"),
    "more to return than beams": (["--beams", "2", "--num-return", "3"], "num_return = 3: expected at most beams = 2"),
    "the best of a stream": (["--best-of", "2", "--stream"], "--stream would be ignored beside --best-of"),
    "the best of equals": (["--best-of", "2", "--temperature", "0"], "--best-of 2 would give the same text each time"),
    "more than compete": (["--best-of", "2", "--num-samples", "3"], "--num-samples 3: expected at most --best-of 2"),
    "an overlap without a best": (["--same-overlap", "0.5"], "--same-overlap would be ignored without --best-of"),
    "reasons for several": (["--explain", "--num-samples", "2"], "--num-samples would be ignored beside --explain"),
    "reasons for tokens drafted by nobody": (
        ["--explain", "--draft-tokens", "2"],
        "--draft-tokens would be ignored without --draft",
    ),
}


@pytest.mark.parametrize(("words", "sentence"), BAD.values(), ids=BAD.keys())
def test_what_would_be_ignored_is_one_sentence_and_status_2(trained, words, sentence, capsys):
    assert sample.main(["--run", str(trained), *words]) == 2
    err = capsys.readouterr().err
    assert sentence in err and err.count("\n") == 1
