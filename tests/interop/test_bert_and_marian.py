"""BERT, sentence encoders and the encoder-decoder of 2017: equal to the reference library, weights in and out."""

import pytest
import torch

from minillm.interop.bert import bert_rules, is_unused, read_bert, write_bert
from minillm.interop.foreign_config import ForeignConfig
from minillm.interop.marian import marian_rules, read_marian
from minillm.interop.rules import bring_in, take_out
from minillm.models.encoder import Encoder
from minillm.models.encoder_decoder import EncoderDecoder
from minillm.models.heads import sentence_vectors
from tests.interop.foreign import in_float64, randomized
from tests.interop.test_families import saved
from tests.tiny import assert_equal

transformers = pytest.importorskip("transformers")

V = 41
BERT = {"vocab_size": V, "hidden_size": 35, "num_hidden_layers": 3, "num_attention_heads": 5, "intermediate_size": 43}
BERT |= {"max_position_embeddings": 29, "attn_implementation": "eager", "layer_norm_eps": 1e-3, "pad_token_id": 0}
MARIAN = {"vocab_size": V, "d_model": 30, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 5}
MARIAN |= {"decoder_attention_heads": 5, "encoder_ffn_dim": 43, "decoder_ffn_dim": 43, "max_position_embeddings": 29}
MARIAN |= {"scale_embedding": True, "activation_function": "relu", "attn_implementation": "eager"}
MARIAN |= {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0, "forced_eos_token_id": 1}


def bert(kind: str):
    with in_float64(getattr(transformers, kind)):
        return randomized(getattr(transformers, kind)(transformers.BertConfig(**BERT)))


def encoder(values: dict, weights: dict) -> Encoder:
    if not any(name.startswith("bert.") for name in weights):
        weights = {f"bert.{name}": x for name, x in weights.items()}
    f = ForeignConfig(values, "config.json")
    config = read_bert(f, weights, mask_id=7)
    f.finish()
    mine = Encoder(config, V).double().eval()
    mine.load_state_dict(bring_in(bert_rules(config), weights, is_unused), strict=True)
    return mine


def test_bert_predicts_the_same_masked_tokens(tmp_path):
    theirs = bert("BertForMaskedLM")
    mine = encoder(*saved(theirs, tmp_path))
    assert mine.mask_id == 7 and mine.vocab_size == V
    text, segments = torch.randint(V, (3, 23)), torch.randint(2, (3, 23))
    with torch.no_grad():
        assert_equal(mine(text, segments), theirs(text, token_type_ids=segments).logits)


def test_a_sentence_encoder_gives_the_mean_of_the_same_vectors_whatever_the_padding(tmp_path):
    theirs = bert("BertModel")
    mine = encoder(*saved(theirs, tmp_path))
    text, lengths = torch.randint(V, (3, 23)), torch.tensor([23, 1, 11])
    filled = torch.arange(23) < lengths[:, None]
    with torch.no_grad():
        hidden = theirs(text, attention_mask=filled.long()).last_hidden_state * filled[..., None]
        expected = torch.nn.functional.normalize(hidden.sum(1) / lengths[:, None], dim=-1)
        assert_equal(sentence_vectors(mine, text.masked_fill(~filled, -1)), expected)
    with pytest.raises(ValueError, match=r"model\.masked_head = false"):
        mine(text)


def test_the_weights_of_bert_go_in_and_out_and_in_again(tmp_path):
    values, weights = saved(bert("BertForMaskedLM"), tmp_path)
    mine = encoder(values, weights)
    out = take_out(bert_rules(mine.config), mine.state_dict())
    assert out.keys() == weights.keys() and all(torch.equal(x, weights[name]) for name, x in out.items())
    again = encoder(write_bert(mine.config), out)
    assert all(torch.equal(x, again.state_dict()[name]) for name, x in mine.state_dict().items())


def test_an_encoder_that_bert_cannot_express_is_refused_with_its_keys():
    from minillm.models.encoder import EncoderConfig

    with pytest.raises(ValueError, match=r"model\.positions = rotary, model\.norm_place = pre"):
        write_bert(EncoderConfig(positions="rotary", norm_place="pre"))


def test_the_encoder_decoder_of_2017_gives_the_same_logits_cached_and_uncached_and_its_weights_come_out(tmp_path):
    kind = transformers.MarianMTModel
    with in_float64(kind):
        theirs = randomized(kind(transformers.MarianConfig(**MARIAN)))
        for side in (theirs.model.encoder, theirs.model.decoder):
            weight = side.embed_positions.weight
            weight.data = exact_sinusoids(*weight.shape)
    values, weights = saved(theirs, tmp_path)
    weights = {name: x for name, x in weights.items() if "embed_positions" not in name}
    f = ForeignConfig(values, "config.json")
    config = read_marian(f)
    f.finish()
    mine = EncoderDecoder(config, V).double().eval()
    rules = marian_rules(config, V)
    mine.load_state_dict(bring_in(rules, weights, lambda name: False), strict=True)
    mine.embed_positions.table = exact_sinusoids(29, 30)[:, torch.arange(30).view(2, 15).T.flatten()]
    source, text = torch.randint(V, (3, 17)), torch.randint(V, (3, 11))
    with torch.no_grad():
        expected = theirs(source, decoder_input_ids=text).logits
        assert_equal(mine(text, source=source)[0], expected)
        state = mine.start(3, source)
        parts = [mine(part, state)[0] for part in text.split([1, 4, 6], dim=1)]
    assert_equal(torch.cat(parts, dim=1), expected)
    out = take_out(rules, mine.state_dict())
    assert out.keys() == weights.keys() and all(torch.equal(x, weights[name]) for name, x in out.items())


def exact_sinusoids(n_positions: int, width: int) -> torch.Tensor:
    """Sines, then cosines, in float64: both libraries round theirs to float32."""
    angles = torch.arange(n_positions, dtype=torch.float64)[:, None]
    angles = angles / 10000 ** (torch.arange(0, width, 2, dtype=torch.float64) / width)
    return torch.cat([angles.sin(), angles.cos()], dim=1)
