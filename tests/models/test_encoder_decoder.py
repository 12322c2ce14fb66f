"""The encoder-decoder against the transformer of the lesson and that of torch, and laws of all models."""

import math
from functools import partial

import pytest
import torch
from torch import nn

from minillm.decoding.generate import generate
from minillm.decoding.sampler import Sampler, SamplingConfig, build_pipeline, seeded
from minillm.lessons.encoder_decoder import Transformer
from minillm.lessons.positions import sinusoidal
from minillm.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from tests.tiny import VOCAB, assert_equal, assert_equal_with_gradients, tokens

SHAPES = {
    "post-norm": {},
    "pre-norm": {"norm_place": "pre", "feedforward": "gelu"},
    "no biases": {"bias": False, "norm_place": "pre"},
}

every_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
each_place = pytest.mark.parametrize("norm_place", ["post", "pre"])


def encoder_decoder(seed: int = 0, **changes) -> EncoderDecoder:
    """Two layers in each stack, five heads of width three; biases and norms are random too."""
    torch.manual_seed(seed)
    sizes = {"n_layers": 2, "d_model": 15, "n_heads": 5, "d_ff": 17, "context_length": 13, "dropout": 0.0}
    model = EncoderDecoder(EncoderDecoderConfig(**(sizes | changes)), VOCAB).double().eval()
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.3 * torch.randn_like(parameter)
    return model


def ragged(lengths: list[int], width: int, seed: int = 7, where: str = "right") -> torch.Tensor:
    """Random tokens, one row for each length, filled up with EMPTY."""
    batch = torch.full((len(lengths), width), -1)
    for i, n in enumerate(lengths):
        row = tokens(1, n, seed + i)[0]
        batch[i, :n] = row
        if where == "left":
            batch[i] = batch[i].roll(width - n)
    return batch


def greedy(model: EncoderDecoder, source: torch.Tensor, n: int, end_id: int | None = None) -> list[list[int]]:
    """The greedy completions of `generate` after token 0."""
    sampler = Sampler(build_pipeline(SamplingConfig(temperature=0.0)))
    how = {
        "max_new_tokens": n,
        "generators": seeded(range(len(source))),
        "end_id": end_id,
        "start": partial(model.start, source=source),
    }
    return [completion.tokens for completion in generate(model, [[0]] * len(source), sampler, **how)]


def test_the_composed_model_is_the_transformer_of_the_lesson_weight_for_weight():
    mine = encoder_decoder(n_layers=3, feedforward="gelu")
    theirs = Transformer(VOCAB, d_model=15, n_heads=5, d_ff=17, n_layers=3).double()
    mine.embed_positions.table = sinusoidal(13, 15)
    theirs.load_state_dict({name: weight for name, weight in mine.state_dict().items() if name != "head.weight"})
    source, text = tokens(3, 7), tokens(3, 11, seed=1)
    logits = mine(text, source=source)[0], theirs(source, text)
    assert_equal_with_gradients(logits, mine, theirs)


def as_torchs(model: EncoderDecoder) -> nn.Transformer:
    """torch.nn.Transformer with the same weights; only its pre-norm form ends each stack with a norm."""
    c, pre = model.config, model.config.norm_place == "pre"
    how = {
        "dim_feedforward": c.d_ff,
        "dropout": 0.0,
        "batch_first": True,
        "norm_first": pre,
        "layer_norm_eps": c.norm_eps,
    }
    how["activation"] = partial(nn.functional.gelu, approximate="tanh") if c.feedforward == "gelu" else "relu"
    theirs = nn.Transformer(c.d_model, c.n_heads, c.n_layers, c.n_layers, **how).double().eval()
    if not pre:
        theirs.encoder.norm = theirs.decoder.norm = None

    def same_attention(into, mine):
        into.in_proj_weight.data = torch.cat([mine.to_q.weight, mine.to_k.weight, mine.to_v.weight])
        into.in_proj_bias.data = torch.cat([mine.to_q.bias, mine.to_k.bias, mine.to_v.bias])
        into.out_proj.load_state_dict(mine.to_out.state_dict())

    for side, blocks in (("encoder", model.encoder), ("decoder", model.decoder)):
        stack = getattr(theirs, side)
        for layer, block in zip(stack.layers, blocks, strict=True):
            same_attention(layer.self_attn, block.attention)
            if side == "decoder":
                same_attention(layer.multihead_attn, block.cross)
                layer.norm3.load_state_dict(block.norm_3.state_dict())
            layer.norm1.load_state_dict(block.norm_1.state_dict())
            layer.norm2.load_state_dict(block.norm_2.state_dict())
            layer.linear1.load_state_dict(block.feedforward.up.state_dict())
            layer.linear2.load_state_dict(block.feedforward.down.state_dict())
        if pre:
            stack.norm.load_state_dict(getattr(model, f"{side}_norm").state_dict())
    return theirs


