"""tokenizer.json: read the tokenizers of other people, as the `tokenizers` package writes them (Hugging Face, 2019).

The file names each step (normalizer, pre-tokenizer, model, post-processor, decoder) with its options. Every name and
option is understood or refused by its name; none is skipped, since ids that are almost right ruin a model unnoticed.
Truncation and padding are left to whoever makes batches. tokenizer_config.json adds which token plays which role. Read
before: `tokenizers/imported.py`.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from minillm.interop.vocabulary import read_added, read_merges, read_model, read_roles, read_vocabulary, role_id
from minillm.tokenizers.imported import ImportedTokenizer, Pipeline
from minillm.tokenizers.imported_bpe import BYTE_PIECES, BPEOptions, ByteLevelBPE, FallbackBPE
from minillm.tokenizers.imported_unigram import FallbackUnigram, UnigramOptions
from minillm.tokenizers.text_steps import NORMALIZERS, SPLITTERS, build
from minillm.tokenizers.wordpiece import CONTINUES, WordPieceTokenizer

FILE = ("version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder")


def read_tokenizer(
    source: str | Path | Mapping[str, Any], config: Mapping[str, Any] | None = None, stop_ids: Iterable[int] = ()
) -> ImportedTokenizer:
    """The tokenizer of a tokenizer.json, a path or its content.

    `config`: the content of tokenizer_config.json; its eos_token is END. `stop_ids`: more ids that end an answer, from
    generation_config.json. Raises ValueError, in a sentence, for everything that is not understood.
    """
    file = source if isinstance(source, Mapping) else read_file(Path(source))
    try:
        return build_tokenizer(file, config or {}, tuple(stop_ids))
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(
            f"tokenizer.json: expected its parts in their usual form, but {type(error).__name__}: {error}; "
            "download it again"
        ) from error


def build_tokenizer(file: Mapping[str, Any], config: Mapping[str, Any], stop_ids: tuple[int, ...]) -> ImportedTokenizer:
    """The tokenizer of a file's content."""
    for key in file.keys() - {*FILE, "model"}:
        raise ValueError(f"tokenizer.json: {key} = {file[key]!r}: expected only {', '.join(FILE)}, model")
    name, model = read_model(file.get("model"))
    texts = read_vocabulary(model["vocab"], name)
    roles = read_roles(config)
    added = read_added(file.get("added_tokens") or [], config, roles, texts)
    normalizers = steps_of(file.get("normalizer"), "normalizers")
    splitters = steps_of(file.get("pre_tokenizer"), "pretokenizers")
    build(normalizers, NORMALIZERS, "normalizer")  # before anything that depends on them
    build(splitters, SPLITTERS, "pre_tokenizer")
    check_agreement(config, normalizers, splitters)
    opening, closing = read_post_processor(file.get("post_processor"))
    ids = {text: token for token, text in enumerate(texts) if text is not None} | {a.text: a.token for a in added}
    if config.get("add_bos_token") is not None or config.get("add_eos_token") is not None:  # they replace the processor
        opening = [role_id("bos_token", roles, ids)] if config.get("add_bos_token") else []
        closing = [role_id("eos_token", roles, ids)] if config.get("add_eos_token") else []
    if "eos_token" not in roles and closing:
        end_id = closing[-1]  # BERT: [SEP] ends a text, and no token has the role
    elif "eos_token" not in roles and stop_ids:
        end_id = stop_ids[0]  # GPT-2 names it in config.json only
    else:
        end_id = role_id("eos_token", roles, ids)
    pipeline = Pipeline(
        end_id=end_id,
        added=tuple(added),
        normalizers=tuple(normalizers),
        splitters=tuple(splitters),
        opening=tuple(opening),
        closing=tuple(closing),
        stop_ids=stop_ids,
    )
    decoders = steps_of(file.get("decoder"), "decoders")
    return BUILDERS[name](model, texts, ids, pipeline, decoders)


