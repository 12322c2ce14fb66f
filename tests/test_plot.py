"""python -m minillm.plot: one run drawn, several compared."""

import json

import pytest

from minillm.plot import main


def make_run(path, losses, val):
    path.mkdir()
    rows = [{"step": i + 1, "seconds": 2.0 * (i + 1), "loss": loss} for i, loss in enumerate(losses)]
    rows += [{"step": step, "val_loss": loss} for step, loss in val]
    if val:
        (path / "summary.json").write_text(
            json.dumps({"steps": len(losses), "bits_per_byte": 0.625, "source_loss": 0.25})
        )
    (path / "metrics.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in sorted(rows, key=lambda row: row["step"]))
    )
    return path


def test_one_run_shows_both_losses_and_leaves_the_picture_in_its_folder(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    run = make_run(tmp_path / "a", [3.0, 2.0, 1.0], [(2, 2.5), (3, 1.5)])
    assert main([str(run)]) == 0
    said = capsys.readouterr().out
    assert "t = training loss, v = validation loss over steps" in said and str(run / "loss.png") in said
    assert (run / "loss.png").is_file()


def test_several_runs_are_compared_by_their_best_validation(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    first = make_run(tmp_path / "first", [3.0, 2.0, 1.0], [(1, 1.25), (3, 1.5)])
    second = make_run(tmp_path / "second", [4.0, 3.0], [])
    out = tmp_path / "both.png"
    assert main([str(first), str(second), "--out", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    of_first, of_second = (
        next(line.split() for line in lines if line.startswith(f"{run} ")) for run in ("first", "second")
    )
    assert "f = first, s = second over steps" in "\n".join(lines)
    assert of_first[1:] == ["3", "6.0", "1.0000", "1.2500", "0.6250"]
    assert of_second[1:] == ["2", "4.0", "3.0000", "-", "-"]
    assert out.is_file()


@pytest.mark.parametrize("there", [True, False])
def test_a_folder_without_a_log_is_refused_in_a_sentence(tmp_path, capsys, there):
    run = tmp_path / "none"
    if there:
        run.mkdir()
    assert main([str(run)]) == 2
    assert "expected the folder of a run" in capsys.readouterr().err


def test_the_floor_is_the_entropy_of_the_source_where_all_runs_have_the_same(tmp_path, monkeypatch):
    floors = []
    monkeypatch.setattr("minillm.plot.save_plot", lambda curves, path, floor: floors.append(floor))
    known = [make_run(tmp_path / name, [3.0, 2.0], [(2, 1.5)]) for name in ("a", "b")]
    unknown = make_run(tmp_path / "c", [3.0, 2.0], [])
    for runs in (known[:1], known, [known[0], unknown], [unknown]):
        assert main([*map(str, runs)]) == 0
    assert floors == [0.25, 0.25, None, None]
