"""Models in GGUF files: each architecture gives the logits of the reference library."""

from pathlib import Path

import pytest
import torch

from minillm.interop.gguf_model import read_gguf
from minillm.interop.gguf_writing import write_gguf
from minillm.models.decoder import Decoder
from minillm.tokenizers.bpe import gpt2_alphabet
from tests.interop.foreign import in_float64, randomized
from tests.interop.test_families import LLAMA, NARROW, OURS
from tests.tiny import assert_equal

pytest.importorskip("gguf")
transformers = pytest.importorskip("transformers")

V = 256
GEMMA_KINDS = ["sliding_attention"] * 5 + ["full_attention"]
MODELS = {  # architecture -> class of config, class of model, keys
    "llama": ("LlamaConfig", "LlamaForCausalLM", LLAMA),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", NARROW | {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", LLAMA),
    "gemma3": (
        "Gemma3TextConfig",
        "Gemma3ForCausalLM",
        LLAMA
        | {"num_hidden_layers": 6, "layer_types": GEMMA_KINDS, "sliding_window": 7, "query_pre_attn_scalar": 10}
        | {"rope_parameters": OURS | {"sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}}},
    ),
}
BLOCK = {  # names of transformers -> names of llama.cpp
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
GEMMA = {"post_attention_layernorm": "post_attention_norm", "pre_feedforward_layernorm": "ffn_norm"}
GEMMA |= {"post_feedforward_layernorm": "post_ffw_norm"}
TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def reference(architecture: str, **changes):
    config, model, keys = MODELS[architecture]
    with in_float64(getattr(transformers, model)):
        theirs = getattr(transformers, model)(getattr(transformers, config)(**keys | {"vocab_size": V} | changes))
        theirs = randomized(theirs)
    for parameter in theirs.parameters():
        parameter.data = parameter.data.float().double()  # the files below hold float32
    return theirs


def written(theirs, architecture: str, path: Path, more: dict[str, torch.Tensor] | None = None, **changes) -> Path:
    """The model as llama.cpp's converter writes it."""
    c, names = theirs.config, BLOCK | GEMMA if architecture == "gemma3" else BLOCK
    tensors = {}
    for name, x in theirs.state_dict().items():
        stem, _, end = name.rpartition(".")
        if name == "lm_head.weight" and c.tie_word_embeddings:
            continue
        if architecture == "llama" and stem.endswith(("q_proj", "k_proj")):  # pairs beside each other
            n_heads = c.num_attention_heads if stem.endswith("q_proj") else c.num_key_value_heads
            x = x.view(n_heads, 2, -1, x.shape[-1]).transpose(1, 2).reshape(x.shape)
        if architecture == "gemma3" and "norm" in stem:
            x = 1 + x
        if stem in TOP:
            tensors[f"{TOP[stem]}.{end}"] = x.float()
        else:
            _, _, i, part = stem.split(".", 3)
            tensors[f"blk.{i}.{names[part]}.{end}"] = x.float()
    width = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
    rope = c.rope_parameters.get("full_attention", c.rope_parameters)
    keys = {
        "block_count": c.num_hidden_layers,
        "context_length": c.max_position_embeddings,
        "embedding_length": c.hidden_size,
        "feed_forward_length": c.intermediate_size,
        "attention.head_count": c.num_attention_heads,
        "attention.head_count_kv": c.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": c.rms_norm_eps,
        "attention.key_length": width,
        "attention.value_length": width,
        "rope.freq_base": float(rope["rope_theta"]),
    }
    keys |= {"attention.sliding_window": 7} if architecture == "gemma3" else {"rope.dimension_count": width}
    tokens = sorted(gpt2_alphabet(), key=gpt2_alphabet().get)
    metadata = {"general.architecture": architecture}
    metadata |= {f"{architecture}.{key}": value for key, value in (keys | changes).items()}
    metadata |= {f"tokenizer.ggml.{key}": x for key, x in {"model": "gpt2", "pre": "gpt-2", "merges": []}.items() if x}
    metadata |= {"tokenizer.ggml.tokens": [*tokens[:255], "<end>"], "tokenizer.ggml.merges": ["t h"]}
    metadata |= {"tokenizer.ggml.token_type": [1] * 255 + [3], "tokenizer.ggml.eos_token_id": 255}
    metadata["tokenizer.ggml.tokens"][254] = "th"
    write_gguf(path, metadata, tensors | (more or {}))
    return path


@pytest.mark.parametrize("architecture", MODELS)
def test_logits_are_those_of_the_reference(architecture, tmp_path):
    theirs = reference(architecture)
    found = read_gguf(written(theirs, architecture, tmp_path / "model.gguf"))
    mine = Decoder(found.model, V).double().eval()
    mine.load_state_dict({name: x.double() for name, x in found.state.items()}, strict=True)
    text = torch.randint(V, (3, 41), generator=torch.Generator().manual_seed(1))
    with in_float64(type(theirs)), torch.no_grad():
        expected = theirs(text, use_cache=False).logits
    loose = {"rtol": 1e-5, "atol": 1e-6}  # the file holds eps, and 1 + w of Gemma's norms, in float32
    with torch.no_grad():
        torch.testing.assert_close(mine(text)[0], expected, **loose)
        if architecture in ("qwen2", "llama"):
            mine_again = read_gguf(written(theirs, architecture, tmp_path / "again.gguf"))
            assert all(torch.equal(x, mine_again.state[name]) for name, x in found.state.items())
    assert_equal(found.state["embed.weight"].double(), theirs.model.embed_tokens.weight)


def converted_factors(theirs) -> torch.Tensor:
    """The factors as llama.cpp's converter computes them, in float32 and pair by pair."""
    scaling = theirs.config.rope_parameters
    low, high, length = (
        scaling[x] for x in ("low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    )
    width = theirs.config.head_dim
    factors = []
    for frequency in 1 / scaling["rope_theta"] ** (torch.arange(0, width, 2, dtype=torch.float32) / width):
        turns = length * frequency / (2 * torch.pi)
        kept = min(max((turns - low) / (high - low), 0.0), 1.0)
        factors.append(1 / ((1 - kept) / scaling["factor"] + kept))
    return torch.tensor(factors, dtype=torch.float32)


LLAMA_31 = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "original_max_position_embeddings": 8192}
LLAMA_31 |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
SHORT = {"rope_theta": 97.0, "factor": 5.0, "original_max_position_embeddings": 17, "low_freq_factor": 0.5}


@pytest.mark.parametrize("scaling", [LLAMA_31, LLAMA_31 | {"factor": 32.0}, LLAMA_31 | SHORT], ids=["8", "32", "short"])
def test_the_rotary_factors_of_llama_3_give_the_logits_of_the_reference(scaling, tmp_path):
    theirs = reference("llama", rope_parameters=scaling, head_dim=32, max_position_embeddings=20000)
    known = {"rope.scaling.original_context_length": 17} if scaling["factor"] == 5 else {}
    tensors = {"rope_freqs.weight": converted_factors(theirs)}
    found = read_gguf(written(theirs, "llama", tmp_path / "model.gguf", tensors, **known))
    mine = Decoder(found.model, V).double().eval()
    mine.load_state_dict({name: x.double() for name, x in found.state.items()}, strict=True)
    assert found.model.rotary_scaling == "llama3" and found.model.rotary_factor == scaling["factor"]
    assert found.model.rotary_few_turns == scaling["low_freq_factor"]
    text = torch.randint(V, (2, 301), generator=torch.Generator().manual_seed(1))
    with in_float64(type(theirs)), torch.no_grad():
        expected = theirs(text, use_cache=False).logits
    with torch.no_grad():
        torch.testing.assert_close(mine(text)[0], expected, rtol=1e-5, atol=1e-6)  # the file holds eps in float32


@pytest.mark.parametrize(
    ("factors", "changes", "message"),
    [
        ([1.0, 2, 1, 8, 8], {}, "expected the factors of a rotary scaling as Llama 3 has it, found 1 ... 8"),
        ([1.0, 1, 8, 8, 0], {}, "found 1 ... 0"),
        ([-1.0] * 5, {}, "found -1 ... -1"),
        ([1.0] * 4, {}, r"rope_freqs\.weight \(4,\): expected it .* of shape \(5,\)"),
        ([1.0] * 5, {"rope.scaling.type": "yarn", "rope.scaling.factor": 2.0}, "without another rotary scaling"),
    ],
)
def test_other_rotary_factors_are_refused(factors, changes, message, tmp_path):
    tensors = {"rope_freqs.weight": torch.tensor(factors)}
    with pytest.raises(ValueError, match=message):
        read_gguf(written(reference("llama"), "llama", tmp_path / "model.gguf", tensors, **changes))


def test_rotary_factors_of_one_are_no_scaling(tmp_path):
    tensors = {"rope_freqs.weight": torch.ones(5)}
    found = read_gguf(written(reference("llama"), "llama", tmp_path / "model.gguf", tensors))
    assert found.model.rotary_scaling == "none"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope.scaling.type": "longrope"}, "rope_type = 'longrope'"),
        ({"rope.dimension_count": 4}, "rope.dimension_count = 4: expected 10"),
        ({"expert_count": 4}, "llama.expert_count = 4: a key that minillm does not understand"),
        ({"block_count": 2}, r"tensor model\.layers\.2\..*: a weight"),
        ({"block_count": 4}, r"model\.layers\.3\.input_layernorm\.weight = missing"),
    ],
)
def test_what_would_be_computed_wrongly_is_refused_by_name(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read_gguf(written(reference("llama"), "llama", tmp_path / "model.gguf", **changes))


def test_an_unknown_architecture_is_refused_with_a_suggestion(tmp_path):
    path = tmp_path / "model.gguf"
    write_gguf(path, {"general.architecture": "lama", "tokenizer.ggml.model": "gpt2"}, {"x": torch.zeros(2)})
    with pytest.raises(ValueError, match="did you mean llama"):
        read_gguf(path)
