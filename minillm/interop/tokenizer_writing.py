r"""Our tokenizers as tokenizer.json, so that the `tokenizers` package gives the same ids for every text.

Each kind is written with the steps that say the same in the words of that file; the tests compare both on thousands of
strings. Two remarks. The package turns a text that looks like a special token into one unless it is told not to
(`encode_special_tokens = True`, in tokenizer_config.json "split_special_tokens": true); ours never does. And `bpe`,
`unigram` and `wordpiece` class characters by this Python's Unicode tables, the package by its own: a character that one
of the two does not know yet may be cut differently. Read before: `tokenizer_json`.
"""

from collections.abc import Callable, Sequence
from typing import Any

from minillm.interop.tokenizer_steps import byte_level, isolated
from minillm.tokenizers.bpe import BPETokenizer, printable
from minillm.tokenizers.byte import ByteTokenizer
from minillm.tokenizers.char import CharTokenizer
from minillm.tokenizers.extended import ExtendedTokenizer
from minillm.tokenizers.imported import ImportedTokenizer
from minillm.tokenizers.imported_bpe import ByteLevelBPE, FallbackBPE
from minillm.tokenizers.imported_unigram import FallbackUnigram
from minillm.tokenizers.sentencepiece import FIXED, WORDS, SentencePieceTokenizer
from minillm.tokenizers.tokenizer import END, Tokenizer
from minillm.tokenizers.unigram import UnigramTokenizer
from minillm.tokenizers.wordpiece import CONTINUES, WordPieceTokenizer

Parts = dict[str, Any]  # normalizer, pre_tokenizer, decoder and model of a file


def write_tokenizer(tokenizer: Tokenizer, opening: Sequence[int] | None = None) -> dict[str, Any]:
    """The content of tokenizer.json. `opening`: ids that the package puts before every text; None: the tokenizer's own.

    Raises ValueError for a kind that cannot be written.
    """
    parts = parts_of(tokenizer)
    before = (tokenizer.opening or ()) if opening is None else opening
    names = {each["id"]: each["content"] for each in parts["added_tokens"]}
    for token in (*before, *tokenizer.closing):
        if token not in names:
            raise ValueError(f"id {token} before or after every text: expected a special token; give opening = []")
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": surrounding([names[i] for i in before], [names[i] for i in tokenizer.closing], names),
        **parts,
    }


def parts_of(tokenizer: Tokenizer) -> Parts:
    """The parts of the file that depend on the kind of tokenizer. Raises ValueError for one that cannot be written."""
    if isinstance(tokenizer, ExtendedTokenizer):
        parts = parts_of(tokenizer.base)
        added = [special_token(each.token, each.text, each.special) for each in tokenizer.added.tokens]
        return parts | {"added_tokens": [*parts["added_tokens"], *added]}
    if type(tokenizer) not in WRITERS:
        raise ValueError(
            f"{type(tokenizer).__name__}: expected one of {', '.join(cls.__name__ for cls in WRITERS)}; "
            "no other can be written as tokenizer.json"
        )
    return WRITERS[type(tokenizer)](tokenizer)


def surrounding(before: list[str], after: list[str], names: dict[int, str]) -> dict[str, Any] | None:
    """The post-processor that puts tokens before and after a text."""
    if not before and not after:
        return None
    special = {
        name: {"id": name, "ids": [i], "tokens": [name]} for i, name in names.items() if name in (*before, *after)
    }

    def around(text: str, kind: int) -> list[dict[str, Any]]:
        ends = [[{"SpecialToken": {"id": name, "type_id": kind}} for name in side] for side in (before, after)]
        return [*ends[0], {"Sequence": {"id": text, "type_id": kind}}, *ends[1]]

    both = [*around("A", 0), *around("B", 1)]
    return {"type": "TemplateProcessing", "single": around("A", 0), "pair": both, "special_tokens": special}


def special_token(token: int, text: str, special: bool = True, **flags: bool) -> dict[str, Any]:
    """An entry of `added_tokens`."""
    off = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": token, "content": text, "special": special} | off | flags


