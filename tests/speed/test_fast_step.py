"""The fast step trains like the plain one, and uses no twin of code that was changed after signing."""

import logging
from functools import partial

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from minillm.config.flags import override
from minillm.layers.norm import LayerNorm
from minillm.objectives import cross_entropy as of_cross_entropy
from minillm.objectives import next_token as of_next_token
from minillm.objectives.loss import Loss
from minillm.objectives.next_token import next_token
from minillm.runs import wiring
from minillm.runs.config import RunConfig, load_config
from minillm.speed import chunked_cross_entropy, linear_cross_entropy, signing
from minillm.speed.linear_cross_entropy import FastDecoder
from minillm.speed.next_token import fast_next_token
from minillm.training import gradients, optim
from minillm.training.fast_step import TWINS, Fast, accelerate_training
from minillm.training.optim import AdamW, Muon, OptimConfig, build_optimizer
from minillm.training.precision import WorkingCopy
from minillm.training.step import GradientStep
from tests.models.test_rnn import rnn
from tests.test_configs import NAMES, on_a_tiny_text
from tests.tiny import SHAPES, assert_equal, decoder
from tests.training.test_step import batch_of

every_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


@pytest.fixture(autouse=True)
def reasons(monkeypatch, caplog):
    """The logged lines on why a twin is not used; lines logged before do not suppress them."""
    monkeypatch.setattr(signing, "_said", set())
    caplog.set_level(logging.WARNING, logger="minillm.speed")
    return caplog


def three_steps(config: RunConfig, data, fast: bool) -> tuple[list[dict], torch.Tensor]:
    """The logged metrics of three steps, and the random numbers that torch draws afterwards."""
    config = override(config, {"train.fast": str(fast).lower()})
    model = wiring.build_model(config, data.tokenizer.vocab_size)
    frozen = {key: wiring.assemble(config, data.tokenizer.vocab_size).eval() for key in config.task.companions()}
    step, batch = wiring.build_step(config, model, frozen), wiring.build_batches(config, data, frozen)
    assert not isinstance(step, GradientStep) or isinstance(step.choose, Fast) == fast
    logged = [step(batch(i)) for i in range(3)]
    return logged, torch.rand(7)


TRAINED = [
    (name, precision) for name in NAMES for precision in ("fp32", "bf16") if (name, precision) != ("ngram-tiny", "bf16")
]


@pytest.mark.parametrize(("name", "precision"), TRAINED)
def test_the_first_steps_of_every_config_are_the_same_with_and_without_twins(
    name, precision, tmp_path, monkeypatch, reasons
):
    small = {"train.batch_size": "3", "train.precision": precision}
    small |= {"model.n_layers": "2"} if load_config(name).model.kind not in ("ngram", "rnn") else {}
    small |= {"model.d_model": "56"} if name == "gpt-target" else {}
    config, data = on_a_tiny_text(name, tmp_path, monkeypatch, small)
    (plain, drawn), (fast, drawn_fast) = (three_steps(config, data, fast) for fast in (False, True))
    for a, b in zip(plain, fast, strict=True):
        assert b == pytest.approx(a, rel={"fp32": 1e-5, "bf16": 2e-2}[precision])
    assert torch.equal(drawn, drawn_fast)
    assert not reasons.records, "every twin is in force"


def in_float32(**shape) -> torch.nn.Module:
    return decoder(**shape).float()


def pair_of_steps(make, kind: str = "muon", **how) -> tuple[GradientStep, GradientStep]:
    """A plain step and a fast one, on equal models."""
    steps = []
    for _ in range(2):
        model = make()
        optimizer = build_optimizer(model, OptimConfig(kind=kind, lr=0.01, muon_lr=0.01))
        steps.append(
            GradientStep(model, next_token, optimizer, lambda step: 1 / (1 + step), lr=0.01, grad_clip=0.7, **how)
        )
    return steps[0], accelerate_training(steps[1])


