"""The encoder against the BERT of the lesson; for all parts, every token attends to both sides and not to padding."""

import math

import pytest
import torch

from minillm.lessons.bert import BERT
from minillm.lessons.normalization import EPS
from minillm.models.encoder import Encoder, EncoderConfig
from minillm.models.heads import Classifier, nearest, sentence_vectors
from minillm.training.optim import OptimConfig, build_optimizer
from tests.tiny import VOCAB, assert_equal, assert_equal_with_gradients, tokens

SHAPES = {
    "bert": {},
    "pre-norm": {"norm_place": "pre", "feedforward": "gelu"},
    "rotary": {"positions": "rotary", "norm_place": "pre", "feedforward": "relu2"},
    "pairs": {"next_sentence": 3, "positions": "rotary"},
}
every_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
EMPTY_ANYWHERE = ["left", "right", "middle", "everywhere"]


def encoder(seed: int = 0, **changes) -> Encoder:
    """Two layers of five heads of four, float64, in evaluation mode; biases and norms are random too."""
    torch.manual_seed(seed)
    sizes = {
        "n_layers": 2,
        "d_model": 20,
        "n_heads": 5,
        "d_ff": 17,
        "context_length": 32,
        "init_std": 0.4,
        "init_embed": 0.4,
    }
    model = Encoder(EncoderConfig(**(sizes | changes)), VOCAB).double().eval()
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.3 * torch.randn_like(parameter)
    return model


def test_the_encoder_is_the_bert_of_the_lesson_weight_for_weight():
    mine = encoder(n_layers=3, context_length=13, feedforward="gelu", norm_eps=EPS)
    theirs = BERT(mine.vocab_size, context_length=13, d_model=20, n_heads=5, d_ff=17, n_layers=3).double()

    def renamed(name: str) -> str:
        return name.replace(".table", "").removeprefix("head.")

    theirs.load_state_dict({renamed(name): weight for name, weight in mine.named_parameters()})
    text, segments = tokens(3, 11), tokens(3, 11, seed=1) % 2
    logits = mine(text, segments), theirs(text, segments)
    assert_equal_with_gradients(logits, mine, theirs, renamed)


@every_shape
def test_every_logit_depends_on_every_token_on_both_sides(shape):
    model = encoder(**shape)
    x = torch.randn(1, 11, 20, dtype=torch.float64, requires_grad=True)
    model.embed.register_forward_hook(lambda *_: x)
    rows = [torch.autograd.grad(row.square().sum(), x, retain_graph=True)[0] for row in model(tokens(1, 11))[0]]
    assert torch.all(torch.cat(rows).abs().sum(-1) > 0)  # (T, T)


@every_shape
def test_order_counts_and_so_does_the_segment(shape):
    model, text = encoder(**shape), tokens(1, 7)
    hidden = model.hidden(text)
    assert (model.hidden(text.flip(1)).flip(1) - hidden).abs().max() > 1e-3
    segments = torch.tensor([[0, 0, 0, 1, 1, 1, 1]])
    assert (model.hidden(text, segments) - hidden).abs().max() > 1e-3
    assert_equal(model.hidden(text, torch.zeros_like(text)), hidden)


