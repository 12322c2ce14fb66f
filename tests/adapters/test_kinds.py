"""The contract of adapters: what every kind keeps on every architecture, and the equation of each."""

import itertools

import pytest
import torch
from torch import nn

from minillm.adapters.bitfit import BitFitConfig
from minillm.adapters.bottleneck import Bottleneck, BottleneckConfig
from minillm.adapters.build_adapter import NoAdapter, add_adapter
from minillm.adapters.dora import DoRA, DoRAConfig
from minillm.adapters.ia3 import IA3Config
from minillm.adapters.lora import LoRAConfig
from minillm.adapters.merge import adapted_layers, merge, unmerge
from minillm.adapters.prefix import Prefix, PrefixedAttention
from minillm.adapters.rows import HeadRows
from minillm.adapters.soft_prompt import SoftPromptConfig
from minillm.datasets.batch import Batch
from minillm.layers.attention import Attention
from minillm.lessons import adapters as lesson
from minillm.models.heads import Classifier
from minillm.models.rnn import RNN, RNNConfig
from minillm.objectives.next_token import next_token
from minillm.speed.accelerate import accelerate
from minillm.training.checkpoint import load_trained_state, trained_state
from minillm.training.optim import OptimConfig, build_optimizer
from minillm.training.step import GradientStep
from tests.adapters.models import (
    KINDS,
    MERGING,
    MODELS,
    PAIRS,
    VIRTUAL,
    adapted,
    encoder,
    logits,
    train_a_little,
    translator,
)
from tests.tiny import SHAPES, VOCAB, assert_equal, decoder, tokens

each_kind = pytest.mark.parametrize("kind", KINDS)
each_pair = pytest.mark.parametrize(("kind", "name"), PAIRS)


def state_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def biased(name: str) -> bool:
    """Whether all linear layers of a model have biases, so that BitFit can be merged."""
    return name in ("gpt", "gpt-oss", "encoder", "encoder-decoder")


@each_pair
def test_a_fresh_adapter_changes_nothing_and_a_trained_one_something(kind, name):
    model, plain = adapted(KINDS[kind], MODELS[name], fresh=True), MODELS[name]()
    if kind not in VIRTUAL:
        assert_equal(logits(model), logits(plain))
    assert (logits(train_a_little(model)) - logits(plain)).abs().max() > 1e-3


@each_pair
def test_only_the_adapter_gets_gradients_and_each_of_its_parts_one(kind, name):
    model = adapted(KINDS[kind], MODELS[name])
    before = MODELS[name]().state_dict()
    logits(model, B=5, T=13).square().sum().backward()
    for path, parameter in model.named_parameters():
        assert parameter.requires_grad == (parameter.grad is not None), path
    frozen = [p for p in model.parameters() if not p.requires_grad]
    assert sum(p.numel() for p in frozen) == sum(p.numel() for p in MODELS[name]().parameters())
    trained = {path for path, p in model.named_parameters(remove_duplicate=False) if p.requires_grad}
    left = {path.replace("base.", ""): x for path, x in model.state_dict().items() if path not in trained}
    assert all(torch.equal(left[path], value) for path, value in before.items()), "the base is as it was"


@each_pair
@pytest.mark.parametrize("training", [True, False])
def test_what_can_be_merged_is_merged_to_the_same_function_and_taken_out_again(kind, name, training):
    model = adapted(KINDS[kind], MODELS[name]).train(training)
    before, expected = state_of(model), logits(model)
    if kind not in MERGING or (kind == "bitfit" and not biased(name)):
        with pytest.raises(ValueError, match=r"expected .*(adapter|bias)"):
            merge(model)
        assert state_of(model).keys() == before.keys() and torch.equal(logits(model), expected)
        return
    taken = merge(model)
    assert merge(model) == {} and not adapted_layers(model), "merging twice is merging once"
    assert model.state_dict().keys() == MODELS[name]().state_dict().keys()
    assert not any(p.requires_grad for p in model.parameters())
    assert_equal(logits(model), expected)
    unmerge(model, taken)
    after = state_of(model)
    assert after.keys() == before.keys() and all(torch.equal(after[path], x) for path, x in before.items())
    assert torch.equal(logits(model), expected)


@each_pair
def test_what_is_saved_is_the_adapter_alone_and_loads_on_another_copy_of_the_base(kind, name):
    model = adapted(KINDS[kind], MODELS[name])
    saved = trained_state(model)
    named = {path for path, p in model.named_parameters(remove_duplicate=False) if p.requires_grad}
    assert saved.keys() - {path for path, _ in model.named_buffers()} == named
    other = adapted(KINDS[kind], MODELS[name], fresh=True)
    load_trained_state(other, saved)
    assert torch.equal(logits(other), logits(model))


@each_pair
def test_the_accelerated_model_says_the_same(kind, name):
    model = adapted(KINDS[kind], MODELS[name])
    with torch.no_grad():
        assert_equal(logits(accelerate(model)), logits(model))
    assert_equal(logits(accelerate(model, training=True)), logits(model))


