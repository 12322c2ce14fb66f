"""The vocabulary of a tokenizer.json: pieces, merges, added tokens, and the roles that a config gives to some of them.

Everything is checked before it is used: a file may be damaged or hostile, so ids must be near the number of pieces, and
an unknown option is refused by its name. Read before: `tokenizer_json`.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from minillm.tokenizers.added_tokens import AddedToken
from minillm.tokenizers.wordpiece import CONTINUES, LONGEST

ADDED = ("id", "content", "single_word", "lstrip", "rstrip", "normalized", "special")
ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
MODELS = {  # the options that are understood, with their defaults
    "BPE": {
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": None,
        "merges": None,
    },
    "Unigram": {"unk_id": None, "byte_fallback": False, "vocab": None},
    "WordPiece": {
        "unk_token": "[UNK]",
        "continuing_subword_prefix": CONTINUES,
        "max_input_chars_per_word": LONGEST,
        "vocab": None,
    },
}
SPARE = 1 << 16  # most ids without a piece, so that a file cannot ask for more memory than its size warrants


def read_model(model: Any) -> tuple[str, dict[str, Any]]:
    """The name of the model and its options. Raises ValueError for one that is not understood."""
    if not isinstance(model, Mapping):
        raise ValueError(f"tokenizer.json: model = {str(model)[:40]}: expected an algorithm and its pieces")
    name = model.get("type") or ("BPE" if "merges" in model else None)  # files of 2019 have no type
    if name not in MODELS:
        raise ValueError(f"tokenizer.json: model {name!r}: expected one of {', '.join(MODELS)}; no other can be read")
    for key in model.keys() - {"type", *MODELS[name]}:
        raise ValueError(f"model {name}: {key} = {str(model[key])[:40]}: expected only {', '.join(MODELS[name])}")
    options = {**MODELS[name], **model}
    for key in ("continuing_subword_prefix", "end_of_word_suffix", "dropout"):
        expected = CONTINUES if name == "WordPiece" and key == "continuing_subword_prefix" else None
        if (options.get(key) or None) != expected:
            raise ValueError(f"model {name}: {key} = {options[key]!r}: expected {expected!r}; no other can be read")
    return name, options


def read_vocabulary(vocabulary: Any, name: str) -> list[str | None]:
    """The piece of each id, None where an id has none. Raises ValueError for what is no vocabulary."""
    if name == "Unigram":
        if not (isinstance(vocabulary, list) and all(is_scored(entry) for entry in vocabulary)):
            raise ValueError("model Unigram: vocab: expected a list of pieces and scores; download the file again")
        return [text for text, _ in vocabulary]
    if not (isinstance(vocabulary, Mapping) and all(type(token) is int for token in vocabulary.values())):
        raise ValueError(f"model {name}: vocab: expected an id for each piece; download the file again")
    texts: list[str | None] = [None] * check_range(vocabulary.values(), len(vocabulary))
    for text, token in vocabulary.items():
        if texts[token] is not None:
            raise ValueError(f"vocab: {text!r} and {texts[token]!r} both have id {token}: expected one piece an id")
        texts[token] = text
    return texts


def is_scored(entry: Any) -> bool:
    """Whether an entry of a Unigram vocabulary is a piece and its finite score."""
    return (
        isinstance(entry, Sequence)
        and len(entry) == 2
        and isinstance(entry[0], str)
        and isinstance(entry[1], int | float)
        and abs(entry[1]) < float("inf")
    )


def check_range(tokens: Iterable[int], n_pieces: int) -> int:
    """One more than the largest id. Raises ValueError if it is negative, or much larger than the number of pieces."""
    tokens = list(tokens)
    if any(not 0 <= token < n_pieces + SPARE for token in tokens):
        wrong = next(token for token in tokens if not 0 <= token < n_pieces + SPARE)
        raise ValueError(
            f"id {wrong}: expected 0 ... {n_pieces + SPARE - 1}, near the {n_pieces} pieces; mend the file"
        )
    return max(tokens, default=-1) + 1


def content_of(token: Any) -> str | None:
    """The text of a token in tokenizer_config.json, where it is a string or an object."""
    return token.get("content") if isinstance(token, Mapping) else token


def read_roles(config: Mapping[str, Any]) -> dict[str, str]:
    """Role -> text of the token that has it; also the special tokens without a role."""
    roles = {role: content_of(config[role]) for role in ROLES if config.get(role) is not None}
    more = config.get("additional_special_tokens") or config.get("extra_special_tokens") or []
    more = more.values() if isinstance(more, Mapping) else more
    return roles | {f"special token {i}": content_of(token) for i, token in enumerate(more)}


def role_id(role: str, roles: Mapping[str, str], ids: Mapping[str, int]) -> int:
    """The id of the token with a role. Raises ValueError if none has it."""
    if role not in roles:
        raise ValueError(f"{role}: expected the token in tokenizer_config.json, found none; add {role} to the file")
    if roles[role] not in ids:
        raise ValueError(f"{role} = {roles[role]!r}: expected a piece or an added token; take the files of one model")
    return ids[roles[role]]


def read_added(
    entries: Iterable[Mapping[str, Any]], config: Mapping[str, Any], roles: Mapping[str, str], texts: list[str | None]
) -> list[AddedToken]:
    """All added tokens: those of the file, those of the config, and the pieces that have a role, which are special."""
    listed = [dict(entry) for entry in entries]
    known = {entry.get("id") for entry in listed}
    more = config.get("added_tokens_decoder") or {}
    listed += [{"id": int(token), **entry} for token, entry in more.items() if int(token) not in known]
    check_range((entry.get("id", -1) for entry in listed), len(texts) + len(listed))
    special = set(roles.values())
    added = {}
    for entry in listed:
        for key in entry.keys() - set(ADDED) - {"__type"}:
            raise ValueError(f"added token {entry.get('content')!r}: {key}: expected only {', '.join(ADDED)}")
        if entry.get("single_word"):
            raise ValueError(f"added token {entry['content']!r}: single_word = true: expected false; it cannot be read")
        flags = {flag: bool(entry.get(flag)) for flag in ("normalized", "lstrip", "rstrip")}
        text = entry["content"]
        added[text] = AddedToken(entry["id"], text, special=bool(entry.get("special")) or text in special, **flags)
    for token, text in enumerate(texts):
        if text in special and text not in added:
            added[text] = AddedToken(token, text)
    return sorted(added.values(), key=lambda each: each.token)


def read_merges(merges: Any, ids: Mapping[str, int]) -> list[tuple[int, int]]:
    """Pairs of ids. Raises ValueError for a merge that is not two pieces."""
    pairs = []
    for i, merge in enumerate(merges or []):
        parts = merge.split(" ") if isinstance(merge, str) else merge
        if not (isinstance(parts, Sequence) and len(parts) == 2 and all(part in ids for part in parts)):
            raise ValueError(f"merges[{i}] = {merge!r}: expected two pieces of the vocabulary; download the file again")
        pairs.append((ids[parts[0]], ids[parts[1]]))
    return pairs
