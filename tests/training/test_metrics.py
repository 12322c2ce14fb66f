"""The log of a run."""

import json

from minillm.training.metrics import MetricsLog, read_metrics


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