def assert_same_step(plain: GradientStep, fast: GradientStep, n_steps: int = 3) -> None:
    for i in range(n_steps):
        torch.manual_seed(i)
        expected = plain(batch_of(i))
        torch.manual_seed(i)
        assert fast(batch_of(i)) == pytest.approx(expected, rel=1e-9)
        for a, b in zip(plain.parameters, fast.parameters, strict=True):
            assert_equal(a.grad, b.grad)
    for (name, a), (other, b) in zip(plain.model.state_dict().items(), fast.model.state_dict().items(), strict=True):
        assert name == other
        assert_equal(a, b)


@every_shape
@pytest.mark.parametrize("n_micro_batches", [1, 3])
def test_in_float64_gradients_weights_and_metrics_are_equal(shape, n_micro_batches):
    make = partial(decoder, **shape, dropout=0.3)
    assert_same_step(*pair_of_steps(make, n_micro_batches=n_micro_batches))


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_a_recurrent_model_trains_the_same(cell):
    assert_same_step(*pair_of_steps(partial(rnn, cell=cell, dropout=0.3), kind="adamw"))


def test_every_part_of_a_fast_step_is_a_twin_and_the_plain_ones_keep_the_state():
    _, step = pair_of_steps(in_float32, precision="bf16")
    parts = step.parts()
    assert isinstance(parts.model, FastDecoder) and parts.model is not step.working
    assert parts.objective is not next_token
    assert [type(member) for member in parts.optimizer.members] == [TWINS[Muon].fast, TWINS[AdamW].fast]
    for part, plain in ((parts.copy, WorkingCopy), (parts.gradients, gradients.Gradients)):
        assert type(part) is TWINS[plain].fast
    assert all(a is b for a, b in zip(step.parts()[:1], parts[:1], strict=True)), (
        "the same tree as long as nothing changed"
    )
    step(batch_of())
    assert {p.data_ptr() for p in step.parts().model.parameters()} == {p.data_ptr() for p in step.working.parameters()}


