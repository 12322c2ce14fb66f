"""Training without autograd: equal gradients and losses, and a clear error if a derivative is missing."""

import copy
import typing

import pytest
import torch
from torch import nn

import train as script
from minillm.constants import IGNORE
from minillm.datasets.batch import Batch
from minillm.models.decoder import DecoderConfig
from minillm.objectives.loss import Loss
from minillm.objectives.next_token import next_token
from minillm.training.loop import Progress, TrainConfig, train
from minillm.training.manual import ManualStep
from minillm.training.metrics import read_metrics
from minillm.training.optim import OptimConfig, build_optimizer
from minillm.training.step import Diverged, GradientStep
from tests.test_cli import flags
from tests.tiny import SHAPES, VOCAB, assert_equal, decoder, tokens
from tests.training.test_step import Keep, batch_of

MORE = {
    "tied, learned positions and a norm without bias": {"positions": "learned", "norm": "layernorm"},
    "post-norm with rotary positions and biases": {"norm_place": "post", "bias": True, "feedforward": "swiglu"},
    "everything": {
        "qk_norm": True,
        "value_embeddings": True,
        "window": 3,
        "bias": True,
        "tied": False,
        "n_kv_heads": 2,
    },
}
UNWRITTEN = {
    name: shape
    for name, shape in SHAPES.items()
    if shape.get("positions") == "alibi" or {"n_experts", "ngram_rows", "scale_embedding"} & set(shape)
}
WRITTEN = {name: shape for name, shape in (SHAPES | MORE).items() if name not in UNWRITTEN}
every_shape = pytest.mark.parametrize("shape", WRITTEN.values(), ids=WRITTEN)


def padded_batch(seed: int = 0) -> Batch:
    """A batch with uncounted targets, some padding, and one row of padding only."""
    batch = batch_of(seed)
    read, targets = batch.tokens.clone(), batch.targets.clone()
    for row, columns in ((0, slice(0, 3)), (2, slice(4, 7)), (3, slice(0, 7))):
        read[row, columns], targets[row, columns] = -1, IGNORE
    return Batch(read, targets)


def step_of(kind, model, optimizer=None, **how):
    return kind(model, next_token, optimizer or Keep(model), lambda step: 1.0, lr=0.01, **how)


def real_step(kind, model, optimizer: str = "adamw", **how):
    return step_of(kind, model, build_optimizer(model, OptimConfig(kind=optimizer)), **how)


@every_shape
@pytest.mark.parametrize("make", [batch_of, padded_batch], ids=["ragged targets", "padding"])
def test_loss_and_every_gradient_are_those_of_autograd(shape, make):
    by_hand, by_torch = step_of(ManualStep, decoder(**shape)), step_of(GradientStep, decoder(**shape))
    assert by_hand(make()) == pytest.approx(by_torch(make()), rel=1e-10)
    names = [name for name, _ in by_torch.model.named_parameters()]
    for name, mine, theirs in zip(names, by_hand.optimizer.gradients, by_torch.optimizer.gradients, strict=True):
        assert theirs.any(), f"{name} has a gradient"
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-11, msg=lambda text, name=name: f"{name}: {text}")


@every_shape
@pytest.mark.parametrize("n_micro_batches", [2, 5])
def test_the_gradient_does_not_depend_on_how_the_batch_is_cut(shape, n_micro_batches):
    whole, cut = (
        step_of(ManualStep, decoder(**shape)),
        step_of(ManualStep, decoder(**shape), n_micro_batches=n_micro_batches),
    )
    assert cut(padded_batch()) == pytest.approx(whole(padded_batch()), rel=1e-10)
    for mine, theirs in zip(cut.optimizer.gradients, whole.optimizer.gradients, strict=True):
        assert_equal(mine, theirs)


@pytest.mark.parametrize("feedforward", typing.get_args(typing.get_type_hints(DecoderConfig)["feedforward"]))
def test_every_feed_forward_has_its_derivative(feedforward):
    by_hand, by_torch = (step_of(kind, decoder(feedforward=feedforward)) for kind in (ManualStep, GradientStep))
    for step in (by_hand, by_torch):
        step(batch_of())
    for mine, theirs in zip(by_hand.optimizer.gradients, by_torch.optimizer.gradients, strict=True):
        assert_equal(mine, theirs)


@pytest.mark.parametrize("shape", UNWRITTEN.values(), ids=UNWRITTEN)
def test_a_shape_without_derivatives_by_hand_is_refused(shape):
    with pytest.raises(ValueError, match=r"task\.backward = manual"):
        step_of(ManualStep, decoder(**shape))