@each_kind
def test_a_cached_text_is_the_text_read_at_once_whatever_the_chunks(kind):
    for shape in ("llama", "experts", "n-gram embeddings"):
        model, t = adapted(KINDS[kind], MODELS[shape]), tokens(3, 13)
        state = model.start(3)
        parts = [model(part, state)[0] for part in t.split([1, 5, 3, 4], dim=1)]
        assert_equal(torch.cat(parts, 1), model(t)[0])


@each_kind
@pytest.mark.parametrize(("optimizer", "precision"), [("muon", "bf16"), ("adamw", "fp32")])
def test_training_lowers_the_loss_and_moves_the_adapter_alone(kind, optimizer, precision):
    model = adapted(KINDS[kind], MODELS["experts"], fresh=True).float()
    config = OptimConfig(kind=optimizer, lr=0.02, weight_decay=0.0)
    how = {"lr": config.lr, "precision": precision}
    step = GradientStep(model, next_token, build_optimizer(model, config), lambda step: 1.0, **how)
    assert {id(p) for p in step.parameters} == {id(p) for p in model.parameters() if p.requires_grad}
    before, batch = state_of(model), Batch(tokens(4, 9), tokens(4, 9, seed=1))
    losses = [step(batch)["loss"] for _ in range(15)]
    assert losses[-1] < losses[0] - 0.02
    trained = {path for path, p in model.named_parameters(remove_duplicate=False) if p.requires_grad}
    for path, value in model.state_dict().items():
        assert torch.equal(value, before[path]) == (path not in trained), path


def test_no_adapter_changes_nothing_and_a_second_one_is_refused():
    model = decoder()
    assert add_adapter(model, NoAdapter()) is model and all(p.requires_grad for p in model.parameters())
    for first, second in itertools.product(KINDS.values(), KINDS.values()):
        with pytest.raises(ValueError, match="carries an adapter already"):
            add_adapter(adapted(first), second)


def test_dora_is_the_published_equation_and_its_norm_gets_no_gradient():
    model = nn.Linear(5, 7).double()
    layer = train_a_little(DoRA(model.requires_grad_(False), 3, 11.0))
    x = torch.randn(2, 5, dtype=torch.float64)
    W = layer.base.weight + 11 / 3 * layer.B.weight @ layer.A.weight
    norm = W.square().sum(1).sqrt()
    expected = x @ (layer.magnitude / norm.detach() * W.T) + layer.base.bias
    assert_equal(layer(x), expected)
    for out in (layer(x), expected):
        out.square().sum().backward()
        grads, layer_grads = [p.grad.clone() for p in layer.parameters() if p.requires_grad], layer.zero_grad()
        assert layer_grads is None
        if out is not expected:
            first = grads
    for mine, theirs in zip(first, grads, strict=True):
        assert_equal(mine, theirs)


def test_every_layer_is_that_of_the_lesson():
    torch.manual_seed(2)
    x, base = torch.randn(5, 10, dtype=torch.float64), nn.Linear(10, 7, bias=False).double().requires_grad_(False)
    layer = train_a_little(Bottleneck(base, base.weight, 3, torch.relu))
    layer.down.bias.data.zero_()
    layer.up.bias.data.zero_()
    assert_equal(layer(x), lesson.bottleneck(base(x), layer.down.weight, layer.up.weight))
    layer = train_a_little(DoRA(base, 3, 3.0))
    assert_equal(layer(x), lesson.dora(x, base.weight, layer.B.weight, layer.A.weight, layer.magnitude))
    attention = Attention(10, 1, 1, 4).double()
    layer = train_a_little(PrefixedAttention(attention, Prefix(attention, 3)))
    q, k, v = (to(x) for to in (attention.to_q, attention.to_k, attention.to_v))
    expected = lesson.prefix_attention(q, k, v, layer.prefix.k[0, 0], layer.prefix.v[0, 0])
    assert_equal(layer(x[None])[0], attention.to_out(expected))
    model, plain, t = adapted(SoftPromptConfig(length=3)), decoder(), tokens(1, 9)
    ids = torch.cat([model.ids[None], t], 1)
    read = lesson.prompted(lambda rows: plain.hidden(ids, vectors=rows[None])[0][0], model.vectors, plain.embed(t[0]))
    assert_equal(model.hidden(t)[0][0], read)


def test_a_row_of_zeros_stays_zero_in_dora():
    base = nn.Linear(5, 7, bias=False)
    base.weight.data[3] = 0.0
    assert torch.isfinite(DoRA(base, 2, 1.0)(torch.randn(4, 5))).all()


def test_ia3_scales_keys_values_and_hidden_units():
    model, plain = adapted(IA3Config(), MODELS["gpt"]), MODELS["gpt"]()
    for path, layer in adapted_layers(model).items():
        weight, bias = plain.get_submodule(path).weight.data, plain.get_submodule(path).bias.data
        if path.endswith("down"):
            weight *= layer.factors
        else:
            weight *= layer.factors[:, None]
            bias *= layer.factors
    assert len(adapted_layers(model)) == 6
    assert_equal(logits(model), logits(plain))


