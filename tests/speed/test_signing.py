"""Signatures: if plain code was changed in any way, the changed code runs, and one line says so."""

import functools
import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from minillm.layers import attention, feedforward
from minillm.layers.attention import Attention
from minillm.layers.feedforward import relu2
from minillm.layers.norm import RMSNorm
from minillm.layers.positions import Rotary
from minillm.models.decoder import Decoder
from minillm.speed import __main__ as command
from minillm.speed import signing
from minillm.speed.accelerate import accelerate, faster
from minillm.speed.signing import Twin, judge, name_of, signature
from minillm.speed.squared_relu import squared_relu
from minillm.speed.twins import TWINS
from tests.tiny import SHAPES, assert_equal, decoder, tokens

ROOT = Path(__file__).resolve().parents[2]
LLAMA = SHAPES["llama"] | {"feedforward": "relu2"}


@pytest.fixture(autouse=True)
def nothing_said_yet(monkeypatch):
    monkeypatch.setattr(signing, "_said", set())


def read(model: nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        return model(tokens(2, 9))[0]


def said(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "minillm.speed"]


def wrapped(function):
    """A function wrapped by a decorator that copies its name and module."""

    @functools.wraps(function)
    def wrapper(*args):
        return 0.5 * function(*args)

    return wrapper


def halved(self, x):
    return x / 2


def zeroed(q, *rest):
    return 0 * q


def louder_queries(self, x, real=Attention._project):
    q, k, v = real(self, x)
    return 2 * q, k, v


def blind(self, q, positions, view):
    return q.transpose(1, 2).flatten(2)[..., :10]


def louder(self, x):
    return F.linear(x, 2 * self.weight, self.bias)


CHANGES = {  # owner, name, what stands there then
    "a method of a class": (RMSNorm, "forward", halved),
    "a method under a decorator": (RMSNorm, "forward", wrapped(RMSNorm.forward)),
    "a method that is no function": (RMSNorm, "forward", functools.partialmethod(halved)),
    "a hidden method": (Attention, "_project", louder_queries),
    "a method that the twin inherits": (Attention, "_look", blind),
    "how modules are called": (RMSNorm, "__call__", halved),
    "the forward of the model": (Decoder, "read", lambda self, ids, *rest: self.embed(ids)),
    "the forward of a layer of torch": (nn.Linear, "forward", louder),
    "how positions turn": (Rotary, "__call__", lambda self, x, positions: x),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("training", [False, True])
def test_a_class_that_was_changed_runs_as_it_is_and_is_fast_again_when_it_is_restored(
    name, training, monkeypatch, caplog
):
    owner, attribute, value = CHANGES[name]
    model = decoder(**LLAMA)
    fast, before = accelerate(model, training=training), read(model)
    with monkeypatch.context() as patch:
        patch.setattr(owner, attribute, value)
        changed = read(model)
        assert (changed - before).abs().max() > 1e-6
        assert_equal(read(accelerate(model, training=training)), changed)
        assert_equal(read(accelerate(decoder(**LLAMA), training=training)), changed)
    assert any(line.startswith(f"{name_of(owner)} runs without its fast twin, since ") for line in said(caplog))
    assert len(said(caplog)) == len(set(said(caplog)))
    assert_equal(read(accelerate(model, training=training)), before)
    assert [type(m) for m in accelerate(model, training=training).modules()] == [type(m) for m in fast.modules()]


def test_the_code_of_a_function_that_was_changed_in_place_is_noticed(monkeypatch, caplog):
    model = decoder(**LLAMA)
    accelerate(model)
    monkeypatch.setattr(RMSNorm.forward, "__code__", halved.__code__)
    assert accelerate(model).norm is model.norm
    assert "minillm.layers.norm.RMSNorm was replaced in this process" in said(caplog)[0]


@pytest.mark.parametrize(
    ("module", "name", "plain"), [(attention, "attend", attention.attend), (feedforward, "relu2", relu2)]
)
def test_a_function_of_a_module_that_was_replaced_loses_its_twin(module, name, plain, monkeypatch, caplog):
    assert faster(plain) is TWINS[plain].fast
    monkeypatch.setattr(module, name, zeroed)
    assert faster(plain) is plain and len(said(caplog)) == 1
    monkeypatch.undo()
    assert faster(plain) is TWINS[plain].fast


def test_what_a_plain_function_calls_is_signed_too(monkeypatch):
    monkeypatch.setattr(attention, "visible", zeroed)
    assert faster(attention.attend) is attention.attend


def test_an_edited_source_is_not_the_signed_one(monkeypatch):
    signed = signature(TWINS[RMSNorm])
    assert judge(RMSNorm, TWINS[RMSNorm], {name_of(RMSNorm): signed}).why_not == ""
    for known in ({}, {name_of(RMSNorm): {}}, {name_of(RMSNorm): dict.fromkeys(signed, "0" * 64)}):
        assert "RMSNorm was changed" in judge(RMSNorm, TWINS[RMSNorm], known).why_not


def test_line_ends_do_not_matter_and_everything_else_does(tmp_path, monkeypatch):
    """The signature of a module's contents while its file is rewritten."""
    hashes = []
    for i, text in enumerate(
        ("def f(x):\n    return x\n", "def f(x):\r\n    return x\r\n", "def f(x):\n    return  x\n")
    ):
        (tmp_path / f"part{i}.py").write_bytes(text.encode())
        spec = importlib.util.spec_from_file_location(f"minillm.part{i}", tmp_path / f"part{i}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        hashes += signature(Twin(squared_relu, (module.f,))).values()
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_file_that_was_restored_after_it_was_imported_is_not_what_runs(tmp_path, monkeypatch):
    path, signed, edited = tmp_path / "part.py", "def f(x):\n    return x\n", "def f(x):\n    return 2 * x\n"
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    path.write_text(edited)
    spec = importlib.util.spec_from_file_location("minillm.part", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    path.write_text(signed)
    twin = Twin(squared_relu, (module.f,))
    known = {"minillm.part.f": signature(twin)}
    assert "was replaced in this process" in judge(module.f, twin, known).why_not
    spec.loader.exec_module(module)
    assert judge(module.f, Twin(squared_relu, (module.f,)), known).why_not == ""


def test_what_has_no_source_has_no_twin():
    space = {"__name__": "minillm.nowhere"}
    exec("def f(x):\n    return x", space)
    assert "cannot be read" in judge(space["f"], Twin(squared_relu, (space["f"],)), {}).why_not
    with pytest.raises(ValueError, match=r"minillm.nowhere.f: expected source in a file"):
        signature(Twin(squared_relu, (space["f"],)))


EDITS = {  # file, line, line in its place
    "layers/norm.py": ("return (wide * scale * self.weight).to(x.dtype)", "return (wide * scale).to(x.dtype)"),
    "layers/feedforward.py": ("return F.relu(x).square()", "return F.relu(x)"),
    "layers/attention.py": ("q = self.rotate(self.q_norm(q), positions)", "q = self.q_norm(q)"),
}
SAMPLE = """
import json, torch
import minillm.layers.norm
from minillm.decoding.generate import generate
from minillm.decoding.sampler import Sampler, SamplingConfig, seeded
from minillm.speed.accelerate import accelerate
from tests.tiny import SHAPES, decoder, tokens
model = decoder(**SHAPES["llama"] | {"feedforward": "relu2"})
def text(way): return generate(way, [[1, 2]], Sampler(), max_new_tokens=20, generators=seeded([3]))[0].tokens
texts = [text(accelerate(model)), text(model)]
print(json.dumps([minillm.layers.norm.__file__, *texts]))
"""


def sampled(folder: Path) -> tuple[list[int], list[int], str]:
    """The text of the accelerated model, that of the plain one, and stderr, in a copy of the project."""
    done = subprocess.run([sys.executable, "-c", SAMPLE], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    path, fast, plain = json.loads(done.stdout)
    assert Path(path).is_relative_to(folder)
    return fast, plain, done.stderr


@pytest.mark.slow
def test_lines_that_are_edited_on_disk_are_what_is_sampled_by(tmp_path):
    shutil.copytree(ROOT / "minillm", tmp_path / "minillm", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "tests").mkdir()
    shutil.copy(ROOT / "tests" / "tiny.py", tmp_path / "tests")
    fast, plain, printed = sampled(tmp_path)
    assert fast == plain and printed == ""
    for file, (before, after) in EDITS.items():
        path = tmp_path / "minillm" / file
        text = path.read_text(encoding="utf-8")
        assert before in text
        path.write_text(text.replace(before, after), encoding="utf-8")
    edited, again, printed = sampled(tmp_path)
    assert edited == again != fast
    lines = sorted(line.partition(" runs without its fast twin, since ")[0] for line in printed.splitlines())
    assert lines == sorted(map(name_of, (Attention, RMSNorm, relu2)))


def test_the_list_names_every_twin_with_its_gain(capsys):
    assert command.main([]) == 0
    shown = capsys.readouterr().out
    for part in shown.split("\n\n"):
        assert part.rstrip().endswith("in force") and "\n  gain: " in part and "gain: \n" not in part
    assert all(plain.__qualname__ in shown for plain in TWINS)


@pytest.mark.parametrize("passed", [True, False])
def test_only_what_passed_its_tests_is_signed(passed, monkeypatch, tmp_path, capsys):
    file, ran = tmp_path / "signatures.json", []
    file.write_text("{}")
    monkeypatch.setattr(command, "FILE", file)

    def run(words, **how):
        ran.append(words)
        assert json.loads(file.read_text()), "the tests see the new signatures"
        return subprocess.CompletedProcess(words, 0 if passed else 1)

    monkeypatch.setattr(subprocess, "run", run)
    assert command.main(["sign"]) == (0 if passed else 1)
    assert ran[0][-1] == str(ROOT / "tests" / "speed")
    assert json.loads(file.read_text()) == (json.loads(signing.FILE.read_text()) if passed else {})
