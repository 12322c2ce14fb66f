"""An edit of the plain source on disk takes effect in training, and one line per twin says that it is not used."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import train
from minillm.training.metrics import read_metrics
from tests.test_cli import flags

ROOT = Path(__file__).resolve().parents[2]
TRAINING = """
import sys, train
for fast in ("true", "false"):
    assert train.main([*sys.argv[1:], "--train.run", fast, "--train.fast", fast]) == 0
"""
EDITS = {
    "minillm/objectives/cross_entropy.py": ("return nats.masked_fill(", "return 2 * nats.masked_fill("),
    "minillm/layers/feedforward.py": ("return self.down(self.activation(", "return 3 * self.down(self.activation("),
    "minillm/training/optim.py": ("p -= lr * m_hat", "p -= 5 * lr * m_hat"),
}


def losses_of(run: Path) -> list[float]:
    return [row["loss"] for row in read_metrics(run / "metrics.jsonl") if "loss" in row]


def test_edits_of_an_objective_a_layer_and_an_optimizer_take_effect(tmp_path):
    for name in ("minillm", "configs"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "train.py", tmp_path)
    for name, (before, after) in EDITS.items():
        text = (tmp_path / name).read_text()
        assert text.count(before) == 1
        (tmp_path / name).write_text(text.replace(before, after))
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog, and the dog sleeps on.\n" * 60)
    how = {"data.corpus": tmp_path / "text.txt", "tokenizer.kind": "byte", "model.dropout": 0.0}
    how |= {"train.max_steps": 3, "train.log_every": 1, "train.precision": "fp32"}
    words = ["--config", "gpt-tiny", *flags(**{name.replace(".", "__"): value for name, value in how.items()})]
    command = [sys.executable, "-c", TRAINING, *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert train.main([*words, "--train.run", str(tmp_path / "unedited")]) == 0
    fast, plain, unedited = (losses_of(tmp_path / name) for name in ("true", "false", "unedited"))
    assert fast == pytest.approx(plain, rel=1e-5), "which they would not be if a twin ran on"
    assert plain[0] > 1.9 * unedited[0] and plain[0] != pytest.approx(2 * unedited[0], rel=1e-6)
    assert plain[0] - plain[2] > 3 * (unedited[0] - unedited[2])
    for name in ("cross_entropy.cross_entropy", "MLP.forward", "AdamW.step"):
        [line] = [line for line in done.stderr.splitlines() if f".{name} was changed" in line]
        assert "runs without its fast twin" in line and "python -m minillm.speed sign" in line
