"""The tokenizer in a GGUF file, from its metadata `tokenizer.ggml.*` (llama.cpp, 2023).

GGUF keeps pieces, merges or scores, and a *name* for the way in which text is cut ("llama-bpe", "smollm"), which only
llama.cpp's source explains. So the metadata becomes a tokenizer.json with the steps of that name, as its family
publishes them, and is read like one. A name that stands in no table here is refused. Sentencepiece's BPE ("llama")
keeps a score for each piece instead of merges; a pair is merged the earlier, the higher the score of its result. Read
before: `tokenizer_json`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from minillm.config.fields import suggest
from minillm.interop.tokenizer_json import read_tokenizer
from minillm.interop.tokenizer_steps import byte_level, isolated
from minillm.tokenizers.imported import ImportedTokenizer

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # token_type
BYTE_LEVEL, GPT2_WORDS = byte_level(use_regex=False), byte_level(use_regex=True)
LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
ENDING = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
GPT4O_PATTERN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{ENDING}|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{ENDING}|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


DIGITS = [{"type": "Digits", "individual_digits": True}, GPT2_WORDS]
LLAMA3 = [isolated(LLAMA3_PATTERN), BYTE_LEVEL]
QWEN2 = [isolated(LLAMA3_PATTERN.replace("{1,3}", "")), BYTE_LEVEL]
CUTS = {  # tokenizer.ggml.pre -> how text is cut
    "gpt-2": [GPT2_WORDS],
    "smollm": DIGITS,
    "starcoder": DIGITS,
    "refact": DIGITS,
    "command-r": DIGITS,
    "llama-bpe": LLAMA3,
    "llama3": LLAMA3,
    "qwen2": QWEN2,
    "gpt-4o": [isolated(GPT4O_PATTERN), BYTE_LEVEL],
    "default": [
        *(
            isolated(r"[\p{P}\$\+<=>\^~\|]+"),
            isolated(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"),
        ),
        *(isolated(r"\p{N}+"), isolated("[0-9][0-9][0-9]"), BYTE_LEVEL),
    ],
}
OPENED = ("llama-bpe", "llama3")  # these begin a text with BOS unless the file says otherwise
STOPS = ("tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id")  # ends of a turn and of a message


def read_gguf_tokenizer(metadata: Mapping[str, Any]) -> ImportedTokenizer:
    """The tokenizer of a GGUF file. Raises ValueError, in a sentence, for what is not understood."""
    algorithm = need(metadata, "model", str)
    if algorithm not in BUILDERS:
        raise ValueError(f"tokenizer.ggml.model = {algorithm!r}: expected {suggest(algorithm, list(BUILDERS))}")
    tokens = need(metadata, "tokens", list)
    types = metadata.get("tokenizer.ggml.token_type") or [NORMAL] * len(tokens)
    if len(types) != len(tokens):
        raise ValueError(
            f"tokenizer.ggml.token_type: {len(types)} values: expected one for each of {len(tokens)} tokens"
        )
    file = BUILDERS[algorithm](metadata, tokens, types)
    file["added_tokens"] = [
        {"id": i, "content": token, "special": types[i] in (CONTROL, UNKNOWN)}
        for i, token in enumerate(tokens)
        if types[i] in (CONTROL, UNKNOWN, USER_DEFINED)
    ]
    config = {f"{role}_token": named(metadata, role, tokens) for role in ("bos", "eos")}
    begins = algorithm == "llama" or metadata.get("tokenizer.ggml.pre") in OPENED
    config["add_bos_token"] = bool(metadata.get("tokenizer.ggml.add_bos_token", begins))
    config["add_eos_token"] = bool(metadata.get("tokenizer.ggml.add_eos_token", False))
    return read_tokenizer(file, config, [metadata[key] for key in STOPS if key in metadata])


def need(metadata: Mapping[str, Any], name: str, form: type) -> Any:
    """A value that must be there. Raises ValueError if it is not, or of another form."""
    value = metadata.get(f"tokenizer.ggml.{name}")
    if not isinstance(value, form):
        found = "none" if value is None else type(value).__name__
        raise ValueError(
            f"tokenizer.ggml.{name}: expected a {form.__name__}, found {found}; take a file that holds its tokenizer"
        )
    return value


def named(metadata: Mapping[str, Any], role: str, tokens: Sequence[str]) -> str | None:
    """The token that has a role, None if none has it. Raises ValueError for an id outside the vocabulary."""
    token = metadata.get(f"tokenizer.ggml.{role}_token_id")
    if token is not None and not 0 <= token < len(tokens):
        raise ValueError(f"tokenizer.ggml.{role}_token_id = {token}: expected 0 ... {len(tokens) - 1}; mend the file")
    return None if token is None else tokens[token]


def vocabulary(tokens: Sequence[str], types: Sequence[int]) -> dict[str, int]:
    """The id of each piece; an unused one, such as the padding of a vocabulary, is a hole."""
    return {token: i for i, token in enumerate(tokens) if types[i] != UNUSED}


def byte_level_bpe(metadata: Mapping[str, Any], tokens: Sequence[str], types: Sequence[int]) -> dict[str, Any]:
    """The tokenizer.json of byte-level BPE ("gpt2")."""
    pre = need(metadata, "pre", str)
    if pre not in CUTS:
        raise ValueError(
            f"tokenizer.ggml.pre = {pre!r}: expected {suggest(pre, list(CUTS))}; "
            "take the model's own tokenizer.json instead"
        )
    model = {"type": "BPE", "vocab": vocabulary(tokens, types), "merges": need(metadata, "merges", list)}
    return {
        "normalizer": {"type": "NFC"} if pre == "qwen2" else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": CUTS[pre]},
        "decoder": {"type": "ByteLevel"},
        "model": model | {"ignore_merges": pre in OPENED},
    }


def sentencepiece(metadata: Mapping[str, Any], tokens: Sequence[str], types: Sequence[int]) -> dict[str, Any]:
    """The tokenizer.json of sentencepiece's BPE ("llama")."""
    scores = need(metadata, "scores", list)
    if len(scores) != len(tokens):
        raise ValueError(f"tokenizer.ggml.scores: {len(scores)} values: expected one for each of {len(tokens)} tokens")
    escape = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
    prepend = (
        [{"type": "Prepend", "prepend": "\u2581"}] if metadata.get("tokenizer.ggml.add_space_prefix", True) else []
    )
    unescape = {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}
    unknown = next((token for token, kind in zip(tokens, types, strict=True) if kind == UNKNOWN), None)
    model = {"type": "BPE", "vocab": vocabulary(tokens, types), "merges": merges_of(tokens, types, scores)}
    return {
        "normalizer": {"type": "Sequence", "normalizers": [*prepend, escape]},
        "decoder": {"type": "Sequence", "decoders": [unescape, {"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": model | {"byte_fallback": True, "fuse_unk": True, "unk_token": unknown},
    }


def merges_of(tokens: Sequence[str], types: Sequence[int], scores: Sequence[float]) -> list[tuple[str, str]]:
    """Every pair of pieces whose whole is a piece, by falling score of the whole."""
    id_of = {token: i for i, token in enumerate(tokens) if types[i] == NORMAL}
    found = []
    for whole, i in id_of.items():
        pairs = [(whole[:cut], whole[cut:]) for cut in range(1, len(whole))]
        found += [(-scores[i], id_of[a], id_of[b], (a, b)) for a, b in pairs if a in id_of and b in id_of]
    return [pair for *_, pair in sorted(found)]


BUILDERS = {"gpt2": byte_level_bpe, "llama": sentencepiece}