def read_file(path: Path) -> dict[str, Any]:
    """The content of a JSON file. Raises ValueError if it is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: expected a tokenizer.json, but {error}; download it again") from error
    except FileNotFoundError:
        raise ValueError(f"{path}: expected a tokenizer.json, found no file; check the path") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a tokenizer.json, found {type(content).__name__}; check the path")
    return content


def steps_of(step: Mapping[str, Any] | None, plural: str) -> list[Mapping[str, Any]]:
    """The steps of a part of the file, sequences opened; none for null."""
    if step is None:
        return []
    if not isinstance(step, Mapping):
        raise ValueError(f"tokenizer.json: {plural}: {step!r}: expected a step with its type; download the file again")
    if step.get("type") != "Sequence":
        return [step]
    return [inner for each in step.get(plural, []) for inner in steps_of(each, plural)]


def check_agreement(
    config: Mapping[str, Any], normalizers: Iterable[Mapping[str, Any]], splitters: Iterable[Mapping[str, Any]]
) -> None:
    """Raise ValueError where the two files contradict each other about a step."""
    twice = [("BertNormalizer", "do_lower_case", "lowercase"), ("BertNormalizer", "strip_accents", "strip_accents")]
    twice += [("BertNormalizer", "tokenize_chinese_chars", "handle_chinese_chars")]
    twice += [("ByteLevel", "add_prefix_space", "add_prefix_space")]
    for step in (*normalizers, *splitters):
        for name, key, option in twice:
            said, done = config.get(key), step.get(option)
            if step.get("type") == name and said is not None and done is not None and said != done:
                raise ValueError(
                    f"tokenizer_config.json: {key} = {said!r}, but tokenizer.json: {name}: {option} = {done!r}: "
                    "expected them to agree; mend the one that is wrong"
                )


def read_post_processor(step: Mapping[str, Any] | None) -> tuple[list[int], list[int]]:
    """The ids before and after every text. Raises ValueError for a post-processor that is not understood."""
    opening: list[int] = []
    closing: list[int] = []
    for each in steps_of(step, "processors"):
        name = each.get("type")
        if name in ("BertProcessing", "RobertaProcessing"):
            opening, closing = [each["cls"][1], *opening], [*closing, each["sep"][1]]
        elif name == "TemplateProcessing":
            before, after = template_ids(each)
            opening, closing = [*before, *opening], [*closing, *after]
        elif name != "ByteLevel":  # that one concerns offsets alone
            raise ValueError(
                f"post_processor {name!r}: expected TemplateProcessing, BertProcessing, RobertaProcessing or "
                "ByteLevel; no other can be read"
            )
    return opening, closing


def template_ids(step: Mapping[str, Any]) -> tuple[list[int], list[int]]:
    """The ids before and after the text in a template for one text."""
    sides: tuple[list[int], list[int]] = [], []
    found = 0
    for item in step["single"]:
        if "Sequence" in item:
            found += 1
        else:
            sides[min(found, 1)].extend(step["special_tokens"][item["SpecialToken"]["id"]]["ids"])
    if found != 1:
        raise ValueError(f"TemplateProcessing: single: expected the text once, found it {found} times; mend the file")
    return sides


def read_space(decoders: Sequence[Mapping[str, Any]], byte_fallback: bool) -> str:
    """The notation of a space in the pieces, from the decoder. Raises ValueError for one that is not understood.

    Strip, which takes a space from the beginning of a decoded text, is understood but not done: a stream is decoded
    token by token, and what a model writes after a prompt may well begin with a space.
    """
    space, names = "", [each.get("type") for each in decoders]
    for each, name in zip(decoders, names, strict=True):
        if name == "Replace" and each.get("content") == " " and set(each.get("pattern", ())) == {"String"}:
            space = each["pattern"]["String"]
        elif name == "Metaspace":
            space = each.get("replacement", "\u2581")
        elif name not in ("ByteFallback", "Fuse") and not (name == "Strip" and each.get("content") == " "):
            raise ValueError(
                f"decoder {name!r}: {each!r}: expected Replace of a string by ' ', Metaspace, ByteFallback, Fuse or "
                "Strip of ' '; no other can be read"
            )
    if byte_fallback != ("ByteFallback" in names) or not names:
        raise ValueError(
            f"decoder {', '.join(map(str, names))}: expected ByteFallback with byte_fallback = {byte_fallback}; "
            "take the file as published"
        )
    return space


def build_bpe(
    model: Mapping[str, Any], texts: list[str | None], ids: Mapping[str, int], pipeline: Pipeline, decoders: list
) -> ImportedTokenizer:
    """Byte-level BPE if the last splitter is ByteLevel, else BPE of characters."""
    own = {text: token for token, text in enumerate(texts) if text is not None}
    places = [i for i, step in enumerate(pipeline.splitters) if step.get("type") == "ByteLevel"]
    flags = {name: bool(model[name]) for name in ("ignore_merges", "byte_fallback", "fuse_unk")}
    merges = read_merges(model["merges"], own)
    if places:
        if places != [len(pipeline.splitters) - 1]:
            raise ValueError("pre_tokenizer ByteLevel: expected it last, and once; no other order can be read")
        if [each.get("type") for each in decoders] != ["ByteLevel"] or flags["byte_fallback"]:
            raise ValueError("decoder: expected ByteLevel alone, since the pre_tokenizer is ByteLevel; mend the file")
        unknown = read_unknown(model["unk_token"], ids, pipeline, ByteLevelBPE.byte_of.keys() <= own.keys())
        return ByteLevelBPE(texts, merges, pipeline, BPEOptions(**flags), unknown)
    space = read_space(decoders, flags["byte_fallback"])
    complete = flags["byte_fallback"] and BYTE_PIECES.keys() <= own.keys()
    unknown = read_unknown(model["unk_token"], ids, pipeline, complete)
    return FallbackBPE(texts, merges, pipeline, BPEOptions(**flags, space=space), unknown)


def read_unknown(name: str | None, ids: Mapping[str, int], pipeline: Pipeline, complete: bool) -> int | None:
    """The id of characters without a piece; None if there are none. Raises ValueError if it is also END."""
    if name is None or complete:
        return None
    if name not in ids:
        raise ValueError(f"unk_token = {name!r}: expected a piece or an added token; take the file as published")
    if ids[name] == pipeline.end_id:
        raise ValueError(
            f"unk_token = {name!r}: expected another token than the one that ends a text, since a text would yield it"
        )
    return ids[name]


def build_unigram(
    model: Mapping[str, Any], texts: list[str | None], ids: Mapping[str, int], pipeline: Pipeline, decoders: list
) -> ImportedTokenizer:
    """Sentencepiece's Unigram."""
    if any(step.get("type") == "ByteLevel" for step in pipeline.splitters):
        raise ValueError("pre_tokenizer ByteLevel: expected another one beside Unigram; no such file can be read")
    fallback, unk_id = bool(model["byte_fallback"]), model["unk_id"]
    complete = fallback and BYTE_PIECES.keys() <= set(texts)
    name = texts[unk_id] if unk_id is not None and 0 <= unk_id < len(texts) else None
    unknown = read_unknown(name, ids, pipeline, complete)
    options = UnigramOptions(fallback, read_space(decoders, fallback))
    return FallbackUnigram(texts, [score for _, score in model["vocab"]], pipeline, options, unknown)


def build_wordpiece(
    model: Mapping[str, Any], texts: list[str | None], ids: Mapping[str, int], pipeline: Pipeline, decoders: list
) -> ImportedTokenizer:
    """WordPiece."""
    for each in decoders:
        if each.get("type") != "WordPiece" or each.get("prefix", CONTINUES) != CONTINUES:
            raise ValueError(f"decoder {each!r}: expected WordPiece with the prefix '##'; no other can be read")
    unknown = read_unknown(model["unk_token"], ids, pipeline, complete=False)
    if unknown is None:
        raise ValueError("model WordPiece: unk_token = None: expected the token of unknown words; mend the file")
    return WordPieceTokenizer(texts, pipeline, unknown, model["max_input_chars_per_word"])


BUILDERS = {"BPE": build_bpe, "Unigram": build_unigram, "WordPiece": build_wordpiece}
