"""A half-finished addition, an activation or model registered in one place only, raises a clear error."""

import dataclasses
from typing import Literal

import pytest
import torch

from minillm.config.registry import Registry
from minillm.layers import feedforward
from minillm.layers.feedforward import ACTIVATIONS
from minillm.models.decoder import Decoder, DecoderConfig
from minillm.models.encoder import Encoder, EncoderConfig
from minillm.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from minillm.models.ngram import NgramConfig
from minillm.models.rnn import RNN, RNNConfig
from minillm.run_config import RunConfig
from minillm.runs import wiring
from minillm.tasks import next_token
from minillm.training import manual_modules

ADD = r"expected one of .*; add it to "


def allow(monkeypatch, name: str) -> None:
    """Let every config take `model.feedforward = name`, as an edit of their Literals would."""
    for module in ("decoder", "encoder", "encoder_decoder"):
        monkeypatch.setattr(f"minillm.models.{module}.validate", lambda config: None)


def with_feedforward(cls, name: str, **more):
    return cls(feedforward=name, d_model=12, n_heads=2, **more)


MAKERS = {
    "decoder": lambda name: Decoder(with_feedforward(DecoderConfig, name), 11),
    "experts": lambda name: Decoder(with_feedforward(DecoderConfig, name, n_experts=3), 11),
    "shared experts": lambda name: Decoder(with_feedforward(DecoderConfig, name, n_experts=3, n_shared_experts=1), 11),
    "encoder": lambda name: Encoder(with_feedforward(EncoderConfig, name), 11),
    "encoder-decoder": lambda name: EncoderDecoder(with_feedforward(EncoderDecoderConfig, name), 11),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_an_activation_that_a_config_allows_and_nobody_wrote_is_a_sentence(make, monkeypatch):
    allow(monkeypatch, "swish")
    with pytest.raises(
        ValueError, match=rf"^model\.feedforward = swish: {ADD}ACTIVATIONS in minillm/layers/feedforward\.py"
    ):
        make("swish")


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_one_edit_adds_an_activation_to_every_model(make, monkeypatch):
    allow(monkeypatch, "swish")
    monkeypatch.setitem(ACTIVATIONS, "swish", torch.nn.functional.silu)
    modules = make("swish").modules()
    assert any(getattr(module, "activation", None) is torch.nn.functional.silu for module in modules)


def test_an_activation_without_a_derivative_by_hand_is_refused_before_the_first_step(monkeypatch):
    allow(monkeypatch, "swish")
    monkeypatch.setitem(ACTIVATIONS, "swish", torch.nn.functional.silu)
    model = MAKERS["decoder"]("swish")
    with pytest.raises(ValueError, match=r"no derivative of swish in blocks\.0\.feedforward is written; use autograd"):
        manual_modules.refuse_unknown(model, [type(m) for m in model.modules()])
    model = MAKERS["decoder"]("relu2")
    manual_modules.refuse_unknown(model, [type(m) for m in model.modules()])


def test_an_activation_that_is_in_no_registry_has_a_name_too():
    model = MAKERS["decoder"]("relu2")
    for module in model.modules():
        if isinstance(module, feedforward.MLP):
            module.activation = torch.sin
    with pytest.raises(ValueError, match=r"no derivative of sin in blocks\.0\.feedforward is written"):
        manual_modules.refuse_unknown(model, [type(m) for m in model.modules()])


@dataclasses.dataclass(frozen=True)
class DiffusionConfig:
    """A new kind of model."""

    kind: Literal["diffusion"] = "diffusion"


def test_a_kind_of_model_that_nobody_learns_is_a_sentence():
    config = dataclasses.replace(RunConfig(), model=DiffusionConfig())
    with pytest.raises(ValueError, match=rf"^model\.kind = diffusion: {ADD}TASKS in minillm/runs/wiring\.py"):
        wiring.build_task(config)


def test_a_kind_of_model_that_predicts_the_next_token_and_has_no_module_is_a_sentence():
    config = dataclasses.replace(RunConfig(), model=NgramConfig())
    with pytest.raises(ValueError, match=rf"^model\.kind = ngram: {ADD}MODELS in minillm/tasks/next_token\.py"):
        next_token.NextToken(config).model(11)


def test_a_cell_that_a_config_allows_and_nobody_wrote_is_a_sentence(monkeypatch):
    monkeypatch.setattr("minillm.models.rnn.validate", lambda config: None)
    with pytest.raises(ValueError, match=rf"^model\.cell = mamba: {ADD}CELLS in minillm/models/rnn\.py"):
        RNN(RNNConfig(cell="mamba"), 11)


def test_a_registry_is_a_dict_whose_keys_may_be_names_or_kinds_of_configs():
    registry = Registry("a.b", "HERE", {"x": 1, NgramConfig: 2})
    assert registry["x"] == 1 and registry[NgramConfig] == 2 and registry.get("y") is None and "y" not in registry
    with pytest.raises(ValueError, match=r"^a\.b = y: expected one of x, ngram; add it to HERE, or take one of these$"):
        registry["y"]
