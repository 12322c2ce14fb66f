"""The decoder against the GPT of the lesson, and laws for every choice of its parts."""

import hashlib
import math

import pytest
import torch

from minillm.lessons.gpt import GPT
from minillm.models.decoder import Decoder, DecoderConfig
from minillm.runs.config import load_config
from tests.tiny import SHAPES, VOCAB, assert_equal, assert_equal_with_gradients, config, decoder, tokens

every_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


def test_the_composed_model_is_the_gpt_of_the_lesson_weight_for_weight():
    gpt_2 = {"positions": "learned", "norm": "layernorm", "feedforward": "gelu", "bias": True, "tied": True}
    mine = decoder(n_layers=3, n_heads=5, d_model=35, d_head=0, d_ff=0, context_length=17, **gpt_2)
    theirs = GPT(VOCAB, context_length=17, d_model=35, n_heads=5, n_layers=3).double()
    weights = {name.replace(".table", ""): weight for name, weight in mine.state_dict().items()}
    del weights["head.weight"]  # the embedding
    theirs.load_state_dict(weights)

    text = tokens(3, 13)
    logits = mine(text)[0], theirs(text)
    assert_equal_with_gradients(logits, mine, theirs, lambda name: name.replace(".table", ""))


@pytest.mark.parametrize(
    ("shape", "names", "sum_of_waves"),
    [
        (load_config("gpt-tiny").model, "9082861c", 1.7504572),
        (load_config("moe-tiny").model, "a995a588", 18.7623918),
        (config(**SHAPES["llama"]), "86be05e4", 21.1710069),
    ],
    ids=["gpt-tiny", "moe-tiny", "llama"],
)
def test_a_seed_gives_the_same_names_and_weights_for_ever(shape, names, sum_of_waves):
    """So a run stays reproducible when the constructor is changed."""
    torch.manual_seed(7)
    named = Decoder(shape, 97).state_dict()
    waves = [float((p.double().flatten() * torch.arange(p.numel()).double().cos()).sum()) for p in named.values()]
    assert hashlib.sha256(" ".join(named).encode()).hexdigest()[:8] == names
    assert sum(waves) == pytest.approx(sum_of_waves, abs=1e-3)


@every_shape
def test_no_logit_depends_on_a_later_token_nor_on_one_outside_the_window(shape):
    model = decoder(**shape)
    x = torch.randn(1, 11, model.config.d_model, dtype=torch.float64, requires_grad=True)
    model.embed.register_forward_hook(lambda *_: x)
    logits = model(tokens(1, 11))[0][0]
    rows = [torch.autograd.grad(row.square().sum(), x, retain_graph=True)[0] for row in logits]
    depends = torch.cat(rows).abs().sum(-1)  # (T, T)
    i, j = torch.meshgrid(torch.arange(11), torch.arange(11), indexing="ij")
    c = model.config
    reach = c.n_layers * (c.window - 1) if c.window and not c.global_every else 11
    allowed = (j <= i) & (i - j <= reach)
    assert torch.all(depends[~allowed] == 0)
    assert torch.all(depends[allowed] > 0)


@every_shape
def test_changing_a_token_changes_no_earlier_logit(shape):
    model, text = decoder(**shape), tokens(2, 11)
    before = model(text)[0]
    for t in range(11):
        changed = text.clone()
        changed[:, t] = (text[:, t] + 1) % VOCAB
        after = model(changed)[0]
        assert_equal(after[:, :t], before[:, :t])
        assert (after[:, t] - before[:, t]).abs().min(1).values.max() > 1e-6


