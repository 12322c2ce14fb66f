"""Compiled training: the same losses and weights; without a compiler, one line and plain training."""

from functools import partial

import pytest
import torch
from torch._inductor import config as inductor

import train
from minillm.config.loading import from_dict
from minillm.layers.feedforward import MLP
from minillm.runs.config import RunConfig
from minillm.speed import signing
from minillm.speed.next_token import fast_next_token
from minillm.training.fast_step import accelerate_training, compile_step
from tests.test_cli import flags
from tests.tiny import SHAPES, assert_equal, decoder
from tests.training.test_step import a_real_step, batch_of

pytestmark = pytest.mark.slow  # each starts processes or compiles for seconds

REAL = torch.compile


class Graphs(list):
    """A backend that computes as before and records the graphs that it receives."""

    def __call__(self, graph, inputs):
        self.append(graph)
        return graph.forward


@pytest.fixture
def graphs(monkeypatch) -> Graphs:
    torch._dynamo.reset()
    found = Graphs()
    monkeypatch.setattr(torch, "compile", partial(REAL, backend=found))
    return found


def after_three_steps(make, compile: bool, **how):
    step = accelerate_training(a_real_step(make(), **how))
    said = compile_step(step, batch_of(9)) if compile else None
    torch.manual_seed(5)
    metrics = [step(batch_of(i)) for i in range(3)]
    return metrics, step, said


def assert_same(mine, others):
    for a, b in zip(mine[0], others[0], strict=True):
        assert a == pytest.approx(b, rel=1e-9)
    state, expected = mine[1].state_dict(), others[1].state_dict()
    assert list(state["model"]) == list(expected["model"]), "no name tells of the compiler"
    for a, b in zip(state["model"].values(), expected["model"].values(), strict=True):
        assert_equal(a, b)
    assert torch.equal(state["random"], expected["random"])


@pytest.mark.parametrize(
    "name", ["gpt", pytest.param("llama", marks=pytest.mark.slow), pytest.param("window", marks=pytest.mark.slow)]
)
def test_losses_weights_and_randomness_are_those_of_training_without_it(name, graphs):
    make = partial(decoder, **SHAPES[name], n_layers=1, dropout=0.3)
    how = {"n_micro_batches": 2, "objective": partial(fast_next_token, large=0, smoothing=0.1)}
    mine = after_three_steps(make, compile=True, **how)
    assert len(graphs) >= 1 and any("linear" in str(graph.code) for graph in graphs), "the layers were compiled"
    assert_same(mine, after_three_steps(make, compile=False, **how))
    assert "compiled in" in mine[2]


@pytest.mark.slow
def test_the_backward_is_compiled_too_and_the_model_itself_is_not(monkeypatch):
    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", partial(REAL, backend="aot_eager"))
    mine, others = (after_three_steps(partial(decoder, n_layers=1), compile=compile) for compile in (True, False))
    assert_same(mine, others)
    step = mine[1]
    computing = step.parts().model
    assert computing is not step.model and "hidden" in vars(computing) and "hidden" not in vars(step.model)


def test_bfloat16_weights_are_compiled_in_their_working_copy(graphs):
    make = lambda: decoder(n_layers=1, init_std=0.1).float()  # noqa: E731
    mine, others = (after_three_steps(make, compile=compile, precision="bf16") for compile in (True, False))
    assert_same(mine, others)
    assert graphs and "hidden" in vars(mine[1].parts().model) and "hidden" not in vars(mine[1].working)


def test_after_the_trial_nothing_more_is_compiled(graphs):
    step = a_real_step(decoder(n_layers=1))
    compile_step(step, batch_of(9))
    n_graphs = len(graphs)
    for i in range(3):
        step(batch_of(i))
    assert len(graphs) == n_graphs > 0


def test_what_is_wrong_with_a_batch_is_not_taken_for_a_fault_of_the_compiler():
    batch = batch_of()
    batch.targets[0, 0] = 99
    with pytest.raises(ValueError, match="target = 99"):
        compile_step(a_real_step(decoder()), batch)


