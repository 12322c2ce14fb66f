"""What an encoder learns: blanks from both sides, and with that behind it, labels from few texts."""

import json

import pytest

import train


@pytest.mark.slow
def test_an_encoder_learns_to_fill_in_blanks_and_then_needs_few_labels(tmp_path):
    words = ["--config", "encoder-tiny", "--train.max_steps", "600", "--train.eval_every", "600", "--train.run", str(tmp_path / "encoder")]
    assert train.main(words) == 0
    assert json.loads((tmp_path / "encoder" / "summary.json").read_text())["val_masked_accuracy"] > 0.6
    accuracy = {}
    for name, start in {"pre-trained": ["--init-from", str(tmp_path / "encoder")], "from nothing": []}.items():
        path = tmp_path / name
        assert train.main(["--config", "encoder-ending", *start, "--train.run", str(path)]) == 0
        accuracy[name] = json.loads((path / "summary.json").read_text())["test_accuracy"]
    assert accuracy["pre-trained"] > 0.75, "a guess is right half of the time"
    assert accuracy["pre-trained"] > accuracy["from nothing"]
