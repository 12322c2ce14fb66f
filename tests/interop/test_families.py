"""Each family of foreign decoders: our decoder gives the logits of the reference library, and weights go in and out."""

import json

import pytest
import torch

from minillm.interop.families import FAMILIES, family_for, resolved
from minillm.interop.foreign_config import ForeignConfig
from minillm.interop.rules import bring_in, take_out
from minillm.models.decoder import Decoder
from tests.interop.foreign import in_float64, randomized
from tests.tiny import assert_equal

transformers = pytest.importorskip("transformers")

V = 41
# subtle: the square root of the width is 6, since the library rounds the scale of Gemma's embedding to float32
LLAMA = {"vocab_size": V, "hidden_size": 36, "intermediate_size": 43, "num_hidden_layers": 3, "num_attention_heads": 6}
LLAMA |= {"num_key_value_heads": 2, "head_dim": 10, "max_position_embeddings": 53}
LLAMA |= {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None, "attn_implementation": "eager"}
NARROW = {key: value for key, value in LLAMA.items() if key != "head_dim"}
EXPERTS = {"num_local_experts": 5, "num_experts_per_tok": 3, "experts_implementation": "eager"}
YARN = {"rope_type": "yarn", "rope_theta": 97.0, "factor": 3.0, "original_max_position_embeddings": 17}
LLAMA_3 = {"rope_type": "llama3", "rope_theta": 97.0, "factor": 5.0, "original_max_position_embeddings": 17}
LLAMA_3 |= {"low_freq_factor": 1.0, "high_freq_factor": 3.0}
OURS = {"full_attention": {"rope_type": "default", "rope_theta": 971.0}}
OURS |= {"sliding_attention": {"rope_type": "default", "rope_theta": 13.0}}
GPT_2 = {"vocab_size": V, "n_positions": 53, "n_embd": 35, "n_layer": 3, "n_head": 5, "n_inner": 43}
GPT_2 |= {"bos_token_id": 0, "eos_token_id": 0, "attn_implementation": "eager"}
MODELS = {  # name -> class of config, class of model, keys
    "gpt2": ("GPT2Config", "GPT2LMHeadModel", GPT_2),
    "gpt2 untied": ("GPT2Config", "GPT2LMHeadModel", GPT_2 | {"tie_word_embeddings": False, "n_inner": None}),
    "llama": ("LlamaConfig", "LlamaForCausalLM", LLAMA),
    "llama tied": ("LlamaConfig", "LlamaForCausalLM", LLAMA | {"tie_word_embeddings": True, "rms_norm_eps": 1e-2}),
    "llama biases": ("LlamaConfig", "LlamaForCausalLM", LLAMA | {"attention_bias": True, "mlp_bias": True}),
    "llama 3": ("LlamaConfig", "LlamaForCausalLM", LLAMA | {"rope_parameters": LLAMA_3}),
    "llama linear": (
        "LlamaConfig",
        "LlamaForCausalLM",
        LLAMA | {"rope_parameters": {"rope_type": "linear", "rope_theta": 97.0, "factor": 3.0}},
    ),
    "llama yarn": ("LlamaConfig", "LlamaForCausalLM", LLAMA | {"rope_parameters": YARN}),
    "llama yarn with a gain": (
        "LlamaConfig",
        "LlamaForCausalLM",
        LLAMA | {"rope_parameters": YARN | {"attention_factor": 0.7, "beta_fast": 3.0, "beta_slow": 0.5}},
    ),
    "mistral": ("MistralConfig", "MistralForCausalLM", LLAMA | {"sliding_window": 7}),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", NARROW),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", LLAMA | {"tie_word_embeddings": True}),
    "mixtral": ("MixtralConfig", "MixtralForCausalLM", LLAMA | EXPERTS | {"sliding_window": 7}),
    "qwen3_moe": (
        "Qwen3MoeConfig",
        "Qwen3MoeForCausalLM",
        LLAMA
        | {"num_experts": 5, "num_experts_per_tok": 3, "moe_intermediate_size": 11}
        | {"norm_topk_prob": True, "experts_implementation": "eager"},
    ),
    "gemma3": (
        "Gemma3TextConfig",
        "Gemma3ForCausalLM",
        LLAMA
        | {"sliding_window": 7, "query_pre_attn_scalar": 10, "rope_parameters": OURS}
        | {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    ),
    "gpt_oss": (
        "GptOssConfig",
        "GptOssForCausalLM",
        LLAMA | EXPERTS | {"sliding_window": 7, "rope_parameters": YARN | {"truncate": False}},
    ),
}


def reference(name: str):
    config, model, keys = MODELS[name]
    with in_float64(getattr(transformers, model)):
        return randomized(getattr(transformers, model)(getattr(transformers, config)(**keys)))


def saved(theirs, folder) -> tuple[dict, dict]:
    """config.json and the tensors, as the library writes them."""
    from safetensors.torch import load_file

    theirs.save_pretrained(folder)
    return json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors")


def imported(values: dict, weights: dict) -> Decoder:
    family, f = FAMILIES[values["model_type"]], ForeignConfig(values, "config.json")
    config = family.read(f)
    f.finish()
    mine = Decoder(config, V).double().eval()
    mine.load_state_dict(bring_in(family.rules(config), weights, lambda name: False), strict=True)
    return mine


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_equal_at_all_positions_cached_and_uncached(name, tmp_path):
    theirs = reference(name)
    mine = imported(*saved(theirs, tmp_path))
    text = torch.randint(V, (3, 47), generator=torch.Generator().manual_seed(1))
    with in_float64(type(theirs)), torch.no_grad():
        expected = theirs(text, use_cache=False).logits
    assert expected.std() > 0.1
    with torch.no_grad():
        assert_equal(mine(text)[0], expected)
        state, parts = mine.start(3), []
        for part in text.split([1, 5, 11, 1, 23, 6], dim=1):
            logits, state = mine(part, state)
            parts.append(logits)
    assert_equal(torch.cat(parts, dim=1), expected)


@pytest.mark.parametrize("name", MODELS)
def test_weights_go_in_and_out_and_in_again(name, tmp_path):
    values, weights = saved(reference(name), tmp_path)
    mine = imported(values, weights)
    found = family_for(mine.config)
    written = FAMILIES[found].write(mine.config) | {"model_type": found}
    out = take_out(FAMILIES[found].rules(mine.config), mine.state_dict())
    again = imported(written, out)
    assert resolved(again.config) == resolved(mine.config)
    assert again.state_dict().keys() == mine.state_dict().keys()
    assert all(torch.equal(x, again.state_dict()[name]) for name, x in mine.state_dict().items())
    if found == values["model_type"]:
        assert out.keys() == weights.keys()
        assert all(torch.equal(x, weights[name]) for name, x in out.items())