@each_place
@pytest.mark.parametrize("feedforward", ["relu", "gelu"])
def test_it_is_torchs_transformer_on_ragged_sources_and_targets(norm_place, feedforward):
    model = encoder_decoder(norm_place=norm_place, feedforward=feedforward)
    source, text = ragged([7, 3, 1], 7), ragged([2, 9, 6], 9, seed=20)
    theirs, scale, table = as_torchs(model), math.sqrt(15), model.embed_positions.table
    read = [model.embed(x.clamp(min=0)) * scale + table[: x.shape[1]] for x in (source, text)]
    future = nn.Transformer.generate_square_subsequent_mask(9, dtype=torch.float64)
    pads = {"src_key_padding_mask": source < 0, "memory_key_padding_mask": source < 0, "tgt_key_padding_mask": text < 0}
    pads["tgt_key_padding_mask"] = pads["tgt_key_padding_mask"].double() * -1e300
    out = theirs(*read, tgt_mask=future, **pads) @ model.embed.weight.T
    assert_equal(model(text, source=source)[0][text >= 0], out[text >= 0])


@every_shape
def test_no_logit_depends_on_a_later_token_and_every_one_on_every_source_token(shape):
    model = encoder_decoder(**shape)
    x = torch.randn(1, 11, 15, dtype=torch.float64, requires_grad=True)
    y = torch.randn(1, 7, 15, dtype=torch.float64, requires_grad=True)
    model.embed.register_forward_hook(lambda _, given, __: x if given[0].shape[1] == 11 else y)
    logits = model(tokens(1, 11), source=tokens(1, 7))[0][0]
    rows = [torch.autograd.grad(row.square().sum(), (x, y), retain_graph=True) for row in logits]
    on_target, on_source = (torch.cat(column).abs().sum(-1) for column in zip(*rows, strict=True))
    assert torch.equal(on_target > 0, torch.ones(11, 11, dtype=torch.bool).tril())
    assert torch.all(on_target.triu(1) == 0) and torch.all(on_source > 0)


@every_shape
@pytest.mark.parametrize("where", ["left", "right"])
def test_padding_of_source_or_target_is_invisible_and_rows_are_what_they_are_alone(shape, where):
    model = encoder_decoder(**shape)
    source, text = ragged([7, 1, 4], 12, where=where), ragged([3, 9, 1], 15, seed=20, where=where)
    together = model(text, source=source)[0]
    for row, s, t in zip(together, source, text, strict=True):
        assert_equal(row[t >= 0], model(t[t >= 0][None], source=s[s >= 0][None])[0][0])


@every_shape
@pytest.mark.parametrize("chunks", [[1] * 11, [11], [3, 1, 5, 2]])
def test_reading_in_chunks_with_a_cache_is_reading_at_once(shape, chunks):
    model, text = encoder_decoder(**shape), tokens(3, 11, seed=1)
    for source in (tokens(3, 7), ragged([7, 2, 4], 7)):
        state, parts = model.start(3, source), []
        for part in text.split(chunks, dim=1):
            parts.append(model(part, state)[0])
            assert state.lengths.tolist() == [sum(p.shape[1] for p in parts)] * 3
        assert_equal(torch.cat(parts, dim=1), model(text, source=source)[0])