def without_a_cpp_compiler(monkeypatch):
    torch._dynamo.reset()
    monkeypatch.setattr(inductor.cpp, "cxx", ("a-compiler-that-nobody-has",))
    monkeypatch.setattr(inductor, "force_disable_caches", True)


def without_support(monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("torch.compile is not supported on this Python\nand more")

    monkeypatch.setattr(torch, "compile", refuse)


def failing_in_the_backward(monkeypatch):
    class Fails(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            raise NotImplementedError("no backward here")

    def late(hidden):
        return lambda *args: (Fails.apply(hidden(*args)[0]), None)

    monkeypatch.setattr(torch, "compile", late)


@pytest.mark.parametrize("spoil", [without_a_cpp_compiler, without_support, failing_in_the_backward])
def test_where_it_cannot_be_done_one_line_says_why_and_training_is_as_ever(spoil, monkeypatch):
    spoil(monkeypatch)
    make = partial(decoder, n_layers=1, dropout=0.3)
    mine = after_three_steps(make, compile=True, n_micro_batches=2)
    assert mine[2].startswith("train.compile: going on without it, since it failed (") and "\n" not in mine[2]
    assert {without_a_cpp_compiler: "compiler", without_support: "this Python)", failing_in_the_backward: "backward"}[
        spoil
    ] in mine[2]
    assert "hidden" not in vars(mine[1].parts().model)
    assert_same(mine, after_three_steps(make, compile=False, n_micro_batches=2))


def test_a_run_says_it_once_and_is_resumed_as_if_it_had_never_stopped(tmp_path, monkeypatch, capsys):
    without_support(monkeypatch)
    for name, steps in {"straight": 4, "parts": 2}.items():
        words = flags(
            train__run=tmp_path / name,
            train__compile="true",
            train__max_steps=steps,
            optim__lr=0.003,
            optim__min_lr=0.003,
        )
        assert train.main(["--config", "gpt-tiny", *words]) == 0
        assert capsys.readouterr().out.count("going on without") == 1
    monkeypatch.setattr(torch, "compile", partial(REAL, backend="eager"))
    assert train.main(["--resume", str(tmp_path / "parts"), "--train.max_steps", "4"]) == 0
    assert "compiled in" in capsys.readouterr().out
    ends = [torch.load(tmp_path / name / "checkpoint" / "latest.pt")["step"]["model"] for name in ("straight", "parts")]
    for a, b in zip(*(end.values() for end in ends), strict=True):
        torch.testing.assert_close(a, b)


def test_an_edit_or_a_hook_after_it_was_compiled_takes_effect(graphs, monkeypatch, caplog):
    monkeypatch.setattr(signing, "_said", set())
    step, fired = a_real_step(decoder(n_layers=1)), []
    compile_step(step, batch_of(9))
    step(batch_of(1))
    hook = step.model.blocks[0].attention.to_out.register_forward_hook(lambda *_: fired.append("hook"))
    step(batch_of(2))
    assert fired == ["hook"] and "train.compile: going on without" in caplog.text
    hook.remove()
    forward = MLP.forward
    monkeypatch.setattr(MLP, "forward", lambda self, x: fired.append("edit") or forward(self, x))
    step(batch_of(3))
    assert fired == ["hook", "edit"]


REFUSED = {
    "task.backward = manual": {"train": {"compile": True}, "task": {"backward": "manual"}},
    "task.kind = count": {"train": {"compile": True}, "model": {"kind": "ngram"}, "task": {"kind": "count"}},
    "model.kind = rnn": {"train": {"compile": True}, "model": {"kind": "rnn"}},
    "model.n_experts = 3": {"train": {"compile": True}, "model": {"n_experts": 3}},
}


@pytest.mark.parametrize(("beside", "tree"), REFUSED.items(), ids=REFUSED)
def test_it_is_refused_beside_what_cannot_be_compiled_well(beside, tree):
    with pytest.raises(
        ValueError, match=f"train.compile = true: expected false, its default, since .*{beside}.*; leave it out"
    ):
        from_dict(RunConfig, tree)


def test_it_is_refused_beside_training_without_twins():
    with pytest.raises(ValueError, match=r"train\.compile = true: expected false beside train\.fast = false"):
        from_dict(RunConfig, {"train": {"compile": True, "fast": False}})
