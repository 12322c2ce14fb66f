"""What the README and the configs promise is what was measured."""

import json
from pathlib import Path

import pytest

from benchmarks.readme import ROWS, with_figures
from minillm.run_config import CONFIGS, load_config

ROOT = Path(__file__).resolve().parents[1]
FIGURES = json.loads((ROOT / "benchmarks" / "figures.json").read_text(encoding="utf-8"))


def test_the_readme_shows_the_measured_figures():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert with_figures(readme) == readme, "run python -m benchmarks.readme"


def test_every_measured_name_has_its_rows():
    assert set(FIGURES) <= set(ROWS)


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
