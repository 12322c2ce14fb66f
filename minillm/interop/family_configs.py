"""The configs of the families of foreign decoders: each key of theirs as a key of our `DecoderConfig`, and back.

Llama and its relatives share most keys and differ in a few. A default here is that of the foreign class, which applies
where a file leaves the key out. Read before: `foreign_config`, `rotary_keys`; next: `family_rules`, `families`.
"""

from typing import Any

from minillm.interop.foreign_config import REQUIRED, ForeignConfig
from minillm.interop.rotary_keys import read_parameters, read_rotary, write_parameters
from minillm.models.decoder import DecoderConfig

GATES = {"silu": "swiglu", "swish": "swiglu"}  # hidden_act of gated feed-forwards
ACTIVATION = {"gelu_new": "gelu", "gelu_pytorch_tanh": "gelu", "gelu": "gelu-erf", "relu": "relu"}
BALANCE = "router_aux_loss_coef"


def read_llama_like(
    f: ForeignConfig,
    *,
    eps: float = 1e-6,
    base: float = 10000.0,
    d_head: int = 0,
    tied: bool = False,
    grouped: bool = True,
    **keys: Any,
) -> DecoderConfig:
    """A config of the family of Llama, with further keys of ours.

    eps, base, d_head, tied: what the foreign class takes where a file leaves the key out. grouped: whether the file
    must state the number of key and value heads; otherwise each query head has its own.
    """
    d_model, n_heads = f.number("hidden_size"), f.number("num_attention_heads")
    rotary = keys.pop("rotary", None) or read_rotary(f, base)
    width = f.take("head_dim", d_head or None) or d_model // n_heads
    shape = {"d_model": d_model, "n_heads": n_heads, "d_head": width}
    shape["n_kv_heads"] = f.number("num_key_value_heads", REQUIRED if grouped else n_heads)
    f.expect("rope_interleaved", False, default=False)
    f.expect("use_mrope", False, default=False)
    shape["d_ff"] = keys.pop("d_ff", None) or f.number("intermediate_size")
    shape["n_layers"] = f.number("num_hidden_layers")
    shape["context_length"] = f.number("max_position_embeddings")
    if "feedforward" not in keys:
        keys["feedforward"] = f.choose("hidden_act", GATES, "silu")
    tied = f.expect("tie_word_embeddings", True, False, default=tied)
    return DecoderConfig(**shape, norm_eps=f.take("rms_norm_eps", eps), tied=tied, **rotary, **keys)


def read_llama(f: ForeignConfig) -> DecoderConfig:
    """Llama: biases in all linear layers, or in none."""
    bias = f.expect("attention_bias", True, False, default=False)
    f.expect("mlp_bias", bias, default=False)
    return read_llama_like(f, bias=bias, grouped=False)


def read_mistral(f: ForeignConfig) -> DecoderConfig:
    """Mistral: every block attends to a window."""
    return read_llama_like(f, window=f.take("sliding_window", 4096) or 0)


def read_qwen2(f: ForeignConfig) -> DecoderConfig:
    """Qwen2: biases of queries, keys and values."""
    return read_llama_like(f, bias_qkv=True, **no_windows(f))


def read_qwen3(f: ForeignConfig) -> DecoderConfig:
    """Qwen3: norms of queries and keys."""
    f.expect("attention_bias", False, default=False)
    return read_llama_like(f, d_head=128, qk_norm=True, **no_windows(f))


def read_mixtral(f: ForeignConfig) -> DecoderConfig:
    """Mixtral: experts, chosen by a softmax and weighted by their share."""
    window = f.take("sliding_window", None) or 0
    return read_llama_like(f, eps=1e-5, base=1e6, window=window, **read_experts(f, 8, 2))


def read_qwen3_moe(f: ForeignConfig) -> DecoderConfig:
    """Qwen3 with experts in every block."""
    f.expect("attention_bias", False, default=False)
    f.expect("decoder_sparse_step", 1, default=1)
    f.expect("mlp_only_layers", None, [], default=None)
    f.expect("norm_topk_prob", True, default=False)
    f.take("intermediate_size", 6144)  # of blocks without experts, and there are none
    keys = {"qk_norm": True, "d_ff": f.number("moe_intermediate_size", 768)}
    return read_llama_like(f, **keys, **no_windows(f), **read_experts(f, 128, 8))