def test_nothing_is_asked_of_autograd(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("autograd was asked")

    for name in (
        "torch.Tensor.backward",
        "torch.autograd.backward",
        "torch.autograd.grad",
        "torch.autograd.Function.apply",
    ):
        monkeypatch.setattr(name, refuse)
    step = real_step(ManualStep, decoder(value_embeddings=True))
    monkeypatch.setattr(step, "objective", refuse)
    monkeypatch.setattr(step.model, "forward", refuse)
    before = copy.deepcopy(step.model.state_dict())
    step(batch_of())
    assert all(not torch.equal(before[name], weight) for name, weight in step.model.state_dict().items())
    assert not any(p.grad.requires_grad for p in step.parameters)


def test_a_frozen_parameter_gets_no_gradient_and_the_others_keep_theirs():
    gradients = []
    for kind in (ManualStep, GradientStep):
        model = decoder()
        model.embed.weight.requires_grad_(False)
        model.blocks[0].attention.to_v.weight.requires_grad_(False)
        step = step_of(kind, model)
        step.optimizer.model = nn.ParameterList([p for p in model.parameters() if p.requires_grad])
        step(batch_of())
        assert model.embed.weight.grad is None
        gradients.append(step.optimizer.gradients)
    for mine, theirs in zip(*gradients, strict=True):
        assert_equal(mine, theirs)


def losses_of(kind, dtype: torch.dtype, optimizer: str, **how) -> list[float]:
    """The losses of 50 steps of the training loop."""
    model, rows = decoder(value_embeddings=True, qk_norm=True, n_kv_heads=2, init_std=0.1).to(dtype), []
    step = real_step(kind, model, optimizer, grad_clip=1.0, **how)
    config = TrainConfig(max_steps=50, log_every=1, eval_every=50)
    train(config, step, lambda i: batch_of(i % 3), lambda: {"val_loss": 0.0}, lambda *_: None, rows.append, Progress())
    return [row["loss"] for row in rows if "loss" in row]


@pytest.mark.parametrize(
    (
        "dtype",
        "optimizer",
        "n_micro_batches",
        "tolerance",
    ),  # in float32 muon rounds to bfloat16, which enlarges any difference
    [(torch.float32, "adamw", 1, 1e-4), (torch.float32, "adamw", 2, 1e-4), (torch.float64, "muon", 1, 1e-8)],
)
def test_fifty_steps_by_hand_follow_fifty_steps_of_autograd(dtype, optimizer, n_micro_batches, tolerance):
    by_torch = losses_of(GradientStep, dtype, optimizer)
    by_hand = losses_of(ManualStep, dtype, optimizer, n_micro_batches=n_micro_batches)
    assert len(by_torch) == 50 and by_torch[-1] < by_torch[0] - 0.5
    assert by_hand == pytest.approx(by_torch, rel=0, abs=tolerance)


def test_a_run_goes_on_to_the_bit_where_it_was_stopped(tmp_path):
    straight = real_step(ManualStep, decoder().float())
    for i in range(3):
        straight(batch_of(i))
    torch.save(straight.state_dict(), tmp_path / "state")
    expected = [straight(batch_of(i)) for i in range(3, 6)]
    resumed = real_step(ManualStep, decoder(seed=1).float())
    resumed.load_state_dict(torch.load(tmp_path / "state"))
    assert [resumed(batch_of(i)) for i in range(3, 6)] == expected
    for a, b in zip(straight.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_divergence_is_noticed_before_a_weight_has_changed():
    model = decoder()
    model.embed.weight.data[3] = torch.nan
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(Diverged):
        real_step(ManualStep, model)(Batch(tokens(2, 7) * 0 + 3, tokens(2, 7)))
    assert all(
        torch.equal(weight.nan_to_num(9), before[name].nan_to_num(9)) for name, weight in model.state_dict().items()
    )


def test_a_batch_with_nothing_to_count_has_loss_and_gradient_zero():
    step = step_of(ManualStep, decoder())
    metrics = step(batch_of(ignored=1.0))
    assert (metrics["loss"], metrics["grad_norm"], metrics["tokens"]) == (0, 0, 0)


class Adapted(nn.Linear):
    """A subclass of nn.Linear, such as an adapter; its forward could differ."""


def adapted() -> nn.Module:
    model = decoder()
    model.blocks[1].attention.to_v = Adapted(10, 24, bias=False)
    return model


def told_otherwise() -> nn.Module:
    model = decoder()
    object.__setattr__(model.config, "positions", "stars")
    return model


def another_objective(model, batch: Batch) -> Loss:
    return next_token(model, batch)


@pytest.mark.parametrize(
    ("model", "objective", "how", "sentence"),
    [
        (lambda: decoder(dropout=0.25), next_token, {}, r"expected model\.dropout = 0, not 0\.25"),
        (adapted, next_token, {}, r"no derivative of blocks\.1\.attention\.to_v \(Adapted\) is written; use autograd"),
        (told_otherwise, next_token, {}, "model.positions = stars: expected rotary, learned, sinusoidal, none"),
        (lambda: nn.Embedding(VOCAB, VOCAB), next_token, {}, r"expected a Decoder or RNN, not a Embedding"),
        (decoder, another_objective, {}, "expected next-token prediction, not another_objective"),
        (
            decoder,
            next_token,
            {"precision": "bf16"},
            r"train\.precision = bf16: expected fp32 or auto beside task\.backward = manual",
        ),
    ],
)
def test_what_has_no_derivative_by_hand_is_refused_with_a_sentence(model, objective, how, sentence):
    model = model()
    with pytest.raises(ValueError, match=sentence):
        ManualStep(model, objective, Keep(model), lambda step: 1.0, lr=0.1, **how)


SMALL = {"tokenizer__kind": "byte", "data__n_stories": 60, "model__dropout": 0.0, "optim__kind": "adamw"}


def test_the_flag_trains_by_hand_what_autograd_trains(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    often = SMALL | {"train__log_every": 1}
    assert (
        script.main(
            ["--config", "gpt-tiny", *flags(**often, train__run="a", task__backward="manual", train__precision="auto")]
        )
        == 0
    )
    assert script.main(["--config", "gpt-tiny", *flags(**often, train__run="b")]) == 0
    by_hand, by_torch = (
        [row["loss"] for row in read_metrics(tmp_path / name / "metrics.jsonl") if "loss" in row] for name in "ab"
    )
    assert len(by_hand) == 12 and by_hand == pytest.approx(by_torch, rel=0, abs=1e-4)
    assert 'precision = "fp32"' in (tmp_path / "a" / "config.toml").read_text()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"model__dropout": 0.1}, "expected model.dropout = 0, not 0.1"),
        ({"train__precision": "bf16"}, "train.precision = bf16: expected"),
    ],
)
def test_the_flag_is_refused_before_anything_is_trained(change, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert script.main(["--config", "gpt-tiny", *flags(**SMALL | change, task__backward="manual")]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
