"""The results of an encoder: masked tokens, then labels."""

import json

import pytest

import train


@pytest.mark.slow
def test_an_encoder_learns_to_fill_in_blanks_and_then_to_tell_endings(tmp_path):
    words = [
        "--config",
        "encoder-tiny",
        "--train.max_steps",
        "600",
        "--train.eval_every",
        "600",
        "--train.run",
        str(tmp_path / "encoder"),
    ]
    assert train.main(words) == 0
    assert json.loads((tmp_path / "encoder" / "summary.json").read_text())["val_masked_accuracy"] > 0.6
    words = [
        "--config",
        "encoder-ending",
        "--init-from",
        str(tmp_path / "encoder"),
        "--train.run",
        str(tmp_path / "ending"),
    ]
    assert train.main(words) == 0
    assert json.loads((tmp_path / "ending" / "summary.json").read_text())["test_accuracy"] > 0.8, (
        "a guess is right half of the time"
    )