@pytest.mark.parametrize("kind", ["muon", "adamw"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("fast_first", [True, False])
def test_a_run_goes_on_with_the_other_setting(kind, precision, fast_first, tmp_path):
    plain, fast = pair_of_steps(partial(in_float32, dropout=0.3, init_std=0.1), kind, precision=precision)
    first, then = (fast, plain) if fast_first else (plain, fast)
    for i in range(2):
        first(batch_of(i))
    torch.save(first.state_dict(), tmp_path / "state")
    torch.manual_seed(99)
    then.load_state_dict(torch.load(tmp_path / "state"))
    state, other = first.state_dict(), then.state_dict()
    assert list(state["model"]) == list(other["model"]) and state["optimizer"].keys() == other["optimizer"].keys()
    expected, draws = first(batch_of(2)), torch.rand(5)
    torch.set_rng_state(other["random"])
    assert then(batch_of(2)) == pytest.approx(expected, rel={"fp32": 1e-5, "bf16": 2e-2}[precision])
    assert torch.equal(torch.rand(5), draws)


class Louder:
    """Replaces a function of minillm: does the same and counts its calls."""

    def __init__(self, plain):
        self.plain, self.n_calls = plain, 0

    def __call__(self, *args, **how):
        self.n_calls += 1
        return self.plain(*args, **how)


def noted(monkeypatch, place, name: str) -> Louder:
    """Replace a function in a module or a class by one that counts its calls."""
    louder = Louder(getattr(place, name))
    monkeypatch.setattr(place, name, lambda *args, **how: louder(*args, **how))
    return louder


EDITS = {
    "a layer": (LayerNorm, "forward", {"norm": "layernorm"}, "adamw"),
    "the objective's own": (of_next_token, "cross_entropy", {}, "adamw"),
    "cross-entropy's own": (of_cross_entropy, "log_probabilities", {}, "adamw"),
    "AdamW": (AdamW, "step", {}, "adamw"),
    "Muon": (Muon, "step", {}, "muon"),
    "what Muon calls": (optim, "orthogonal", {}, "muon"),
    "the gradients": (gradients.Gradients, "divide", {}, "adamw"),
    "what the gradients call": (gradients, "clip_gradients", {}, "adamw"),
}


@pytest.mark.parametrize(("place", "name", "shape", "kind"), EDITS.values(), ids=EDITS)
def test_what_is_replaced_in_the_middle_of_training_runs_from_the_next_step_on(
    place, name, shape, kind, monkeypatch, reasons
):
    plain, fast = pair_of_steps(partial(decoder, **shape), kind)
    assert_same_step(plain, fast, n_steps=1)
    assert not reasons.records
    louder = noted(monkeypatch, place, name)
    fast(batch_of(5))
    assert louder.n_calls
    assert any("runs without its fast twin, since" in line and "replaced" in line for line in reasons.messages)
    n_lines = len(reasons.messages)
    fast(batch_of(6))
    assert len(reasons.messages) == n_lines, "it is said once"
    monkeypatch.undo()
    called = louder.n_calls
    fast(batch_of(7))
    assert louder.n_calls == called


def test_a_method_of_an_objects_own_runs(reasons):
    for path in ("optimizer.members.0", "optimizer.members.1", "gradients", "copy"):
        _, step = pair_of_steps(in_float32, precision="bf16")
        step(batch_of())
        part = step
        for name in path.split("."):
            part = part[int(name)] if name.isdigit() else getattr(part, name)
        method = {"gradients": "clip", "copy": "read"}.get(path, "step")
        louder = Louder(getattr(part, method))
        setattr(part, method, louder)
        step(batch_of())
        assert louder.n_calls == 1
        assert f"{method} was replaced on one object" in reasons.messages[-1]


def test_another_objective_or_optimizer_takes_effect_at_once():
    plain, fast = pair_of_steps(decoder)

    def doubled(model, batch) -> Loss:
        loss = next_token(model, batch)
        return Loss(2 * loss.total, loss.count)

    for step in (plain, fast):
        step.objective = doubled
        step.optimizer = build_optimizer(step.model, OptimConfig(kind="adamw", lr=0.003))
    assert_same_step(plain, fast)
    assert fast.parts().objective is doubled


@every_shape
def test_hooks_on_any_submodule_fire_in_training(shape):
    _, step = pair_of_steps(partial(decoder, **shape))
    step(batch_of())
    fired: dict[str, int] = {}
    plain = decoder(**shape)
    for model, count in ((step.model, fired), (plain, expected := {})):
        for name, module in model.named_modules():
            module.register_forward_hook(
                lambda *_, name=name, count=count: count.update({name: count.get(name, 0) + 1})
            )
    step(batch_of())
    next_token(plain, batch_of())
    assert fired == expected and len(fired) > 5


@pytest.mark.parametrize(
    "register", ["register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"]
)
@pytest.mark.parametrize(
    "name", ["", "head", "blocks.1.attention.to_k", "blocks.0.norm_1", "blocks.1.feedforward.down"]
)
def test_a_single_hook_of_any_kind_fires_and_stops_when_it_is_removed(register, name):
    plain, step = pair_of_steps(decoder)
    step(batch_of(0))
    plain(batch_of(0))
    fired = []
    hook = getattr(step.model.get_submodule(name), register)(lambda *_: fired.append(name))
    assert step(batch_of(1)) == pytest.approx(plain(batch_of(1)), rel=1e-9)
    assert fired == [name]
    hook.remove()
    step(batch_of(2))
    assert fired == [name]


class Questions(TorchDispatchMode):
    """Counts how often the host reads the value of a tensor, which on a GPU would wait for queued work."""

    n_asked = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        by_mask = func is torch.ops.aten.index.Tensor and any(i is not None and i.dtype == torch.bool for i in args[1])
        self.n_asked += by_mask or func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("large", [0, 10**6])
@pytest.mark.parametrize("n_layers", [1, 5])
def test_a_step_asks_for_five_numbers_and_nothing_else_however_deep_or_wide_the_model_is(n_layers, large, monkeypatch):
    for module in (chunked_cross_entropy, linear_cross_entropy):
        monkeypatch.setattr(module, "is_one", lambda upstream: False)  # what a GPU is not asked
    _, step = pair_of_steps(partial(decoder, n_layers=n_layers))
    step.objective = partial(fast_next_token, large=large)
    step(batch_of())
    with Questions() as asked:
        step(batch_of())
    assert asked.n_asked == 5, (
        "is the text dense; is any target out of the vocabulary; the loss, its count, and the gradient's length"
    )
