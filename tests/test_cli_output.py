"""The output of training: the important numbers in one unit, as plain lines without a terminal."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

import train
from minillm.config.loading import to_toml
from minillm.runs.config import CONFIGS, RunConfig
from tests import tiny
from tests.test_cli import SMALL

ROOT = Path(__file__).resolve().parents[1]
flags = partial(tiny.flags, SMALL)


@pytest.fixture(scope="module")
def shown(tmp_path_factory) -> tuple[str, str]:
    """stdout and stderr of a run, both of them files."""
    folder = tmp_path_factory.mktemp("work")
    command = [sys.executable, str(ROOT / "train.py"), "--config", "gpt-tiny", *flags(data__corpus="stories")]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    assert (folder / "runs" / "gpt-tiny" / "config.toml").read_text().count("\n") > 100
    return done.stdout, done.stderr


def test_before_the_first_result_stands_what_is_not_the_default_and_where_the_rest_is(shown):
    before = shown[0].partition("\nstep ")[0].splitlines()
    assert len(before) < 25
    text = "\n".join(before)
    assert (
        "[model]      kind decoder, n_layers 1, d_model 16," in text
        and "max_steps 12" in text
        and "grad_clip" not in text
    )
    assert "[about]" not in text and "runs/gpt-tiny; its config.toml holds every key" in text


def test_the_regret_is_told_in_percent_and_in_nothing_else(shown):
    lines = [line for line in shown[0].splitlines() if "regret" in line]
    assert len(lines) > 3 and all(line.partition("regret")[2].strip().endswith(" %") for line in lines)


def test_where_stderr_is_no_terminal_progress_is_a_line_at_a_time(shown):
    lines = shown[1].split("\n")
    assert "\r" not in shown[1] and lines[-1] == "" and all(" of 12 steps, " in line for line in lines[:-1])
    assert lines[-2].startswith("12 of 12 steps, ") and "loss=" in lines[-2]


def test_a_profile_names_no_folder_since_it_makes_none(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert train.main(["--config", "gpt-tiny", *flags(), "--profile", "2"]) == 0
    assert "runs/" not in capsys.readouterr().out and not list(tmp_path.iterdir())


def test_a_dry_run_prints_the_whole_config_which_no_folder_will_hold(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert train.main(["--config", "gpt-tiny", *flags(), "--dry-run"]) == 0
    out = capsys.readouterr().out
    known = {line.partition(" = ")[0] for line in to_toml(RunConfig()).splitlines()}
    assert known <= {line.partition(" = ")[0] for line in out.splitlines()} and not list(tmp_path.iterdir())


def test_a_table_has_no_parameters_before_it_is_counted_and_its_entries_after(tmp_path, capsys):
    words = ["--data.n_stories", "50", "--tokenizer.vocab_size", "500", "--train.run", str(tmp_path / "run")]
    assert train.main(["--config", "ngram-tiny", *words]) == 0
    out = capsys.readouterr().out
    assert "[model]      kind ngram\n" in out and " a table of counts instead of parameters\n" in out
    [line] = [line for line in out.splitlines() if line.strip().startswith("parameters")]
    assert int(line.split()[1]) > 500


def test_help_is_a_page_that_names_every_config_and_help_all_has_every_key(capsys):
    pages = []
    for flag in ("--help", "--help-all"):
        with pytest.raises(SystemExit) as stopped:
            train.main([flag])
        assert stopped.value.code == 0
        pages.append(capsys.readouterr().out)
    assert len(pages[0].splitlines()) < 60 and pages[0].index("--config gpt-tiny") < pages[0].index("gpt-shakespeare")
    assert {path.stem for path in CONFIGS.glob("*.toml")} <= set(pages[0].replace(",", " ").split())
    assert "--sampling.typical_p" in pages[1] and "--sampling.typical_p" not in pages[0]