def test_the_source_is_read_once_however_much_is_written(monkeypatch):
    model, read = encoder_decoder(), []
    encode = model.encode
    monkeypatch.setattr(model, "encode", lambda source: read.append(source) or encode(source))
    greedy(model, tokens(3, 7), 9)
    assert len(read) == 1


@every_shape
def test_translations_with_a_cache_are_those_without_and_rows_do_not_notice_each_other(shape):
    model, source = encoder_decoder(**shape), ragged([7, 2, 5, 1], 7)
    plain = torch.zeros(4, 1, dtype=torch.long)
    for _ in range(9):
        plain = torch.cat([plain, model(plain, source=source)[0][:, -1:].argmax(-1)], dim=1)
    expected = [row[1:] for row in plain.tolist()]
    assert greedy(model, source, 9) == expected
    assert [greedy(model, row[row >= 0][None], 9)[0] for row in source] == expected
    for end in {
        token for row in expected for token in row
    }:  # rows that end leave the batch and take their source with them
        cut = [row[: row.index(end)] if end in row else row for row in expected]
        assert greedy(model, source, 9, end_id=end) == cut


def test_rows_take_their_sources_along_when_they_are_reordered():
    model, text = encoder_decoder(), tokens(3, 6, seed=1)
    for source in (tokens(3, 7), ragged([7, 2, 4], 7)):
        state, rows = model.start(3, source), torch.tensor([2, 0, 0, 1])
        model(text[:, :4], state)
        state.reorder(rows)
        assert state.lengths.tolist() == [4] * 4
        assert_equal(model(text[rows, 4:], state)[0], model(text, source=source)[0][rows, 4:])


def test_tokens_that_are_taken_back_were_never_read():
    model, source, text = encoder_decoder(), ragged([7, 2, 4], 7), tokens(3, 6, seed=1)
    state = model.start(3, source)
    model(tokens(3, 5, seed=9), state)
    state.truncate(torch.tensor([0, 0, 0]))
    assert_equal(model(text, state)[0], model(text, source=source)[0])
    with pytest.raises(ValueError, match=r"lengths = \[7, 6, 6\]: expected at most the tokens read, \[6, 6, 6\]"):
        state.truncate(torch.tensor([7, 6, 6]))
    state.truncate(torch.tensor([4, 2, 5]))
    longer = torch.cat([text[0, :4], tokens(1, 3, seed=5)[0]])[None]
    state.reorder(torch.tensor([0]))
    assert_equal(model(longer[:, 4:], state)[0], model(longer, source=source[:1])[0][:, 4:])


def test_a_state_counts_the_bytes_of_the_source_and_of_what_was_written():
    model = encoder_decoder()
    state = model.start(3, tokens(3, 7))
    shown = 2 * (2 * 3 * 7 * 15 * 8 + 7 * 8)  # layers of keys and values in float64, and the positions that rows share
    assert state.nbytes() == shown
    model(tokens(3, 2), state)
    assert state.nbytes() == shown + sum(cache.nbytes() for cache in state.caches) > shown


@each_place
def test_rows_without_a_source_are_finite_in_values_and_gradients_and_harm_no_other(norm_place):
    model, text = encoder_decoder(norm_place=norm_place), tokens(3, 6, seed=1)
    source = ragged([5, 0, 3], 5)
    logits = model(text, source=source)[0]
    logits.square().sum().backward()
    assert logits.isfinite().all() and all(p.grad.isfinite().all() for p in model.parameters())
    assert_equal(logits[[0, 2]], model(text[[0, 2]], source=source[[0, 2]])[0])