def test_bitfit_adds_to_every_bias():
    model, plain = adapted(BitFitConfig(targets=("to_*", "up", "down", "norm_?")), MODELS["gpt"]), MODELS["gpt"]()
    for path, layer in adapted_layers(model).items():
        plain.get_submodule(path).bias.data += layer.shift
    assert len(adapted_layers(model)) == 2 * (4 + 2 + 2)
    assert_equal(logits(model), logits(plain))


def test_a_bottleneck_stands_after_attention_and_feedforward():
    model = adapted(BottleneckConfig(width=3, activation="relu"), MODELS["llama"])
    paths = [f"blocks.{i}.{part}" for i in range(2) for part in ("attention.to_out", "feedforward")]
    assert list(adapted_layers(model)) == paths
    layer = model.blocks[0].feedforward
    x = torch.randn(2, 5, 10, dtype=torch.float64)
    y = layer.base(x)
    hidden = torch.relu(y @ layer.down.weight.T + layer.down.bias)
    assert_equal(layer(x), y + hidden @ layer.up.weight.T + layer.up.bias)
    assert isinstance(layer, Bottleneck)


@pytest.mark.parametrize("shape", ["gpt", "llama"])
def test_new_tokens_are_learned_in_embedding_and_head_and_stay_tied(shape):
    model, plain = adapted(LoRAConfig(rank=2, rows=(5, 19)), MODELS[shape], fresh=True), MODELS[shape]()
    embed, head = model.embed, model.head
    assert (embed.change is head.change) == plain.config.tied
    torch.manual_seed(1)
    for part in {embed.change, head.change}:
        part.data += torch.randn_like(part)
    for weight, change in {plain.embed.weight: embed.change, plain.head.weight: head.change}.items():
        weight.data[[5, 19]] += change
    assert_equal(logits(model), logits(plain))
    merge(model)
    assert (model.head.weight is model.embed.weight) == plain.config.tied
    assert torch.equal(model.embed.weight, plain.embed.weight) and torch.equal(model.head.weight, plain.head.weight)


def test_the_head_of_a_classifier_has_no_rows_of_tokens():
    torch.manual_seed(0)
    model = add_adapter(Classifier(encoder(), 2).double(), LoRAConfig(rank=2, rows=(1,)))
    assert not any(isinstance(layer, HeadRows) for layer in model.modules()) and model(tokens(2, 5)).shape == (2, 2)


def test_a_head_of_its_own_may_have_a_correction_beside_new_rows():
    config = LoRAConfig(rank=2, targets=("to_q", "head"), rows=(7,))
    model = adapted(config, MODELS["llama"])
    expected = logits(model)
    merge(model)
    assert_equal(logits(model), expected)
    with pytest.raises(ValueError, match="expected no target head beside it"):
        adapted(config)


class Other(nn.Module):
    """A model without attention or linear layers."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(VOCAB, 3)


BAD = {
    "factors of a layer that is not there": (IA3Config(outputs=("to_w",)), decoder, "target = 'to_w'"),
    "one layer twice": (IA3Config(inputs=("to_*",)), decoder, "found blocks.0.attention.to_k in both"),
    "a bottleneck inside a sublayer": (BottleneckConfig(targets=("up",)), decoder, "found blocks.0.feedforward.up"),
    "experts for dora": (DoRAConfig(rank=2, targets=("up",)), lambda: decoder(**SHAPES["experts"]), "target = 'up'"),
    "a row beyond the vocabulary": (LoRAConfig(rank=2, rows=(VOCAB,)), decoder, "ids below the model's vocab_size"),
    "a row twice": (LoRAConfig(rank=2, rows=(3, 3)), decoder, "expected different ids"),
    "a recurrent model": (BottleneckConfig(), lambda: RNN(RNNConfig(d_hidden=5), VOCAB), "expected a transformer"),
    "no layer at all": (BitFitConfig(), Other, "target = 'to_\\*'"),
}


@pytest.mark.parametrize(("adapter", "build", "sentence"), BAD.values(), ids=BAD)
def test_an_adapter_that_does_not_suit_a_model_is_refused_and_the_model_is_as_it_was(adapter, build, sentence):
    model = build()
    before = list(model.named_modules())
    with pytest.raises(ValueError, match=sentence):
        add_adapter(model, adapter)
    assert list(model.named_modules()) == before and all(p.requires_grad for p in model.parameters())


def test_the_alignment_and_the_masked_head_read_the_adapted_layers():
    model = adapted(LoRAConfig(rank=2, targets=("to_q",)), translator)
    assert not torch.equal(
        model.alignment(tokens(2, 5), tokens(2, 7)), translator().alignment(tokens(2, 5), tokens(2, 7))
    )
    model = adapted(LoRAConfig(rank=2, rows=(4,)), encoder, fresh=True)
    model.embed.change.data += 1.0
    assert not torch.equal(logits(model)[..., 4], logits(encoder())[..., 4])
