"""The README and the configs show the measured figures."""

import json
from pathlib import Path

import pytest

from benchmarks.goals import GOALS, Goal
from benchmarks.readme import PAGE, ROWS, page, table, with_figures
from minillm.runs.config import CONFIGS, load_config

ROOT = Path(__file__).resolve().parents[1]
FIGURES = json.loads((ROOT / "benchmarks" / "figures.json").read_text(encoding="utf-8"))


def test_the_readme_shows_the_measured_figures():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert with_figures(readme) == readme, "run python -m benchmarks.readme"


def test_the_page_of_figures_shows_them_too():
    assert PAGE.read_text(encoding="utf-8") == page(FIGURES), "run python -m benchmarks.readme"


def test_every_measured_name_has_its_rows():
    assert set(FIGURES) <= set(ROWS)


def test_every_goal_is_that_of_a_row():
    assert set(GOALS) <= {(name, figure) for name, rows in ROWS.items() for _, figure, _ in rows}


@pytest.mark.parametrize(
    ("median", "said"),
    [
        (2.9, ">= 3.00 x: not reached, median 2.90 x"),
        (3, ">= 3.00 x: reached, median 3.00 x"),
        (3.1, ">= 3.00 x: reached, median 3.10 x"),
    ],
)
def test_the_table_says_by_the_median_whether_a_goal_was_reached(median, said):
    spread = {"mean": 7.0, "median": median, "low": 1.0, "high": 9.0, "n": 5}
    figures = {"decode": {"machine": "an abacus", "figures": {"over_transformers": spread}}}
    row = "over transformers with the same weights | 7.00 x | 1.00 x ... 9.00 x | 5 |"
    assert f"| {row} {said} |\n" in table(figures, {("decode", "over_transformers"): Goal(">=", 3)})
    assert f"| {row}\n" in table(figures)
    assert [Goal("<=", 3).reached(x) for x in (2, 3, 4)] == [True, True, False]


def test_each_row_names_its_machine_where_there_are_several():
    spread = {"mean": 7.0, "median": 7.0, "low": 1.0, "high": 9.0, "n": 5}
    entry = {"machine": "an abacus", "figures": {"speed_up": spread}}
    assert "Measured on an abacus.\n" in table({"decode-cache": entry})
    both = table({"decode-cache": entry, "imports": {"machine": "a rod", "figures": {"more_seconds": spread}}})
    assert "(`benchmarks.imports`) [1] |" in both and "over one with it [2] |" in both
    assert "Measured on [1] a rod; [2] an abacus.\n" in both


@pytest.mark.parametrize("name", sorted(path.stem for path in CONFIGS.glob("*.toml")))
def test_a_config_expects_what_was_measured(name):
    about = load_config(name).about
    assert about.summary
    if name not in FIGURES:  # nothing measured, nothing promised
        assert about.expected_loss == 0 == about.expected_seconds
        return
    figures = FIGURES[name]["figures"]
    assert about.expected_loss == pytest.approx(figures["val_loss"]["mean"], abs=0.02)
    assert about.expected_seconds == pytest.approx(figures["seconds"]["mean"], rel=0.15)


@pytest.mark.parametrize("name", sorted(path.stem for path in CONFIGS.glob("*.toml")))
def test_the_readme_names_every_config(name):
    assert f"`{name}`" in (ROOT / "README.md").read_text(encoding="utf-8")
