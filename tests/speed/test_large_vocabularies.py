"""Fusing head and loss changes only the memory: equal next-token losses for every model that allows it."""

from functools import partial

import pytest
import torch

from minillm.adapters.build_adapter import add_adapter
from minillm.adapters.lora import LoRAConfig
from minillm.constants import IGNORE
from minillm.datasets.batch import Batch
from minillm.evaluation.validation import Validation
from minillm.models.ngram import Ngram, NgramConfig
from minillm.models.rnn import RNN, RNNConfig
from minillm.objectives.next_token import next_token
from minillm.runs.config import CONFIGS, load_config
from minillm.speed import next_token as module
from minillm.speed.accelerate import accelerate
from minillm.speed.linear_cross_entropy import SLAB, FastRNN
from minillm.speed.next_token import LARGE, fast_next_token, head_weight
from minillm.tasks.next_token import NextToken
from minillm.training.balance import routers_of
from minillm.training.fast_step import accelerate_training
from tests.models.test_rnn import rnn
from tests.speed.test_linear_cross_entropy import Largest
from tests.tiny import SHAPES, VOCAB, assert_equal, decoder, tokens
from tests.training.test_carried import carried, text_in_steps
from tests.training.test_step import gradient_step

B, T = 5, 7
LOGITS = B * T * VOCAB
MAKERS = {name: partial(decoder, **SHAPES[name]) for name in ("gpt", "llama", "experts", "one expert and a shared one")}
MAKERS |= {"lstm": rnn, "untied gru": partial(rnn, cell="gru", tied=False)}
every_model = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def a_batch(seed: int = 0) -> Batch:
    """A batch in which some targets are not counted and the last row ends early."""
    text, targets = tokens(B, T, seed), tokens(B, T, seed + 1)
    text[-1, 4:], targets[-1, 4:], targets[1, 2:5] = -1, IGNORE, IGNORE
    return Batch(text, targets)


def fused(large: int, smoothing: float = 0.0):
    return partial(fast_next_token, large=large, smoothing=smoothing)


def fast_step(model, objective, **how):
    return accelerate_training(gradient_step(model, objective, **how))


@every_model
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("large", [0, 3 * VOCAB + 1, LOGITS - 1, LOGITS])
def test_a_step_has_the_same_loss_metrics_and_gradients_by_either_road(make, smoothing, large):
    model, batch = make(), a_batch()
    results = []
    plain = gradient_step(model, partial(next_token, smoothing=smoothing), grad_clip=0.3)
    for step in (plain, fast_step(model, fused(large, smoothing), grad_clip=0.3)):
        results.append((step(batch), step.optimizer.gradients))
    (plain, gradients), (metrics, others) = results
    assert metrics == pytest.approx(plain, rel=1e-12), "with what routers add, and how they shared their load"
    assert ("balance_loss" in metrics) == bool(routers_of(make()))
    for mine, expected in zip(others, gradients, strict=True):
        assert_equal(mine, expected)


@every_model
@pytest.mark.parametrize("train", [True, False])
def test_all_logits_exist_below_the_limit_and_never_above_it(make, train):
    model, batch = make().train(train), a_batch()
    tree = accelerate(model, training=train)
    for large, rows in {LOGITS: B * T, LOGITS - 1: B * T - 1, 6 * VOCAB: 6}.items():
        with Largest() as seen, torch.set_grad_enabled(train):
            loss = fast_next_token(tree, batch, large=large)
            if train:
                loss.total.backward()
        assert (rows, VOCAB) in seen.shapes
        assert ({(B, T, VOCAB), (B * T, VOCAB)} <= seen.shapes) == (large == LOGITS)
        assert large == LOGITS or not {(B, T, VOCAB), (B * T, VOCAB)} & seen.shapes


@every_model
def test_validation_says_the_same_by_either_road(make):
    model = make()
    plain = Validation([a_batch()], next_token, n_bytes=None, source_nats=None)
    fast = Validation([a_batch()], fused(0), n_bytes=None, source_nats=None).accelerated()
    assert fast(model)["val_loss"] == pytest.approx(plain(model)["val_loss"], rel=1e-12)


@pytest.mark.parametrize("cell", ["rnn", "lstm"])
def test_a_state_that_is_carried_is_read_by_either_road(cell):
    results = []
    for objective in (next_token, fused(0)):
        step = carried(rnn(cell=cell))
        step.objective = objective
        step = step if objective is next_token else accelerate_training(step)
        results.append([(step(batch)["loss"], step.optimizer.gradients) for batch in text_in_steps(3)])
    for (mine, gradients), (expected, others) in zip(*results, strict=True):
        assert mine == pytest.approx(expected, rel=1e-12)
        for a, b in zip(gradients, others, strict=True):
            assert_equal(a, b)


def test_a_head_that_is_more_than_a_matrix_is_asked_itself():
    adapted = decoder(tied=False)
    add_adapter(adapted, LoRAConfig(rank=2, targets=("head",)))
    torch.nn.init.normal_(adapted.head.B.weight)
    hooked, watched, fired = decoder(), decoder(), []
    for part in (hooked.head, watched):
        part.register_forward_hook(lambda *_: fired.append(1))
    biased = decoder(tied=False)
    biased.head = torch.nn.Linear(10, VOCAB).double()
    for i, model in enumerate((adapted, hooked, watched, biased)):
        assert head_weight(accelerate(model)) is None
        assert_equal(fast_next_token(accelerate(model), a_batch(), large=0).total, next_token(model, a_batch()).total)
        assert len(fired) == 2 * max(0, min(i, 2))
    assert head_weight(Ngram(NgramConfig(), VOCAB)) is None and head_weight(decoder()) is None
    assert head_weight(accelerate(decoder())) is not None and head_weight(accelerate(rnn())) is not None


def test_the_objective_takes_the_road_by_itself(monkeypatch):
    monkeypatch.setattr(
        module, "linear_cross_entropy", lambda hidden, weight, targets, smoothing, slab: (slab, hidden.shape)
    )
    text = torch.zeros(LARGE // 1000 + 1, 1, dtype=torch.long)
    wide = RNN(RNNConfig(cell="rnn", n_layers=1, d_hidden=2), 1000)
    monkeypatch.setattr(FastRNN, "hidden", lambda self, tokens: (tokens.new_zeros(*tokens.shape, 2), None))
    assert fast_next_token(accelerate(wide), Batch(text, text)).total == SLAB


@pytest.mark.parametrize("name", sorted(path.stem for path in CONFIGS.glob("*.toml")))
def test_no_config_that_comes_with_minillm_is_large(name):
    config = load_config(name)
    if type(config.model) in NextToken.models:
        rows = max(64, config.train.batch_size)  # 64 in validation
        assert rows * config.model.context_length * config.tokenizer.vocab_size <= LARGE
