"""Adapters by the scripts: training, resuming, sampling, the base run, and every invalid use."""

import json
import shutil
from pathlib import Path

import pytest
import torch

import sample
import train
from minillm.adapters.merge import adapted_layers
from minillm.runs import folder
from minillm.training import checkpoint
from minillm.training.step import GradientStep
from tests.interruption import ctrl_c_after
from tests.test_cli import flags, same, weights

QUICK = {
    "data.n_stories": 200,
    "train.batch_size": 4,
    "train.eval_every": 5,
    "train.save_every": 4,
    "train.precision": "fp32",
}
SHORT = {"train.max_steps": 9, "schedule.warmup_steps": 1, "text.max_new_tokens": 10}
WORDS = [word for name, value in (SHORT | QUICK).items() for word in (f"--{name}", str(value))]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The base run, to which adapters are added."""
    path = tmp_path_factory.mktemp("base") / "gpt"
    assert train.main(["--config", "gpt-tiny", *flags(train__run=path, train__max_steps=5)]) == 0
    return path


def adapt(base: Path, path: Path, *words: str) -> int:
    shape = ["--adapter.rank", "3", "--adapter.targets", "to_q,to_v"]
    return train.main(
        ["--config", "lora-tiny", "--init-from", str(base), *WORDS, *shape, "--train.run", str(path), *words]
    )


@pytest.fixture(scope="module")
def adapter(base, tmp_path_factory):
    """A run with a fully trained adapter, with dropout."""
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("adapter") / "lora"
    assert adapt(base, path, "--adapter.dropout", "0.2") == 0
    return path


def logits(path: Path, base: Path | None = None) -> torch.Tensor:
    model = folder.open_run(path, base=base).text.model
    with torch.no_grad():
        return model(torch.arange(24).reshape(2, 12))[0]


def test_the_folder_holds_the_factors_and_names_the_base_which_stays_as_it_was(base, adapter):
    factors = {f"blocks.0.attention.{layer}.{factor}.weight" for layer in ("to_q", "to_v") for factor in "AB"}
    for name in ("latest", "best"):
        saved = checkpoint.load(adapter / "checkpoint" / f"{name}.pt")
        assert set(saved["step"]["model"]) == factors
        whole = checkpoint.load(base / "checkpoint" / "best.pt")["step"]["model"]
        assert saved["base"] == {"path": str(base.resolve()), "sha256": checkpoint.fingerprint(whole)}
    assert (adapter / "checkpoint" / "best.pt").stat().st_size < 0.5 * (base / "checkpoint" / "best.pt").stat().st_size
    model = folder.open_run(adapter).text.model
    assert len(adapted_layers(model)) == 2
    frozen = {name.replace(".base", ""): value for name, value in model.state_dict().items() if name not in factors}
    assert same(frozen, dict(whole))
    assert (
        "rank = 3" in (adapter / "config.toml").read_text()
        and json.loads((adapter / "summary.json").read_text())["steps"] == 9
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_adapter_that_was_stopped_goes_on_to_the_same_bits(base, tmp_path, precision):
    words = ["--adapter.dropout", "0.2", "--train.precision", precision]
    assert adapt(base, tmp_path / "straight", *words) == 0
    with ctrl_c_after(GradientStep, 6):
        assert adapt(base, tmp_path / "stopped", *words) == 130
    assert train.main(["--resume", str(tmp_path / "stopped")]) == 0
    assert same(weights(tmp_path / "stopped"), weights(tmp_path / "straight"))
    assert torch.equal(logits(tmp_path / "stopped"), logits(tmp_path / "straight"))


def test_the_plan_says_how_much_is_trained(base, tmp_path, capsys):
    assert adapt(base, tmp_path / "run", "--dry-run") == 0
    model = folder.open_run(base).text.model
    factors, whole = 2 * 3 * (16 + 16), sum(p.numel() for p in model.parameters())
    assert (
        f"{factors:,} of them are trained, {100 * factors / (whole + factors):.2f} %; the others are frozen"
        in capsys.readouterr().out
    )


def test_base_and_adapter_write_what_the_adapter_alone_writes_and_the_base_does_not(base, adapter, capsys):
    texts = []
    for words in (["--run", base, "--adapter", adapter], ["--run", adapter], ["--adapter", adapter]):
        assert sample.main([*map(str, words), "--seed", "3", "--prompt", "One day"]) == 0
        texts.append(capsys.readouterr().out)
    assert len(set(texts)) == 1 and "(step " in texts[0]
    assert torch.equal(logits(adapter, base), logits(adapter)) and not torch.equal(logits(adapter), logits(base))


def test_an_adapter_beside_its_open_base_is_the_same_model_and_shares_the_weights(base, adapter, tmp_path):
    opened = folder.open_run(base)
    beside = folder.open_beside(opened, adapter)
    assert beside.config == folder.open_run(adapter).config and not beside.text.model.training
    with torch.no_grad():
        found = beside.text.model(torch.arange(24).reshape(2, 12))[0]
    assert torch.equal(found, logits(adapter)) and not adapted_layers(opened.text.model)
    own = {tensor.data_ptr() for tensor in beside.text.model.parameters()}
    assert own > {tensor.data_ptr() for tensor in opened.text.model.parameters()}
    with pytest.raises(ValueError, match="expected the run of an adapter, found a whole model"):
        folder.open_beside(opened, base)
    assert train.main(["--config", "gpt-tiny", *flags(train__run=tmp_path / "other", train__max_steps=2)]) == 0
    with pytest.raises(ValueError, match="expected the weights that"):
        folder.open_beside(folder.open_run(tmp_path / "other"), adapter)


def test_other_weights_than_those_that_were_adapted_are_refused(base, adapter, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(base, other)
    for name in ("latest", "best"):
        saved = checkpoint.load(other / "checkpoint" / f"{name}.pt")
        saved["step"]["model"]["embed.weight"][0, 0] += 1e-3
        checkpoint.save(other / "checkpoint" / f"{name}.pt", saved)
    for words in (["--run", other, "--adapter", adapter], ["--run", adapter, "--adapter", adapter]):
        assert sample.main([str(word) for word in words]) == 2
        err = capsys.readouterr().err
        assert "expected the weights that" in err and "SHA-256" in err and err.count("\n") == 1


def test_a_base_that_was_moved_is_found_beside_the_adapter_and_else_asked_for(base, adapter, tmp_path, capsys):
    before, place = logits(adapter), base.rename(tmp_path / "elsewhere")
    try:
        assert sample.main(["--run", str(adapter)]) == 2
        assert (
            f"expected the run that it adapts in {base}, found none; put it there, or beside" in capsys.readouterr().err
        )
        assert train.main(["--resume", str(adapter), "--train.max_steps", "10"]) == 2
        assert torch.equal(logits(adapter, place), before)
        shutil.copytree(adapter, tmp_path / "lora")
        shutil.copytree(place, tmp_path / base.name)
        assert torch.equal(logits(tmp_path / "lora"), before)
    finally:
        place.rename(base)


def test_a_new_run_can_start_from_an_adapter_merged_into_its_base(adapter, tmp_path):
    words = [
        "--config",
        "lora-tiny",
        "--init-from",
        str(adapter),
        *WORDS,
        "--train.run",
        str(tmp_path / "whole"),
        "--adapter.kind",
        "none",
    ]
    still = ["--optim.kind", "adamw", "--optim.lr", "1e-9", "--optim.min_lr", "1e-9"]
    assert train.main([*words, "--train.max_steps", "1", *still]) == 0
    saved = checkpoint.load(tmp_path / "whole" / "checkpoint" / "latest.pt")
    assert saved["base"] is None and "blocks.0.attention.to_q.weight" in saved["step"]["model"]
    torch.testing.assert_close(logits(tmp_path / "whole"), logits(adapter), rtol=1e-4, atol=1e-5)


KIND = ["--adapter.kind", "lora"]
BAD = {
    "an adapter of nothing": (["--config", "lora-tiny"], "adapter.kind = lora: expected --init-from RUN"),
    "a flag without an adapter": (
        ["--config", "gpt-tiny", "--adapter.alpha", "4"],
        "--adapter.alpha: unknown key of adapter.kind = none; expected adapter.kind = lora",
    ),
    "a key of another kind": (
        ["--init-from", "BASE", "--adapter.kind", "lora", "--adapter.width", "4"],
        "--adapter.width: unknown key of adapter.kind = lora; expected adapter.kind = bottleneck beside it",
    ),
    "an unknown kind": (["--init-from", "BASE", "--adapter.kind", "lore"], "did you mean lora"),
    "an adapter of an adapter": (
        ["--init-from", "ADAPTER"],
        "adapter.kind = lora: expected a run without an adapter in --init-from",
    ),
    "an unknown target": (
        ["--init-from", "BASE", "--adapter.kind", "lora", "--adapter.targets", "to_q,to_w"],
        "did you mean to_",
    ),
    "too high a rank": (["--init-from", "BASE", *KIND, "--adapter.rank", "17"], "adapter.rank = 17: expected 1 ... 16"),
    "no target": (["--init-from", "BASE", *KIND, "--adapter.targets", ","], "adapter.targets = []"),
    "another rank on resume": (["--resume", "ADAPTER", "--adapter.rank", "4"], "--adapter.rank: expected only"),
}


@pytest.mark.parametrize(("words", "sentence"), BAD.values(), ids=BAD.keys())
def test_a_wrong_adapter_is_one_sentence_and_status_2(words, sentence, base, adapter, capsys):
    words = [{"BASE": str(base), "ADAPTER": str(adapter)}.get(word, word) for word in words]
    assert train.main([*words, *(["--data.n_stories", "200"] if "--resume" not in words else [])]) == 2
    err = capsys.readouterr().err
    assert sentence in err and err.count("\n") == 1


def test_a_run_without_an_adapter_is_none_to_sample_with(base, capsys):
    assert sample.main(["--run", str(base), "--adapter", str(base)]) == 2
    assert "expected a run that was trained with --adapter.kind" in capsys.readouterr().err
