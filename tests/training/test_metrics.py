"""The log of a run."""

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minillm.training.metrics import MetricsLog, PlainLines, read_metrics, told


def test_rows_come_back_as_they_were_written(tmp_path):
    log = MetricsLog(tmp_path / "run" / "metrics.jsonl")
    rows = [{"step": 1, "loss": 3.25}, {"step": 2, "loss": 1e-9, "note": "é\n"}]
    for row in rows:
        log.write(row)
    assert read_metrics(log.path) == rows
    assert len(log.path.read_text().splitlines()) == 2


def test_a_run_that_goes_on_drops_what_came_after_its_checkpoint_and_a_line_that_was_cut_short(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path)
    for step in (1, 2, 2, 3, 4):
        log.write({"step": step})
    with path.open("a") as file:
        file.write('{"step": 5, "lo')
    assert [row["step"] for row in read_metrics(path)] == [1, 2, 2, 3, 4]
    resumed = MetricsLog(path, last_step=2)
    resumed.write({"step": 3, "again": True})
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines == [{"step": 1}, {"step": 2}, {"step": 2}, {"step": 3, "again": True}]


def test_a_new_run_begins_with_an_empty_log_and_no_file_is_no_rows(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert read_metrics(path) == []
    MetricsLog(path).write({"step": 1})
    MetricsLog(path)
    assert path.read_text() == ""


@given(st.floats(0.1, 7), st.floats(0, 11), st.floats(0.1, 7), st.floats(0, 11))
def test_each_regret_is_told_in_percent_of_its_own_source(source, regret, test_source, test_regret):
    metrics = {"val_loss": 2.0, "source_loss": source, "regret": regret, "steps": 3}
    metrics |= {"test_source_loss": test_source, "test_regret": test_regret}
    texts = told(metrics)
    assert list(texts) == list(metrics) and (texts["val_loss"], texts["steps"]) == ("2.0000", "3")
    assert float(texts["regret"].removesuffix(" %")) == pytest.approx(100 * regret / source, abs=0.06)
    assert float(texts["test_regret"].removesuffix(" %")) == pytest.approx(100 * test_regret / test_source, abs=0.06)


@given(st.lists(st.text("ab \r", max_size=7) | st.just("\n"), max_size=5))
def test_plain_lines_hold_what_was_written_without_carriage_returns_and_blank_lines(texts):
    stream = io.StringIO()
    for text in texts:
        PlainLines(stream).write(text)
    written = stream.getvalue()
    assert "\r" not in written and all(line.strip() for line in written.split("\n")[:-1])
    assert "".join(written.split()) == "".join("".join(texts).split()) and (not written or written.endswith("\n"))