@every_shape
@pytest.mark.parametrize("where", ["left", "right", "middle", "everywhere"])
def test_padding_anywhere_is_invisible(shape, where):
    model, length = decoder(**shape), 9
    texts = [tokens(1, n, seed=n)[0] for n in (length, 1, 4, 7)]
    batch = torch.full((len(texts), length + 5), -1)
    for row, text in zip(batch, texts, strict=True):
        n, free = len(text), len(row) - len(text)
        places = {
            "left": torch.arange(free, len(row)),
            "right": torch.arange(n),
            "middle": torch.cat([torch.arange(n // 2), torch.arange(n // 2 + free, len(row))]),
            "everywhere": torch.randperm(len(row), generator=torch.Generator().manual_seed(n))[:n].sort().values,
        }[where]
        row[places] = text
    logits = model(batch)[0]
    for row, out, text in zip(batch, logits, texts, strict=True):
        assert_equal(out[row >= 0], model(text[None])[0][0])


@every_shape
def test_a_row_of_nothing_but_padding_leaves_every_output_and_gradient_finite(shape):
    model, batch = decoder(**shape).train(), tokens(3, 7)
    batch[1], batch[2, :4] = -1, -1
    logits = model(batch)[0]
    assert logits.isfinite().all()
    logits[batch >= 0].sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@every_shape
def test_padding_gets_no_gradient_and_gives_none(shape):
    model = decoder(**shape)
    alone, padded = tokens(1, 6), torch.cat([torch.full((1, 3), -1), tokens(1, 6)], dim=1)
    gradients = []
    for text in (alone, padded):
        model.zero_grad()
        model(text)[0][text >= 0].square().sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    for one, other in zip(*gradients, strict=True):
        assert_equal(one, other)


def test_a_text_beyond_the_context_is_refused_with_both_numbers():
    model = decoder(context_length=8)
    model(tokens(2, 8))
    with pytest.raises(ValueError, match=r"9 tokens: expected at most model\.context_length = 8"):
        model(tokens(2, 9))
    state = model.start(2)
    model(tokens(2, 5), state)
    with pytest.raises(ValueError, match="9 tokens"):
        model(tokens(2, 4), state)
    assert state.lengths.tolist() == [5, 5]
    model(tokens(2, 3), state)


def test_padding_does_not_count_towards_the_context():
    model, text = decoder(context_length=8), tokens(2, 8)
    padded, _ = model(torch.cat([torch.full((2, 5), -1), text], dim=1))
    assert torch.allclose(padded[:, 5:], model(text)[0], atol=1e-12)


@every_shape
def test_dropout_is_off_in_evaluation_and_on_again_in_training(shape):
    model, text = decoder(**shape, dropout=0.3), tokens(2, 7)
    without = decoder(**shape)
    assert torch.equal(model(text)[0], model(text)[0])
    assert torch.equal(model(text)[0], without(text)[0])
    for _ in range(2):
        model.train()
        assert not torch.equal(model(text)[0], model(text)[0])
        model.eval()
        assert torch.equal(model(text)[0], without(text)[0])


def test_dropout_acts_on_embeddings_on_attention_weights_and_on_both_sublayers(monkeypatch):
    seen = []
    real = torch.nn.functional.dropout
    monkeypatch.setattr(torch.nn.functional, "dropout", lambda x, p, *how: seen.append(p) or real(x, p, *how))
    attention = torch.nn.functional.scaled_dot_product_attention

    def spy(*parts, dropout_p, **how):
        seen.append(dropout_p)
        return attention(*parts, dropout_p=dropout_p, **how)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    decoder(dropout=0.25).train()(tokens(2, 7))
    assert seen == [0.25] * (1 + 2 * 3)


@pytest.mark.parametrize("tied", [True, False])
def test_a_tied_head_is_the_embedding_and_stays_so_when_weights_are_loaded(tied, tmp_path):
    model, other, text = decoder(tied=tied), decoder(seed=1, tied=tied), tokens(2, 7)
    torch.save(model.state_dict(), tmp_path / "weights")
    missing = other.load_state_dict(torch.load(tmp_path / "weights"), strict=True)
    assert not missing.missing_keys and not missing.unexpected_keys
    assert (other.head.weight is other.embed.weight) == tied
    assert torch.equal(model(text)[0], other(text)[0])
    n_embeddings = VOCAB * model.config.d_model * (1 if tied else 2)
    assert sum(p.numel() for p in model.parameters() if VOCAB in p.shape) == n_embeddings


@every_shape
def test_the_head_reads_the_hidden_vectors(shape):
    model, text = decoder(**shape), tokens(2, 7)
    assert torch.equal(model.head(model.hidden(text)[0]), model(text)[0])


def test_a_fresh_model_guesses_uniformly_and_weights_have_the_spread_that_was_asked_for():
    torch.manual_seed(0)
    c = DecoderConfig(n_layers=8, d_model=64, n_heads=4, norm="layernorm", positions="learned", bias=True)
    model = Decoder(c, vocab_size=503)
    loss = torch.nn.functional.cross_entropy(
        model(torch.randint(503, (5, 64)))[0].flatten(0, 1), torch.randint(503, (5 * 64,))
    )
    assert loss.item() == pytest.approx(math.log(503), abs=0.03)
    block = model.blocks[3]
    for weight in (
        model.embed.weight,
        model.embed_positions.table.weight,
        block.attention.to_q.weight,
        block.feedforward.up.weight,
    ):
        assert weight.std().item() == pytest.approx(0.02, rel=0.05)
    for weight in (block.attention.to_out.weight, block.feedforward.down.weight):
        assert weight.std().item() == pytest.approx(0.02 / math.sqrt(2 * 8), rel=0.05)
    assert all(not p.any() for name, p in model.named_parameters() if name.endswith("bias"))
    assert all((p == 1).all() for name, p in model.named_parameters() if "norm" in name and name.endswith("weight"))


def test_blocks_that_start_from_zero_leave_the_stream_alone():
    torch.manual_seed(0)
    model = Decoder(config(init_out="zero"), VOCAB).double()
    x = model.embed(tokens(2, 7))
    assert_equal(model.hidden(tokens(2, 7))[0], model.norm(x))


def test_the_same_seed_gives_the_same_weights():
    same, other = decoder(seed=3).state_dict(), decoder(seed=4).state_dict()
    assert all(torch.equal(weight, same[name]) for name, weight in decoder(seed=3).state_dict().items())
    assert not torch.equal(same["embed.weight"], other["embed.weight"])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"n_kv_heads": 4}, r"n_kv_heads = 4: expected a divisor of n_heads = 6"),
        ({"d_head": 0}, r"model\.d_model = 10: expected a multiple of n_heads = 6"),
        ({"d_head": 3}, r"d_head = 3: expected an even number"),
        ({"n_layers": 0}, r"n_layers = 0: expected int >= 1"),
        ({"dropout": 1.0}, r"dropout = 1\.0: expected float 0 \.\.\. 0\.99"),
        ({"positions": "rotery"}, r"positions = 'rotery': expected .*did you mean rotary"),
        ({"d_model": True}, r"d_model = True: expected int"),
    ],
)
def test_a_shape_that_cannot_be_built_is_refused_with_a_sentence(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        Decoder(config(**changes), VOCAB)


def test_value_embeddings_are_added_to_the_values_of_every_layer_by_its_scale():
    model, plain, text = decoder(value_embeddings=True), decoder(seed=1), tokens(3, 7)
    plain.load_state_dict(
        {name: weight for name, weight in model.state_dict().items() if not name.startswith("embed_values")}
    )
    assert (model(text)[0] - plain(text)[0]).abs().max() > 1e-3
    model.embed_values.scales.data = torch.tensor([1.0, 0.0], dtype=torch.float64)
    table = model.embed_values.table.weight
    to_v = plain.blocks[0].attention.to_v
    to_v.register_forward_hook(lambda _, __, out: out + table[text])
    assert_equal(model(text)[0], plain(text)[0])


def test_with_alibi_the_context_is_only_a_limit_and_a_longer_one_reads_on():
    short, long, text = (
        decoder(positions="alibi", context_length=8),
        decoder(positions="alibi", context_length=31),
        tokens(2, 31),
    )
    assert all(torch.equal(weight, long.state_dict()[name]) for name, weight in short.state_dict().items())
    assert_equal(short(text[:, :8])[0], long(text)[0][:, :8])
    with pytest.raises(ValueError, match=r"9 tokens: expected at most model\.context_length = 8"):
        short(text[:, :9])


def test_with_alibi_order_matters_and_only_as_distance():
    model, nothing, text = decoder(positions="alibi", n_layers=1), decoder(positions="none", n_layers=1), tokens(2, 7)
    turned = torch.cat([text[:, :6].flip(1), text[:, 6:]], dim=1)
    assert (model(text)[0][:, -1] - model(turned)[0][:, -1]).abs().max() > 1e-3
    assert_equal(nothing(text)[0][:, -1], nothing(turned)[0][:, -1])