def pad(texts: list[torch.Tensor], where: str, length: int) -> torch.Tensor:
    """The texts as one batch, with EMPTY before, between and after the tokens."""
    batch = torch.full((len(texts), length), -1)
    for row, text in zip(batch, texts, strict=True):
        n, free = len(text), length - len(text)
        row[
            {
                "left": torch.arange(free, length),
                "right": torch.arange(n),
                "middle": torch.cat([torch.arange(n // 2), torch.arange(n // 2 + free, length)]),
                "everywhere": torch.randperm(length, generator=torch.Generator().manual_seed(n))[:n].sort().values,
            }[where]
        ] = text
    return batch


@every_shape
@pytest.mark.parametrize("where", EMPTY_ANYWHERE)
def test_padding_anywhere_is_invisible_to_tokens_pooled_vectors_and_sentence_vectors(shape, where):
    model = encoder(**shape)
    classifier = Classifier(model, 3).double().eval()
    texts = [tokens(1, n, seed=n)[0] for n in (9, 1, 4, 7)]
    batch = pad(texts, where, 14)
    logits, classes, vectors = model(batch), classifier(batch), sentence_vectors(model, batch)
    for i, text in enumerate(texts):
        alone = text[None]
        assert_equal(logits[i][batch[i] >= 0], model(alone)[0])
        assert_equal(classes[i], classifier(alone)[0])
        assert_equal(vectors[i], sentence_vectors(model, alone)[0])


@every_shape
def test_a_row_of_nothing_but_padding_leaves_every_output_and_gradient_finite(shape):
    model, batch = encoder(**shape).train(), tokens(3, 7)
    batch[1], batch[2, :4] = -1, -1
    classifier = Classifier(model, 3).double()
    logits, classes, vectors = model(batch), classifier(batch), sentence_vectors(model, batch)
    assert logits.isfinite().all() and classes.isfinite().all() and vectors.isfinite().all()
    (logits[batch >= 0].sum() + classes.sum() + vectors.square().sum()).backward()
    assert all(p.grad.isfinite().all() for p in classifier.parameters() if p.grad is not None)


@every_shape
def test_padding_gets_no_gradient_and_gives_none(shape):
    model = encoder(**shape)
    gradients = []
    for text in (tokens(1, 6), torch.cat([torch.full((1, 3), -1), tokens(1, 6)], dim=1)):
        model.zero_grad()
        model(text)[text >= 0].square().sum().backward()
        gradients.append([torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()])
    for one, other in zip(*gradients, strict=True):
        assert_equal(one, other)


@every_shape
def test_dropout_is_off_in_evaluation_and_on_again_in_training(shape):
    model, without, text = encoder(**shape, dropout=0.3), encoder(**shape), tokens(2, 7)
    answers = [Classifier(m, 2).double() for m in (model, without)]
    answers[1].load_state_dict(answers[0].state_dict())
    for _ in range(2):
        answers[0].eval()
        assert torch.equal(model(text), without(text)) and torch.equal(answers[0](text), answers[1](text))
        answers[0].train()
        assert not torch.equal(model(text), model(text)) and not torch.equal(answers[0](text), answers[0](text))


def test_a_text_beyond_the_context_is_refused_with_both_numbers_and_padding_does_not_count():
    model = encoder(context_length=8)
    with pytest.raises(ValueError, match=r"9 tokens: expected at most model\.context_length = 8"):
        model(tokens(2, 9))
    padded = torch.cat([torch.full((2, 5), -1), tokens(2, 8)], dim=1)
    assert_equal(model(padded)[:, 5:], model(tokens(2, 8)))


def test_the_head_reads_with_the_table_that_it_is_read_with_and_mask_is_the_last_id():
    model = encoder()
    assert (model.mask_id, model.vocab_size) == (VOCAB, VOCAB + 1) and model(tokens(2, 7)).shape == (2, 7, VOCAB + 1)
    assert model.head.embed.weight is model.embed.weight
    assert sum(p.numel() for p in model.parameters() if p.ndim > 1 and VOCAB + 1 in p.shape) == (VOCAB + 1) * 20


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_every_weight_has_exactly_one_optimizer_and_the_table_is_never_muons(kind):
    model = Classifier(encoder(next_sentence=1), 2)
    optimizer = build_optimizer(model, OptimConfig(kind=kind))
    members = optimizer.members if kind == "muon" else [optimizer]
    owned = [id(p) for member in members for p in member.parameters]
    assert sorted(owned) == sorted(id(p) for p in model.parameters())
    assert id(model.encoder.embed.weight) in [id(p) for p in members[-1].parameters]


def test_a_fresh_model_guesses_uniformly_with_weights_of_the_spread_that_was_asked_for():
    torch.manual_seed(0)
    model = Encoder(EncoderConfig(n_layers=3, d_model=64, next_sentence=1), 503)
    loss = torch.nn.functional.cross_entropy(
        model(torch.randint(504, (5, 64))).flatten(0, 1), torch.randint(504, (320,))
    )
    assert loss.item() == pytest.approx(math.log(504), abs=0.03)
    weights = dict(model.named_parameters())
    for name in ("embed.weight", "blocks.1.attention.to_q.weight", "head.dense.weight", "follows.dense.weight"):
        assert weights[name].std().item() == pytest.approx(0.02, rel=0.05)
    assert all(not p.any() for name, p in weights.items() if name.endswith("bias"))
    assert all((p == 1).all() for name, p in weights.items() if "norm" in name and name.endswith("weight"))


def test_sentence_vectors_are_the_mean_over_real_tokens_at_length_one_and_the_nearest_comes_first():
    model, batch = encoder(), pad([tokens(1, n, seed=n)[0] for n in (9, 1, 4, 7)], "everywhere", 14)
    vectors, hidden = sentence_vectors(model, batch), model.hidden(batch)
    for row, places, vector in zip(hidden, batch >= 0, vectors, strict=True):
        mean = sum(row[t] for t in range(14) if places[t]) / int(places.sum())
        assert_equal(vector, mean / mean.square().sum().sqrt())
    found = nearest(vectors[2], vectors, 3)
    assert found[0][0] == 2 and found[0][1] == pytest.approx(1)
    cosines = [(vectors[i] @ vectors[2]).item() for i in range(4)]
    assert found == [(i, pytest.approx(c)) for c, i in sorted(zip(cosines, range(4), strict=True), reverse=True)[:3]]
    assert len(nearest(vectors[2], vectors, 99)) == 4


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"n_heads": 3}, r"model\.d_model = 20: expected a multiple of n_heads = 3"),
        ({"d_model": 15, "positions": "rotary"}, r"d_head = 3: expected an even number"),
        ({"next_sentence": 1, "context_length": 5}, r"context_length = 5: expected at least 6"),
        ({"positions": "alibi"}, r"positions = 'alibi': expected one of learned, rotary$"),
    ],
)
def test_a_shape_that_cannot_be_built_is_refused_with_a_sentence(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        encoder(**changes)
