"""Recurrent models equal torch's stacks; their state summarizes all tokens read."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from minillm.constants import EMPTY
from minillm.models.rnn import CELLS, RNN, RNNConfig
from minillm.training.optim import AdamW, OptimConfig, build_optimizer
from tests.tiny import VOCAB, assert_equal, tokens

SHAPES = {
    "rnn": {"cell": "rnn"},
    "lstm": {"cell": "lstm"},
    "gru": {"cell": "gru"},
    "wide embedding": {"cell": "lstm", "d_embed": 13, "tied": False},
    "one layer": {"cell": "gru", "n_layers": 1, "tied": False},
}
every_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
every_cell = pytest.mark.parametrize("cell", CELLS)


def rnn(seed: int = 0, **changes) -> RNN:
    """Two layers of width seven, in evaluation mode, with random biases."""
    torch.manual_seed(seed)
    model = RNN(RNNConfig(**({"d_hidden": 7, "init_embed": 0.8} | changes)), VOCAB).double().eval()
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.3 * torch.randn_like(parameter)
    return model


@every_shape
def test_a_stack_is_torchs_stack_forward_and_backward(shape):
    mine, text = rnn(**shape), tokens(3, 11)
    c = mine.config
    kind = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}[c.cell]
    theirs = kind(c.d_embed or c.d_hidden, c.d_hidden, c.n_layers, batch_first=True).double()
    for i, layer in enumerate(mine.layers):
        weights = {
            "weight_ih": layer.weight_x,
            "weight_hh": layer.weight_h,
            "bias_ih": layer.bias,
            "bias_hh": torch.zeros_like(layer.bias),
        }
        if c.cell == "gru":
            weights["bias_hh"][2 * c.d_hidden :] = layer.bias_h.data
        for name, weight in weights.items():
            getattr(theirs, f"{name}_l{i}").data = weight.detach().clone()
    embed, head = (
        mine.embed.weight.detach().clone().requires_grad_(),
        mine.head.weight.detach().clone().requires_grad_(),
    )
    logits = theirs(embed[text])[0] @ head.T
    assert_equal(mine(text)[0], logits)
    direction = torch.randn_like(logits)
    for out in (mine(text)[0], logits):
        (out * direction).sum().backward()
    assert_equal(mine.embed.weight.grad, embed.grad + head.grad if c.tied else embed.grad)
    for i, layer in enumerate(mine.layers):
        assert_equal(layer.weight_x.grad, getattr(theirs, f"weight_ih_l{i}").grad)
        assert_equal(layer.weight_h.grad, getattr(theirs, f"weight_hh_l{i}").grad)
        assert_equal(layer.bias.grad, getattr(theirs, f"bias_ih_l{i}").grad)


@every_shape
def test_no_logit_depends_on_a_later_token_and_each_on_all_before(shape):
    model = rnn(**shape)
    x = torch.randn(11, 1, model.embed.embedding_dim, dtype=torch.float64, requires_grad=True)
    model.embed.register_forward_hook(lambda *_: x)
    logits = model(tokens(1, 11))[0][0]
    rows = [torch.autograd.grad(row.square().sum(), x, retain_graph=True)[0] for row in logits]
    depends = torch.stack(rows).abs().sum((-1, -2))  # (T, T)
    allowed = torch.ones(11, 11, dtype=torch.bool).tril()
    assert torch.all(depends[~allowed] == 0)
    assert torch.all(depends[allowed] > 0)


def scattered(texts: list[torch.Tensor], width: int, where: str) -> torch.Tensor:
    """Texts with EMPTY before, between or after their tokens, (B, width)."""
    batch = torch.full((len(texts), width), EMPTY)
    for row, text in zip(batch, texts, strict=True):
        n, free = len(text), width - len(text)
        places = {
            "left": torch.arange(free, width),
            "right": torch.arange(n),
            "middle": torch.cat([torch.arange(n // 2), torch.arange(n // 2 + free, width)]),
            "everywhere": torch.randperm(width, generator=torch.Generator().manual_seed(n))[:n].sort().values,
        }[where]
        row[places] = text
    return batch


@every_shape
@pytest.mark.parametrize("where", ["left", "right", "middle", "everywhere"])
@pytest.mark.parametrize("with_state", [True, False])
def test_padding_anywhere_is_invisible_to_logits_state_and_gradients(shape, where, with_state):
    model = rnn(**shape)
    texts = [tokens(1, n, seed=n)[0] for n in (9, 1, 4, 0)]
    batch = scattered(texts, 14, where)
    state = model.start(4) if with_state else None
    logits, _ = model(batch, state)
    logits[batch >= 0].square().sum().backward()
    padded = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    for i, text in enumerate(texts):
        alone = model.start(1)
        out, _ = model(text[None], alone)
        assert_equal(logits[i][batch[i] >= 0], out[0])
        if len(text):
            out.square().sum().backward()
        if with_state:
            assert state.lengths[i] == len(text)
            for layer, single in zip(state.layers, alone.layers, strict=True):
                for part, other in zip(layer, single, strict=True):
                    assert_equal(part[i], other[0])
    for one, other in zip(padded, model.parameters(), strict=True):
        assert_equal(one, other.grad)


@every_shape
def test_a_row_of_nothing_but_padding_leaves_every_output_and_gradient_finite(shape):
    model, batch = rnn(**shape).train(), tokens(3, 7)
    batch[1], batch[2, :4] = EMPTY, EMPTY
    logits = model(batch)[0]
    assert logits.isfinite().all()
    logits[batch >= 0].sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@settings(max_examples=40)
@given(shape=st.sampled_from(list(SHAPES.values())), cuts=st.lists(st.integers(0, 13), max_size=6).map(sorted))
def test_a_text_read_in_pieces_gives_the_logits_of_one_reading(shape, cuts):
    model, text = rnn(**shape), tokens(3, 13)
    state, logits = model.start(3), []
    for a, b in zip([0, *cuts], [*cuts, 13], strict=True):
        out, same = model(text[:, a:b], state)
        logits.append(out)
        assert same is state
        assert state.lengths.tolist() == [b] * 3
    assert_equal(torch.cat(logits, dim=1), model(text)[0])


@settings(max_examples=60)
@given(shape=st.sampled_from(list(SHAPES.values())), data=st.data())
def test_after_any_reading_and_reordering_a_state_is_worth_a_fresh_reading(shape, data):
    model, rows = rnn(**shape), [[], [], []]
    state = model.start(3)
    for _ in range(data.draw(st.integers(2, 7))):
        if data.draw(st.booleans()):
            order = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=4))
            state.reorder(torch.tensor(order))
            rows = [rows[i].copy() for i in order]
            continue
        seed = data.draw(st.integers(0, 99))
        chunk = tokens(len(rows), data.draw(st.integers(0, 5)), seed)
        empty = torch.rand(chunk.shape, generator=torch.Generator().manual_seed(seed)) < data.draw(
            st.sampled_from([0.0, 0.5])
        )
        chunk = chunk.masked_fill(empty, EMPTY)
        logits, _ = model(chunk, state)
        for row, new, out in zip(rows, chunk, logits, strict=True):
            row += new[new >= 0].tolist()
            if (new >= 0).any():
                assert_equal(out[new >= 0], model(torch.tensor([row]))[0][0, -int((new >= 0).sum()) :])
        assert state.lengths.tolist() == [len(row) for row in rows]


@every_cell
def test_a_token_cannot_be_taken_back_and_keeping_all_of_them_is_no_error(cell):
    model, text = rnn(cell=cell), tokens(2, 6)
    state, same = model.start(2), model.start(2)
    model(text[:, :5], state)
    model(text[:, :5], same)
    state.truncate(torch.tensor([5, 5]))
    for lengths in ([5, 4], [0, 0], [5, 6]):
        with pytest.raises(
            ValueError, match=r"lengths = .*: expected exactly the tokens read, \[5, 5\]; a recurrent state sums up"
        ):
            state.truncate(torch.tensor(lengths))
    assert_equal(model(text[:, 5:], state)[0], model(text[:, 5:], same)[0])


@every_cell
def test_a_state_holds_as_much_after_a_long_text_as_after_none(cell):
    model = rnn(cell=cell).float()
    state = model.start(5)
    expected = 2 * CELLS[cell].n_states * 5 * 7 * 4
    for T in (0, 1, 1, 64):
        assert state.nbytes() == expected
        model(tokens(5, T), state)
        parts = [part for layer in state.layers for part in layer]
        assert sum(part.untyped_storage().nbytes() for part in parts) == expected, "no view of something larger"


@every_cell
def test_without_a_state_nothing_is_remembered_and_two_states_know_nothing_of_each_other(cell):
    model, text, other = rnn(cell=cell), tokens(2, 7), tokens(2, 7, seed=1)
    before = model(text)[0]
    assert model(other)[1] is None
    assert torch.equal(model(text)[0], before)
    one, two = model.start(2), model.start(2)
    for t in range(7):
        assert_equal(model(text[:, t : t + 1], one)[0][:, 0], before[:, t])
        model(other[:, t : t + 1], two)


@every_cell
def test_a_state_of_another_batch_is_refused_and_stays_as_it_was(cell):
    model = rnn(cell=cell)
    state = model.start(2)
    with pytest.raises(ValueError, match=r"tokens have 3 rows: expected 2, as many as the state"):
        model(tokens(3, 4), state)
    assert state.lengths.tolist() == [0, 0]


@every_shape
def test_dropout_is_off_in_evaluation_and_on_again_in_training(shape):
    model, without, text = rnn(**shape, dropout=0.3), rnn(**shape), tokens(2, 7)
    for _ in range(2):
        assert torch.equal(model(text)[0], without(text)[0])
        model.train()
        assert not torch.equal(model(text)[0], model(text)[0])
        model.eval()


def test_dropout_acts_on_what_goes_up_and_never_on_the_state(monkeypatch):
    seen = []
    monkeypatch.setattr(torch.nn.functional, "dropout", lambda x, p, *how: seen.append((tuple(x.shape), p)) or x)
    rnn(n_layers=3, dropout=0.25).train()(tokens(2, 5))
    assert seen == [((5, 2, 7), 0.25)] * (1 + 3)


@pytest.mark.parametrize("tied", [True, False])
def test_a_tied_head_is_the_embedding_and_stays_so_when_weights_are_loaded(tied, tmp_path):
    model, other, text = rnn(tied=tied), rnn(seed=1, tied=tied), tokens(2, 7)
    torch.save(model.state_dict(), tmp_path / "weights")
    other.load_state_dict(torch.load(tmp_path / "weights"), strict=True)
    assert (other.head.weight is other.embed.weight) == tied
    assert torch.equal(model(text)[0], other(text)[0])
    assert torch.equal(model.head(model.hidden(text)[0]), model(text)[0])


@every_cell
def test_a_fresh_model_guesses_nearly_uniformly(cell):
    torch.manual_seed(0)
    model = RNN(RNNConfig(cell=cell, d_hidden=64), vocab_size=503)
    loss = nn.functional.cross_entropy(
        model(torch.randint(503, (5, 64)))[0].flatten(0, 1), torch.randint(503, (5 * 64,))
    )
    assert loss.item() == pytest.approx(math.log(503), abs=0.1)


@every_cell
def test_stacked_gates_are_no_matrices_for_muon_so_adamw_must_be_asked_for_and_steps_everything(cell):
    model = rnn(cell=cell)
    with pytest.raises(
        ValueError,
        match=r"optim\.kind = muon: expected linear layers .* inside the RNN, found none; use --optim\.kind adamw",
    ):
        build_optimizer(model, OptimConfig(kind="muon"))
    optimizer = build_optimizer(model, OptimConfig(kind="adamw"))
    assert isinstance(optimizer, AdamW)
    assert sorted(map(id, optimizer.parameters)) == sorted(map(id, model.parameters()))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"d_embed": 13}, r"model\.d_embed = 13: expected d_hidden = 7 .*set tied = false"),
        ({"cell": "ltsm"}, r"cell = 'ltsm': expected .*did you mean lstm"),
        ({"n_layers": 0}, r"n_layers = 0: expected int >= 1"),
        ({"dropout": 1.0}, r"dropout = 1\.0: expected float 0 \.\.\. 0\.99"),
    ],
)
def test_a_shape_that_cannot_be_built_is_refused_with_a_sentence(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        RNN(RNNConfig(**({"d_hidden": 7} | changes)), VOCAB)
    assert RNNConfig(d_hidden=7, d_embed=7).tied