def steps(kind: str, *each: Any) -> dict[str, Any] | None:
    """Some steps as one."""
    return {"type": "Sequence", kind: list(each)} if each else None


def bpe_model(vocab: dict[str, int], merges: Sequence[Sequence[str]], **options: Any) -> dict[str, Any]:
    """The model part of a BPE."""
    plain = {"dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None}
    flags = {"fuse_unk": False, "byte_fallback": False, "ignore_merges": False}
    return {"type": "BPE"} | plain | flags | options | {"vocab": vocab, "merges": [list(pair) for pair in merges]}


def write_bpe(tokenizer: BPETokenizer | ByteTokenizer) -> Parts:
    """Byte-level BPE; the byte tokenizer is one without merges and without words."""
    merges = tokenizer.merges if isinstance(tokenizer, BPETokenizer) else []
    texts = [END if i == tokenizer.end_id else printable(piece) for i, piece in enumerate(tokenizer.pieces)]
    pairs = [(printable(left), printable(right)) for left, right in merges]
    return {
        "added_tokens": [special_token(tokenizer.end_id, END)],
        "pre_tokenizer": byte_level(use_regex=isinstance(tokenizer, BPETokenizer)),
        "decoder": byte_level(use_regex=True),
        "model": bpe_model({text: i for i, text in enumerate(texts)}, pairs),
    }


def write_unigram(tokenizer: UnigramTokenizer) -> Parts:
    """Unigram over GPT-2's printable characters. Raises ValueError for scores of more digits than readers keep."""
    logprobs = tokenizer.model.logprobs
    if any(round(logprob, 12) != logprob for logprob in logprobs.values()):
        raise ValueError(
            "logprobs: expected at most 12 decimals, since readers of tokenizer.json round longer ones differently; "
            "train the tokenizer again"
        )
    scores = zip(map(printable, tokenizer.pieces), logprobs.values(), strict=False)  # END has none
    return {
        "added_tokens": [special_token(tokenizer.end_id, END)],
        "pre_tokenizer": byte_level(use_regex=True),
        "decoder": byte_level(use_regex=True),
        "model": {"type": "Unigram", "unk_id": None, "byte_fallback": False, "vocab": [list(each) for each in scores]},
    }


def write_char(tokenizer: CharTokenizer) -> Parts:
    """Each character a word of a word tokenizer; the package refuses others too, since END is not in the model."""
    return {
        "added_tokens": [special_token(tokenizer.end_id, END)],
        "pre_tokenizer": isolated(r"[\s\S]"),
        "decoder": {"type": "Fuse"},
        "model": {"type": "WordLevel", "unk_token": END, "vocab": dict(tokenizer.token_of)},
    }


def write_sentencepiece(tokenizer: SentencePieceTokenizer) -> Parts:
    """Sentencepiece's BPE, with plain spaces in the pieces, so that U+2581 is a character as any other.

    The package wants merges: every pair of pieces whose whole is a piece, by falling score of the whole.
    """
    if tokenizer.algorithm != "bpe":
        raise ValueError(
            "tokenizer.kind = 'sentencepiece-unigram': expected another kind, since it adds scores in 32 bits and "
            "readers of tokenizer.json in 64, so segmentations would differ; train with kind 'unigram'"
        )
    package = tokenizer.processor
    texts = [package.id_to_piece(i) if i < FIXED else piece.decode() for i, piece in enumerate(tokenizer.pieces)]
    learned = {texts[i]: package.get_score(i) for i in range(FIXED, len(texts))}
    pairs = [(text[:cut], text[cut:]) for text in learned for cut in range(1, len(text))]
    pairs = [pair for pair in pairs if learned.keys() >= set(pair)]
    pairs.sort(key=lambda pair: (-learned["".join(pair)], pair))
    vocab = {text: i for i, text in enumerate(texts)}
    return {
        "added_tokens": [special_token(tokenizer.end_id, END)],
        "pre_tokenizer": isolated(WORDS.pattern),
        "decoder": steps("decoders", {"type": "ByteFallback"}, {"type": "Fuse"}),
        "model": bpe_model(vocab, pairs, byte_fallback=True, fuse_unk=True, unk_token=END),
    }


def imported(tokenizer: ImportedTokenizer, decoder: dict[str, Any] | None, model: dict[str, Any]) -> Parts:
    """The parts of an imported tokenizer, which keeps its steps in the words of the file."""
    pipeline = tokenizer.pipeline
    added = [
        special_token(a.token, a.text, a.special, normalized=a.normalized, lstrip=a.lstrip, rstrip=a.rstrip)
        for a in pipeline.added
    ]
    return {
        "added_tokens": added,
        "normalizer": steps("normalizers", *pipeline.normalizers),
        "pre_tokenizer": steps("pretokenizers", *pipeline.splitters),
        "decoder": decoder,
        "model": model,
    }


def vocabulary(tokenizer: Any) -> dict[str, int]:
    """The id of each piece as the file writes it."""
    return {text: i for i, text in enumerate(tokenizer.texts) if text is not None}


def unescape(space: str, byte_fallback: bool) -> dict[str, Any] | None:
    """The decoder of sentencepiece's pieces."""
    replace = [{"type": "Replace", "pattern": {"String": space}, "content": " "}] if space else []
    return steps("decoders", *replace, *([{"type": "ByteFallback"}] if byte_fallback else []), {"type": "Fuse"})


def write_imported_bpe(tokenizer: ByteLevelBPE | FallbackBPE) -> Parts:
    """BPE of other people."""
    options = tokenizer.options
    unknown = next((a.text for a in tokenizer.pipeline.added if a.token == tokenizer.unknown), None)
    merges = [(tokenizer.texts[left], tokenizer.texts[right]) for left, right in tokenizer.merges]
    flags = {"ignore_merges": options.ignore_merges, "byte_fallback": options.byte_fallback}
    model = bpe_model(vocabulary(tokenizer), merges, fuse_unk=options.fuse_unk, unk_token=unknown, **flags)
    level = isinstance(tokenizer, ByteLevelBPE)
    decoder = byte_level(use_regex=True) if level else unescape(options.space, options.byte_fallback)
    return imported(tokenizer, decoder, model)


def write_imported_unigram(tokenizer: FallbackUnigram) -> Parts:
    """Unigram of other people."""
    scored = [[text, score] for text, score in zip(tokenizer.texts, tokenizer.scores, strict=True)]
    fallback = tokenizer.options.byte_fallback
    unknown = tokenizer.end_id if tokenizer.unknown is None else tokenizer.unknown  # None: every byte has a piece
    model = {"type": "Unigram", "unk_id": unknown, "byte_fallback": fallback, "vocab": scored}
    return imported(tokenizer, unescape(tokenizer.options.space, fallback), model)


def write_wordpiece(tokenizer: WordPieceTokenizer) -> Parts:
    """WordPiece; the package decodes the first word without the space that ours puts before each."""
    model = {
        "type": "WordPiece",
        "unk_token": tokenizer.texts[tokenizer.unknown],
        "continuing_subword_prefix": CONTINUES,
        "max_input_chars_per_word": tokenizer.longest,
        "vocab": vocabulary(tokenizer),
    }
    return imported(tokenizer, {"type": "WordPiece", "prefix": CONTINUES, "cleanup": False}, model)


WRITERS: dict[type[Tokenizer], Callable[[Any], Parts]] = {
    BPETokenizer: write_bpe,
    ByteTokenizer: write_bpe,
    UnigramTokenizer: write_unigram,
    CharTokenizer: write_char,
    SentencePieceTokenizer: write_sentencepiece,
    WordPieceTokenizer: write_wordpiece,
    ByteLevelBPE: write_imported_bpe,
    FallbackBPE: write_imported_bpe,
    FallbackUnigram: write_imported_unigram,
}
