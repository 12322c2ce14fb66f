"""A new objective, task or model family is a file and an edit, tested in a copy; a forgotten part is a clear error."""

import dataclasses
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest

import train
from minillm.runs.config import RunConfig
from minillm.tasks.gradients import GradientTask
from minillm.tasks.next_token import NextToken
from tests.small_runs import SMALL, TEXT
from tests.tiny import flags

ROOT = Path(__file__).resolve().parents[2]
TASK = '''"""Prediction of the token before each: rows are read from their end."""

from dataclasses import dataclass
from typing import Literal

from minillm.tasks.next_token import NextToken


@dataclass(frozen=True)
class Backwards(NextToken):
    """See the module."""

    kind: Literal["backwards"] = "backwards"  # what is learned
    every: bool = True  # each row, or none

    def batches(self, settings, data, frozen):
        batch = super().batches(settings, data, frozen)
        return lambda step: type(batch(step))(*(part.flip(1) for part in reversed(batch(step))))
'''
FAMILY = '''"""A model family."""

from dataclasses import dataclass
from typing import Literal

from minillm.models.decoder import Decoder, DecoderConfig


@dataclass(frozen=True)
class TwinConfig(DecoderConfig):
    """The shape of a twin."""

    kind: Literal["twin"] = "twin"  # what the model is


class Twin(Decoder):
    """See the module."""
'''
OBJECTIVE = '''"""Seven times the loss of the next token."""

from minillm.objectives.loss import Loss
from minillm.objectives.next_token import next_token


def sevenfold(model, batch):
    loss = next_token(model, batch)
    return Loss(7 * loss.total, loss.count, loss.metrics)
'''


def edit(path: Path, *changes: tuple[str, str]) -> None:
    text = path.read_text()
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    path.write_text(text)


def test_a_task_a_model_family_and_an_objective_are_a_file_and_an_edit_each(tmp_path):
    for name in ("minillm", "configs"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("train.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "my.txt").write_text(TEXT)
    library, of_blanks = tmp_path / "minillm", "from minillm.tasks.blanks import Blanks\n"
    (library / "tasks" / "backwards.py").write_text(TASK)
    edit(
        library / "runs" / "config.py",
        (of_blanks, f"from minillm.tasks.backwards import Backwards\n{of_blanks}"),
        ("AnyTask = NextToken | Count", "AnyTask = NextToken | Backwards | Count"),
    )
    (library / "models" / "twin.py").write_text(FAMILY)
    (library / "objectives" / "sevenfold.py").write_text(OBJECTIVE)
    imports = "from minillm.models.twin import Twin, TwinConfig\nfrom minillm.objectives.sevenfold import sevenfold\n"
    edit(
        library / "tasks" / "next_token.py",
        ("\n\n\n@dataclass", f"\n{imports}\n\n@dataclass"),
        ("DecoderConfig: Decoder, RNNConfig: RNN}", "DecoderConfig: Decoder, RNNConfig: RNN, TwinConfig: Twin}"),
        ("return smoothed(next_token, self.label_smoothing)", "return sevenfold"),
    )
    kinds = ["--task.kind", "backwards", "--task.every", "false", "--model.kind", "twin"]
    words = [*flags(SMALL, data__corpus="my.txt", train__run="run", train__max_steps=2), *kinds]
    command = [sys.executable, "train.py", "--config", "gpt-tiny", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    config = (tmp_path / "run" / "config.toml").read_text()
    assert config.startswith('[task]\nkind = "backwards"') and '\nkind = "twin"' in config
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    guess = math.log(len(set(TEXT)) + 1)
    assert rows[0]["loss"] == pytest.approx(7 * guess, rel=0.05), "the new objective is minimized"
    assert rows[-1]["val_loss"] < 2 * guess, "validation is that of the next token"


@pytest.mark.parametrize("key", ["task.kind", "model.kind"])
def test_a_kind_that_was_written_and_not_named_is_a_sentence(key, capsys):
    assert train.main(["--config", "gpt-tiny", f"--{key}", "backwards"]) == 2
    err = capsys.readouterr().err
    assert f"{key} = 'backwards': expected one of " in err and err.count("\n") == 1


@dataclasses.dataclass(frozen=True)
class Aimless(NextToken):
    """A task without models."""

    kind: Literal["aimless"] = "aimless"
    models = {}  # noqa: RUF012


def test_a_task_without_models_is_a_sentence():
    with pytest.raises(ValueError, match=r"^task\.kind = aimless: expected models .*; list them in Aimless\.models$"):
        dataclasses.replace(RunConfig(), task=Aimless())


def test_a_task_without_a_method_names_it():
    class Idle(GradientTask):
        """A task without methods."""

    with pytest.raises(TypeError, match=r"abstract class Idle .*batches.*demonstrate"):
        Idle()