def test_the_alignment_is_what_the_cross_attention_weighs_with():
    model, source, text = encoder_decoder(), ragged([7, 2, 4], 7), tokens(3, 6, seed=1)
    weights = model.alignment(text, source)
    assert weights.shape == (2, 3, 5, 6, 7)
    assert_equal(weights.sum(-1), torch.ones(2, 3, 5, 6, dtype=torch.float64))
    assert not weights.masked_select((source < 0)[None, :, None, None]).any()
    views, seen, cross = model.show(source), [], model.decoder[1].cross
    cross.to_out.register_forward_hook(lambda _, given, __: seen.append(given[0]))
    model(text, source=source)
    assert_equal((weights[1] @ views[1].v).transpose(1, 2).flatten(2), seen[0])


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda m: m(tokens(2, 3)), r"source = None: expected the source text"),
        (lambda m: m.start(2), r"source = None: expected the source text"),
        (lambda m: m.start(2, tokens(2, 0)), r"source = no tokens: expected the source text"),
        (lambda m: m.start(3, tokens(2, 5)), r"source of 2 rows: expected batch_size = 3"),
        (
            lambda m: m.start(2, tokens(2, 14)),
            r"the source of 14 tokens: expected at most model\.context_length = 13; shorten the text",
        ),
        (
            lambda m: m(tokens(2, 14), source=tokens(2, 5)),
            r"the target of 14 tokens: expected at most model\.context_length = 13",
        ),
        (lambda m: m(tokens(2, 3), m.start(2, tokens(2, 5)), tokens(2, 5)), r"source: expected none beside a state"),
        (lambda m: EncoderDecoderConfig(n_heads=7), r"model\.d_model = 512: expected a multiple of n_heads = 7"),
    ],
)
def test_a_source_or_shape_that_does_not_fit_is_refused_with_a_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call(encoder_decoder())


def test_padding_does_not_count_towards_the_context():
    model = encoder_decoder()
    logits, _ = model(ragged([13, 2], 20), source=ragged([13, 13], 31))
    assert logits.shape == (2, 20, model.vocab_size)


def test_dropout_is_off_in_evaluation_and_acts_everywhere_in_training(monkeypatch):
    model, source, text = encoder_decoder(dropout=0.25), tokens(2, 7), tokens(2, 6)
    assert torch.equal(model(text, source=source)[0], encoder_decoder()(text, source=source)[0])
    seen = []
    real, attention = nn.functional.dropout, nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(nn.functional, "dropout", lambda x, p, *how: seen.append(p) or real(x, p, *how))

    def spy(*parts, dropout_p, **how):
        seen.append(dropout_p)
        return attention(*parts, dropout_p=dropout_p, **how)

    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", spy)
    model.train()(text, source=source)
    # embeddings; sublayers and attentions of the encoder; those of the decoder
    assert seen == [0.25] * (2 + 2 * (2 + 1) + 2 * (3 + 2))


def test_one_matrix_reads_the_source_reads_the_target_and_writes():
    model = encoder_decoder()
    assert model.head.weight is model.embed.weight
    assert sum(VOCAB in p.shape for p in model.parameters()) == 1
    other = encoder_decoder(seed=1)
    other.load_state_dict(model.state_dict())
    assert other.head.weight is other.embed.weight
    assert_equal(other(tokens(2, 5), source=tokens(2, 3))[0], model(tokens(2, 5), source=tokens(2, 3))[0])


@each_place
def test_a_fresh_model_reads_words_at_unit_size_and_guesses_almost_uniformly(norm_place):
    torch.manual_seed(0)
    model = EncoderDecoder(
        EncoderDecoderConfig(n_layers=2, d_model=64, n_heads=4, norm_place=norm_place, dropout=0.0), vocab_size=503
    )
    assert (model.embed.weight * 8).std().item() == pytest.approx(1, rel=0.05)
    text, source = torch.randint(503, (7, 32)), torch.randint(503, (7, 20))
    loss = nn.functional.cross_entropy(model(text, source=source)[0].flatten(0, 1), torch.randint(503, (7 * 32,)))
    assert loss.item() == pytest.approx(
        math.log(503) + {"pre": 0.0, "post": 0.5}[norm_place], abs={"pre": 0.1, "post": 0.3}[norm_place]
    )