def read_gemma3(f: ForeignConfig) -> DecoderConfig:
    """Gemma 3 for text: windows, two rotary bases, norms around each sublayer, gated GELU."""
    width = f.number("head_dim", 256)
    f.expect("query_pre_attn_scalar", width, default=256)
    f.expect("attention_bias", False, default=False)
    f.expect("final_logit_softcapping", None, default=None)
    f.expect("attn_logit_softcapping", None, default=None)
    f.expect("use_bidirectional_attention", False, default=False)
    f.expect("hidden_activation", "gelu_pytorch_tanh", default="gelu_pytorch_tanh")
    parameters = f.take("rope_parameters", None) or {}
    if set(parameters) == {"full_attention", "sliding_attention"}:
        rotary = read_parameters(parameters["full_attention"], f"{f.name}: full_attention", 1e6)
        near = read_parameters(parameters["sliding_attention"], f"{f.name}: sliding_attention", 1e4)
        if set(near) != {"rotary_base"}:
            raise ValueError(f"{f.name}: sliding_attention = {near}: expected no rotary scaling; take another model")
        local_base = near["rotary_base"]
    else:
        rotary, local_base = read_rotary(f, 1e6), f.take("rope_local_base_freq", 1e4)
    windows = read_windows(f, 4096, every=f.take("sliding_window_pattern", 6))
    keys = {"norm": "offset-rmsnorm", "norm_place": "both", "feedforward": "geglu", "scale_embedding": True}
    keys |= {"qk_norm": True, "rotary": rotary, "local_base": local_base if windows["window"] else 0.0}
    return read_llama_like(f, tied=True, **keys, **windows)


def read_gpt_oss(f: ForeignConfig) -> DecoderConfig:
    """gpt-oss in 16 or 32 bits: sinks, windows in every second block, experts with biases."""
    f.expect("attention_bias", True, default=True)
    f.expect("hidden_act", "silu", default="silu")
    f.expect("swiglu_alpha", 1.702, default=1.702)
    f.expect("swiglu_limit", 7.0, default=7.0)
    f.take("experts_per_token", None)  # the same as num_experts_per_tok, in some files
    f.expect("quantization_config", None, default=None)
    keys = {"bias": True, "sinks": True, "feedforward": "clamped-swiglu"}
    keys |= read_windows(f, 128, every=2) | read_experts(f, 128, 4)
    return read_llama_like(f, eps=1e-5, base=150000.0, d_head=64, **keys)


def read_gpt2(f: ForeignConfig) -> DecoderConfig:
    """GPT-2: learned positions, LayerNorm, biases."""
    d_model = f.number("n_embd", 768)
    f.expect("scale_attn_weights", True, default=True)
    f.expect("scale_attn_by_inverse_layer_idx", False, default=False)
    f.expect("add_cross_attention", False, default=False)
    n_positions = f.number("n_positions", 1024)
    f.expect("n_ctx", n_positions, default=n_positions)
    return DecoderConfig(
        n_layers=f.number("n_layer", 12),
        d_model=d_model,
        n_heads=f.number("n_head", 12),
        d_ff=f.take("n_inner", None) or 4 * d_model,
        context_length=n_positions,
        positions="learned",
        norm="layernorm",
        norm_eps=f.take("layer_norm_epsilon", 1e-5),
        feedforward=f.choose("activation_function", ACTIVATION, "gelu_new"),
        bias=True,
        tied=f.expect("tie_word_embeddings", True, False, default=True),
    )


def no_windows(f: ForeignConfig) -> dict[str, Any]:
    """Take the keys of Qwen's windows, which its published models do not use."""
    f.expect("use_sliding_window", False, default=False)
    f.take("sliding_window", None)
    f.take("max_window_layers", None)
    kinds = f.take("layer_types", None) or ["full_attention"]
    if set(kinds) != {"full_attention"}:
        raise ValueError(f"{f.name}: layer_types = {kinds}: expected full_attention only; take another model")
    return {}


def read_windows(f: ForeignConfig, usual: int, every: int) -> dict[str, int]:
    """`window` and `global_every` from layer_types; without it, every `every`-th block attends to all."""
    window, n_layers = f.take("sliding_window", usual), f.number("num_hidden_layers")
    kinds = f.take("layer_types", None)
    whole = [i for i in range(1, n_layers + 1) if i % every == 0]
    if kinds is not None:
        whole = [i for i, kind in enumerate(kinds, 1) if kind == "full_attention"]
    if len(whole) == n_layers or not window:
        return {"window": 0}
    every = whole[0] if whole else 0
    known = kinds is None or (len(kinds) == n_layers and set(kinds) <= {"full_attention", "sliding_attention"})
    if not known or whole != [i for i in range(1, n_layers + 1) if every and i % every == 0]:
        raise ValueError(f"{f.name}: layer_types = {kinds}: expected full attention in every n-th of {n_layers} blocks")
    return {"window": window, "global_every": every}


