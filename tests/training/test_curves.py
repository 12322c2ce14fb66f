"""Loss curves as text and as a picture."""

import math
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minillm.training.curves import curves_of, marks, save_plot, terminal_plot


def test_rows_become_one_curve_for_each_kind_of_loss_without_what_is_not_finite():
    rows = [
        {"step": 1, "loss": 3.0},
        {"step": 2, "loss": math.inf},
        {"step": 2, "val_loss": 2.5},
        {"step": 3, "lr": 0.1},
    ]
    assert curves_of(rows) == {"training loss": [(1, 3.0)], "validation loss": [(2, 2.5)]}
    assert curves_of([]) == {}


def test_a_curve_runs_from_its_highest_value_at_the_top_to_its_lowest_at_the_bottom():
    falling = [(step, 5.0 - step / 25) for step in range(101)]
    lines = terminal_plot({"loss": falling, "val": [(0, 5.0), (100, 1.0)]}, width=40, height=9).splitlines()
    assert len(lines) == 9 + 3
    assert lines[0].startswith("   5.000 |") and lines[8].startswith("   1.000 |")
    body = [line[10:].ljust(40) for line in lines[:9]]
    assert body[0][0] == "v" and body[8][39] == "v"
    assert [line.index("l") for line in body] == sorted(line.index("l") for line in body)
    assert lines[-2].split() == ["0", "100"]
    assert "l = loss, v = val over steps" in lines[-1]
    assert all(len(line) <= 50 for line in lines[:10])


@given(st.lists(st.text("ab", max_size=3), max_size=15))
def test_every_curve_has_a_mark_of_its_own(names):
    found = marks(names)
    assert len(found) == len(names) == len(set(found)) and all(len(mark) == 1 for mark in found)


def test_a_curve_of_one_point_is_seen_beside_a_long_one():
    lines = terminal_plot({"training": [(i, 9.0 - i / 20) for i in range(100)], "validation": [(50, 5.0)]}).splitlines()
    assert sum(line[10:].count("v") for line in lines[:12]) == 1


@pytest.mark.parametrize("curves", [{}, {"loss": []}, {"loss": [(1, 2.0)]}])
def test_too_few_points_are_no_plot(curves):
    assert terminal_plot(curves) == "(too few points for a plot)"


@pytest.mark.parametrize("curve", [[(1, 2.0), (1, 2.0)], [(1, 2.0), (9, 2.0)], [(3, 1.0), (3, 7.0)]])
def test_flat_and_upright_curves_can_be_drawn(curve):
    assert "l" in terminal_plot({"loss": curve}).splitlines()[0][10:]


def test_without_matplotlib_there_is_no_picture_and_no_error(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    assert save_plot({"loss": [(1, 2.0), (2, 1.0)]}, tmp_path / "loss.png") is False
    assert not (tmp_path / "loss.png").exists()


def test_a_picture_marks_single_points_and_draws_the_floor(tmp_path, monkeypatch):
    figure = pytest.importorskip("matplotlib.figure")
    drawn = []
    monkeypatch.setattr(
        figure, "Figure", lambda *args, make=figure.Figure, **how: drawn.append(make(*args, **how)) or drawn[-1]
    )
    both = {"loss": [(i, 1 / (i + 1)) for i in range(200)], "val": [(1, 2.0)]}
    assert save_plot(both, tmp_path / "loss.png", floor=0.25)
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    long, point, floor = drawn[0].axes[0].lines
    assert point.get_marker() == "o" and long.get_marker() in ("", "None")
    assert set(floor.get_ydata()) == {0.25}
