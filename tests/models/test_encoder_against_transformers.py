"""The encoder equals the BERT of transformers: same weights, same logits, pooled vectors and gradients."""

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, BertForPreTraining, BertForSequenceClassification

from minillm.models.encoder import Encoder, EncoderConfig
from minillm.models.heads import Classifier
from tests.tiny import assert_equal

VOCAB = 41
SIZES = {"n_layers": 3, "d_model": 35, "n_heads": 5, "d_ff": 53, "context_length": 19}


def bert(kind: type, activation: str = "gelu", eps: float = 1e-12, **more) -> torch.nn.Module:
    """A BERT of transformers with random float64 weights, biases and norms included; dropout is off."""
    torch.manual_seed(0)
    c = BertConfig(
        vocab_size=VOCAB,
        hidden_size=35,
        num_hidden_layers=3,
        num_attention_heads=5,
        intermediate_size=53,
        max_position_embeddings=19,
        hidden_act=activation,
        layer_norm_eps=eps,
        **more,
    )
    model = kind(c).double().eval()
    for parameter in model.parameters():
        parameter.data = torch.randn_like(parameter) / (parameter.shape[-1] ** 0.5 if parameter.ndim > 1 else 2)
    return model


def weights_of(theirs: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The weights of transformers, by the names of our encoder."""
    e = theirs.bert.embeddings
    weights = {
        "embed": e.word_embeddings,
        "embed_positions.table": e.position_embeddings,
        "embed_segments": e.token_type_embeddings,
    }
    weights |= {"embed_norm": e.LayerNorm}
    for i, layer in enumerate(theirs.bert.encoder.layer):
        own = layer.attention.self
        parts = {"attention.to_q": own.query, "attention.to_k": own.key, "attention.to_v": own.value}
        parts |= {"attention.to_out": layer.attention.output.dense, "norm_1": layer.attention.output.LayerNorm}
        parts |= {
            "feedforward.up": layer.intermediate.dense,
            "feedforward.down": layer.output.dense,
            "norm_2": layer.output.LayerNorm,
        }
        weights |= {f"blocks.{i}.{name}": module for name, module in parts.items()}
    if hasattr(theirs, "cls"):
        head = theirs.cls.predictions
        weights |= {
            "head.embed": e.word_embeddings,
            "head.dense": head.transform.dense,
            "head.norm": head.transform.LayerNorm,
        }
    found = {f"{name}.{kind}": p for name, module in weights.items() for kind, p in module.named_parameters()}
    return found | ({"head.bias": theirs.cls.predictions.decoder.bias} if hasattr(theirs, "cls") else {})


def encoder(weights: dict[str, torch.Tensor], **changes) -> Encoder:
    """Load all weights; none is missing or left over."""
    mine = Encoder(EncoderConfig(**(SIZES | changes)), VOCAB - 1).double().eval()
    mine.load_state_dict(weights, strict=True)
    return mine


def ragged_texts() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens with EMPTY on the right, segments, and their attention mask: rows of 17, 1, 4 and 11 tokens."""
    text, lengths = torch.randint(VOCAB, (4, 17)), torch.tensor([17, 1, 4, 11])
    filled = torch.arange(17) < lengths[:, None]
    return text.masked_fill(~filled, -1), torch.randint(2, (4, 17)) * filled, filled


@pytest.mark.parametrize(
    ("mine", "theirs", "eps"), [("gelu-erf", "gelu", 1e-12), ("gelu", "gelu_new", 1e-2), ("relu", "relu", 1e-5)]
)
def test_bert_gives_the_same_logits_and_gradients_for_ragged_texts(mine, theirs, eps):
    other = bert(BertForMaskedLM, theirs, eps)
    model = encoder(weights_of(other), feedforward=mine, norm_eps=eps)
    tokens, segments, filled = ragged_texts()
    outside = {"attention_mask": filled.long(), "token_type_ids": segments}
    logits = model(tokens, segments)[filled], other(tokens.clamp(min=0), **outside).logits[filled]
    assert_equal(*logits)
    for x in logits:
        x.softmax(-1)[..., 5].sum().backward()
    others = weights_of(other)
    for name, parameter in model.named_parameters():
        assert_equal(parameter.grad, others[name].grad)


def test_full_rows_take_the_fast_road_to_the_same_logits():
    other = bert(BertForMaskedLM)
    text = torch.randint(VOCAB, (3, 13))
    assert_equal(encoder(weights_of(other))(text), other(text).logits)


def test_the_next_sentence_head_is_berts():
    other = bert(BertForPreTraining)
    weights = weights_of(other) | {f"follows.dense.{kind}": p for kind, p in other.bert.pooler.dense.named_parameters()}
    weights |= {f"follows.head.{kind}": p for kind, p in other.cls.seq_relationship.named_parameters()}
    model = encoder(weights, next_sentence=1)
    tokens, segments, filled = ragged_texts()
    expected = other(tokens.clamp(min=0), attention_mask=filled.long(), token_type_ids=segments)
    hidden = model.hidden(tokens, segments)
    assert_equal(model.follows(hidden, tokens), expected.seq_relationship_logits)
    assert_equal(model.head(hidden)[filled], expected.prediction_logits[filled])


def test_a_classifier_is_berts():
    other = bert(BertForSequenceClassification, num_labels=3)
    model = Classifier(Encoder(EncoderConfig(**SIZES), VOCAB - 1), 3).double().eval()
    pairs = {f"encoder.{name}": p for name, p in weights_of(other).items()}
    pairs |= {f"answer.dense.{kind}": p for kind, p in other.bert.pooler.dense.named_parameters()}
    pairs |= {f"answer.head.{kind}": p for kind, p in other.classifier.named_parameters()}
    missing = model.load_state_dict(pairs, strict=False)
    assert not missing.unexpected_keys and all(name.startswith("encoder.head.") for name in missing.missing_keys)
    tokens, _, filled = ragged_texts()
    assert_equal(model(tokens), other(tokens.clamp(min=0), attention_mask=filled.long()).logits)
