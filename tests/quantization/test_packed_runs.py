"""Packed weights by the commands: saving, sampling, and every invalid use."""

import pytest
import torch

import sample
import train
from minillm import quantize
from minillm.quantization.packed import as_bits, as_floats
from minillm.runs import folder
from minillm.training import checkpoint
from tests.test_cli import flags


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run with widths that are multiples of the group size."""
    path = tmp_path_factory.mktemp("trained") / "gpt"
    assert train.main(["--config", "gpt-tiny", *flags(train__run=path, train__max_steps=3, model__d_model=64)]) == 0
    return path


@pytest.mark.parametrize("weights", ["bf16", "int8", "int4", "nf4"])
def test_a_packed_run_is_smaller_and_writes_what_the_run_writes_with_those_weights(trained, tmp_path, weights, capsys):
    out = tmp_path / "packed"
    assert quantize.main([str(trained), "--weights", weights, "--out", str(out)]) == 0
    size = [(path / "checkpoint" / "best.pt").stat().st_size for path in (trained, out)]
    assert size[1] < {"bf16": 0.6, "int8": 0.55, "int4": 0.5, "nf4": 0.5}[weights] * size[0]
    capsys.readouterr()
    texts = []
    for words in (["--run", str(trained), "--weights", weights], ["--run", str(out)]):
        assert sample.main([*words, "--prompt", "One day", "--seed", "3"]) == 0
        texts.append(capsys.readouterr().out.partition("\n\n")[2])
    assert texts[0] == texts[1] and "One day" in texts[0]


def test_sampling_says_which_kernel_ran_and_how_many_bytes_are_held(trained, capsys):
    assert sample.main(["--run", str(trained), "--weights", "int4"]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert (
        first.startswith("weights ")
        and " MB -> " in first
        and "torch.ops.aten._weight_int4pack_mm_for_cpu in 7 layers" in first
    )


def test_a_calibrated_run_is_another_and_opens(trained, tmp_path):
    logits = []
    for name, words in {"plain": [], "calibrated": ["--calibrate", "2"]}.items():
        assert (
            quantize.main([str(trained), "--weights", "int4", "--group", "32", "--out", str(tmp_path / name), *words])
            == 0
        )
        with torch.inference_mode():
            logits.append(folder.open_run(tmp_path / name).text.model(torch.arange(9)[None])[0])
    assert logits[0].isfinite().all() and not torch.equal(*logits)


def test_a_packed_run_keeps_scales_of_float32(trained, tmp_path):
    out = tmp_path / "packed"
    assert quantize.main([str(trained), "--weights", "int4", "--out", str(out)]) == 0
    contents = checkpoint.load(out / "checkpoint" / "best.pt")
    saved = contents["step"]["model"]
    packed = [name.removesuffix("values") for name in saved if name.endswith(".values")]
    for layer in packed:
        for name in (f"{layer}scales", f"{layer}offsets"):
            saved[name] = as_bits(as_floats(saved[name]).float() * 1.001)
    checkpoint.save(out / "checkpoint" / "best.pt", contents)
    opened = folder.open_run(out).text.model.to(torch.bfloat16)
    assert packed and all(torch.equal(opened.state_dict()[f"{x}scales"], saved[f"{x}scales"]) for x in packed)
    assert opened.head.packed.scales.dtype == torch.float32


BAD = {
    "a folder that is there": (["--weights", "int8", "--out", "RUN"], "expected a folder that does not exist yet"),
    "a group of nothing": (["--weights", "int8", "--group", "32", "--out", "new"], "--group 32 would be ignored"),
    "a group that does not divide": (
        ["--weights", "int4", "--group", "48", "--out", "new"],
        "group = 48: expected an even number",
    ),
    "a calibration of nothing": (["--weights", "bf16", "--calibrate", "1", "--out", "new"], "weights = bf16: expected"),
}


@pytest.mark.parametrize(("words", "sentence"), BAD.values(), ids=BAD.keys())
def test_a_wrong_packing_is_one_sentence_and_status_2(trained, words, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert quantize.main([str(trained), *[str(trained) if word == "RUN" else word for word in words]]) == 2
    err = capsys.readouterr().err
    assert sentence in err and err.count("\n") == 1 and not (tmp_path / "new").exists()


def test_weights_that_are_packed_are_not_packed_again(trained, tmp_path, capsys):
    assert quantize.main([str(trained), "--weights", "int8", "--out", str(tmp_path / "packed")]) == 0
    assert sample.main(["--run", str(tmp_path / "packed"), "--weights", "int4"]) == 2
    assert "expected weights that are not packed yet" in capsys.readouterr().err