def read_experts(f: ForeignConfig, n_experts: int, k: int) -> dict[str, Any]:
    """Keys of ours for a mixture of experts; some files say num_experts, others num_local_experts."""
    found = f.take("num_experts", None) or f.number("num_local_experts", n_experts)
    f.take("num_local_experts", found)
    k = f.number("num_experts_per_tok", k)
    if k < 2:
        raise ValueError(f"{f.name}: num_experts_per_tok = {k}: expected at least 2, since one expert weighs 1 there")
    return {"n_experts": found, "n_experts_per_token": k}


def write_llama_like(c: DecoderConfig) -> dict[str, Any]:
    """The keys that all families of Llama share."""
    return {
        "hidden_size": c.d_model,
        "intermediate_size": c.hidden_width,
        "num_hidden_layers": c.n_layers,
        "num_attention_heads": c.n_heads,
        "num_key_value_heads": c.n_groups,
        "head_dim": c.width_of_head,
        "max_position_embeddings": c.context_length,
        "rms_norm_eps": c.norm_eps,
        "hidden_act": "silu",
        "tie_word_embeddings": c.tied,
        "rope_parameters": write_parameters(c),
    }


def write_llama(c: DecoderConfig) -> dict[str, Any]:
    """The inverse of `read_llama`."""
    return write_llama_like(c) | {"attention_bias": c.bias, "mlp_bias": c.bias}


def write_mistral(c: DecoderConfig) -> dict[str, Any]:
    """The inverse of `read_mistral`."""
    return write_llama_like(c) | {"sliding_window": c.window or None}


def write_qwen(c: DecoderConfig) -> dict[str, Any]:
    """The inverse of `read_qwen2` and of `read_qwen3`."""
    kinds = ["full_attention"] * c.n_layers
    return write_llama_like(c) | {"use_sliding_window": False, "sliding_window": None, "layer_types": kinds}


def write_experts(c: DecoderConfig) -> dict[str, Any]:
    """The keys of a mixture of experts."""
    return {"num_local_experts": c.n_experts, "num_experts_per_tok": c.n_experts_per_token, BALANCE: c.balance_loss}


def write_mixtral(c: DecoderConfig) -> dict[str, Any]:
    """The inverse of `read_mixtral`."""
    return write_mistral(c) | write_experts(c)


def write_qwen3_moe(c: DecoderConfig) -> dict[str, Any]:
    """The inverse of `read_qwen3_moe`."""
    keys = {"moe_intermediate_size": c.hidden_width, "norm_topk_prob": True, "decoder_sparse_step": 1}
    keys |= {"use_sliding_window": False, "sliding_window": None, "mlp_only_layers": []}
    return write_llama_like(c) | write_experts(c) | keys | {"num_experts": c.n_experts}


def write_windows(c: DecoderConfig) -> dict[str, Any]:
    """The window, and the kind of attention of each block."""

    def whole(i: int) -> bool:
        return not c.window or (c.global_every > 0 and i % c.global_every == 0)

    kinds = ["full_attention" if whole(i) else "sliding_attention" for i in range(1, c.n_layers + 1)]
    return {"sliding_window": c.window or 128, "layer_types": kinds}


def write_gemma3(c: DecoderConfig) -> dict[str, Any]:
    """The inverse of `read_gemma3`."""
    near = {"rope_type": "default", "rope_theta": c.local_base or c.rotary_base}
    keys = {"query_pre_attn_scalar": c.width_of_head, "hidden_activation": "gelu_pytorch_tanh"}
    keys |= write_windows(c) | {"rope_parameters": {"full_attention": write_parameters(c), "sliding_attention": near}}
    keys = write_llama_like(c) | keys
    del keys["hidden_act"]
    return keys


def write_gpt_oss(c: DecoderConfig) -> dict[str, Any]:
    """The inverse of `read_gpt_oss`."""
    return write_llama_like(c) | write_windows(c) | write_experts(c) | {"attention_bias": True}


def write_gpt2(c: DecoderConfig) -> dict[str, Any]:
    """The inverse of `read_gpt2`."""
    names = {ours: theirs for theirs, ours in reversed(ACTIVATION.items())}
    if c.feedforward not in names:
        raise ValueError(f"model.feedforward = {c.feedforward}: expected {' or '.join(names)} to be exported")
    return {
        "n_layer": c.n_layers,
        "n_embd": c.d_model,
        "n_head": c.n_heads,
        "n_inner": c.hidden_width,
        "n_positions": c.context_length,
        "layer_norm_epsilon": c.norm_eps,
        "activation_function": names[c.feedforward],
        "tie_word_embeddings": c.tied,
    }
