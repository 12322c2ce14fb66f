"""Tiny tokenizers of the `tokenizers` package with the steps of well-known families, and strings to try them on."""

import json
import random
import sys
import unicodedata
from functools import cache

from tokenizers import Tokenizer, pre_tokenizers, trainers

TEXTS = [
    "Once upon a time there was a hedgehog. The hedgehog's 37 apples weren't 1234 pears!\n\n",
    "    def apples(self):\n\treturn self._apples  # naïve café, ÀÉÎ\n" * 3,
    "zażółć gęślą jaźń, Ünïcödé, Ελληνικά Σίσυφος, русский текст, 漢字かな交じり文, 한국어, हिन्दी, العربية 🦔🦔 ½ Ⅷ ²\n"
    * 2,
    "It's I'll they've HE'S x=111+1111; <p>html</p> [1] {a: 'b'} http://a.b/c?d=e&f=g  ##a## https\r\n\r\n\t\t",
    "the theme of the thesis is there; other mothers gather   and   bother    further.\n",
] * 3
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace("{1,3}", "")
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
ENDING = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
O200K = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{ENDING}|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{ENDING}|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def added(texts: list[str], special: bool = True, **flags: bool) -> list[dict]:
    """Added tokens as tokenizer.json has them, without their ids."""
    off = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return [{"content": text, "special": special} | off | flags for text in texts]


def isolated(pattern: str) -> dict:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def byte_level(use_regex: bool, add_prefix_space: bool = False) -> dict:
    return {
        "type": "ByteLevel",
        "add_prefix_space": add_prefix_space,
        "trim_offsets": True,
        "use_regex": use_regex,
    }


def in_turn(plural: str, *steps: dict) -> dict:
    return {"type": "Sequence", plural: list(steps)}


def template(before: list[str], after: list[str] = ()) -> dict:
    """A post-processor; the ids are filled in when the vocabulary is known."""
    special = [{"SpecialToken": {"id": name, "type_id": 0}} for name in (*before, *after)]
    single = [*special[: len(before)], {"Sequence": {"id": "A", "type_id": 0}}, *special[len(before) :]]
    both = [*single, {"Sequence": {"id": "B", "type_id": 1}}]
    names = {name: {"id": name, "ids": [name], "tokens": [name]} for name in (*before, *after)}
    return {"type": "TemplateProcessing", "single": single, "pair": both, "special_tokens": names}


def metaspace(scheme: str, split: bool) -> dict:
    return {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split}


ESCAPE = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
BYTE_LEVEL_DECODER = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
UNESCAPE = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
SPM_DECODER = in_turn("decoders", UNESCAPE, {"type": "ByteFallback"}, {"type": "Fuse"})
STRIPPING = in_turn("decoders", *SPM_DECODER["decoders"], {"type": "Strip", "content": " ", "start": 1, "stop": 0})
SPM = {"byte_fallback": True, "fuse_unk": True, "unk_token": "<unk>"}
LLAMA_SPECIAL = added(["<unk>", "<s>", "</s>"])
CHATML = added(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])

FAMILIES = {  # name: model, steps and added tokens as published; and the config
    "gpt2": {
        "model": "BPE",
        "pre_tokenizer": byte_level(True),
        "decoder": BYTE_LEVEL_DECODER,
        "post_processor": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True},
        "added_tokens": added(["<|endoftext|>"], normalized=True),
        "config": {"eos_token": "<|endoftext|>", "bos_token": "<|endoftext|>", "add_prefix_space": False},
    },
    "roberta": {
        "model": "BPE",
        "pre_tokenizer": byte_level(True, add_prefix_space=True),
        "decoder": BYTE_LEVEL_DECODER,
        "post_processor": template(["<s>"], ["</s>"]),
        "added_tokens": added(["<s>", "</s>", "<pad>"]) + added(["<mask>"], lstrip=True),
        "config": {"eos_token": {"content": "</s>"}, "mask_token": {"content": "<mask>"}},
    },
    "llama3": {
        "model": "BPE",
        "options": {"ignore_merges": True},
        "pre_tokenizer": in_turn("pretokenizers", isolated(LLAMA3), byte_level(False)),
        "decoder": BYTE_LEVEL_DECODER,
        "post_processor": in_turn("processors", BYTE_LEVEL_DECODER, template(["<|begin_of_text|>"])),
        "added_tokens": added(["<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"]),
        "config": {"eos_token": "<|eot_id|>", "bos_token": "<|begin_of_text|>"},
    },
    "qwen2": {
        "model": "BPE",
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": in_turn("pretokenizers", isolated(QWEN2), byte_level(False)),
        "decoder": BYTE_LEVEL_DECODER,
        "post_processor": BYTE_LEVEL_DECODER,
        "added_tokens": CHATML + added(["<think>", "</think>", "<tool_call>"], special=False),
        "config": {"eos_token": "<|im_end|>", "bos_token": None, "add_bos_token": False},
    },
    "smollm2": {
        "model": "BPE",
        "without": "ÀÁñòóôõö÷øùúûüýþÿĄĆēĔĖ",
        "pre_tokenizer": in_turn("pretokenizers", {"type": "Digits", "individual_digits": True}, byte_level(True)),
        "decoder": BYTE_LEVEL_DECODER,
        "added_tokens": CHATML + added(["<repo_name>"]),
        "config": {"eos_token": "<|im_end|>", "bos_token": "<|im_start|>", "add_prefix_space": False},
    },
    "gpt-oss": {
        "model": "BPE",
        "pre_tokenizer": in_turn("pretokenizers", isolated(O200K), byte_level(False)),
        "decoder": BYTE_LEVEL_DECODER,
        "post_processor": BYTE_LEVEL_DECODER,
        "added_tokens": added(["<|return|>", "<|start|>", "<|message|>", "<|end|>", "<|channel|>"]),
        "config": {"eos_token": "<|return|>"},
    },
    "llama2": {
        "model": "BPE",
        "options": SPM,
        "normalizer": in_turn("normalizers", {"type": "Prepend", "prepend": "▁"}, ESCAPE),
        "decoder": STRIPPING,
        "post_processor": template(["<s>"]),
        "added_tokens": LLAMA_SPECIAL,
        "config": {"eos_token": "</s>", "bos_token": "<s>", "add_bos_token": True, "add_eos_token": False},
    },
    "mistral": {
        "model": "BPE",
        "options": SPM,
        "pre_tokenizer": metaspace("first", split=False),
        "decoder": STRIPPING,
        "post_processor": template(["<s>"]),
        "added_tokens": LLAMA_SPECIAL + added(["[INST]", "[/INST]"]),
        "config": {"eos_token": "</s>", "bos_token": "<s>"},
    },
    "gemma": {
        "model": "BPE",
        "options": SPM,
        "normalizer": ESCAPE,
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"String": " "},
            "behavior": "MergedWithPrevious",
            "invert": False,
        },
        "decoder": SPM_DECODER,
        "post_processor": template(["<bos>"]),
        "added_tokens": added(["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"])
        + added(["\n\n", "\n\n\n", "▁▁", "▁▁▁", "<table>"], special=False),
        "config": {"eos_token": "<eos>", "bos_token": "<bos>"},
    },
    "bpe-with-unknown": {
        "model": "BPE",
        "options": {"fuse_unk": False, "unk_token": "<unk>", "byte_fallback": True},
        "without": BYTES[200:],
        "pre_tokenizer": metaspace("always", split=True),
        "decoder": SPM_DECODER,
        "added_tokens": LLAMA_SPECIAL,
        "config": {"eos_token": "</s>"},
    },
    "unigram": {
        "model": "Unigram",
        "pre_tokenizer": metaspace("always", split=True),
        "decoder": metaspace("always", split=True),
        "post_processor": template([], ["</s>"]),
        "added_tokens": added(["<pad>", "</s>", "<unk>"]) + added(["<extra_id_0>"], rstrip=True),
        "config": {"eos_token": "</s>", "additional_special_tokens": ["<extra_id_0>"]},
    },
    "unigram-with-bytes": {
        "model": "Unigram",
        "options": {"byte_fallback": True},
        "normalizer": in_turn("normalizers", {"type": "NFKC"}, ESCAPE),
        "decoder": SPM_DECODER,
        "added_tokens": LLAMA_SPECIAL,
        "config": {"eos_token": "</s>", "bos_token": "<s>"},
    },
    "bert": {
        "model": "WordPiece",
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "post_processor": template(["[CLS]"], ["[SEP]"]),
        "added_tokens": added(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]),
        "config": {"sep_token": "[SEP]", "cls_token": "[CLS]", "do_lower_case": True, "strip_accents": None},
    },
    "bert-cased": {
        "model": "WordPiece",
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": False,
            "strip_accents": None,
            "lowercase": False,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", "[SEP]"], "cls": ["[CLS]", "[CLS]"]},
        "added_tokens": added(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]),
        "config": {"sep_token": "[SEP]", "do_lower_case": False},
    },
    "flags": {  # no published model: ordinary added tokens with every flag
        "model": "BPE",
        "normalizer": in_turn("normalizers", {"type": "Lowercase"}, {"type": "NFC"}),
        "pre_tokenizer": in_turn(
            "pretokenizers",
            {"type": "Split", "pattern": {"Regex": r"\p{P}"}, "behavior": "MergedWithNext", "invert": False},
            {"type": "Digits", "individual_digits": False},
            {"type": "Split", "pattern": {"Regex": r"[^x]+"}, "behavior": "Removed", "invert": True},
            byte_level(True),
        ),
        "decoder": BYTE_LEVEL_DECODER,
        "added_tokens": added(["<end>"], lstrip=True, rstrip=True)
        + added(["THE", "apple"], special=False, normalized=True)
        + added(["app"], special=False, lstrip=True)
        + added(["self", "self."], special=False, rstrip=True),
        "config": {"eos_token": "<end>"},
    },
}


def filled_in(value: object, ids: dict[str, int]) -> object:
    """A post-processor with ids in place of the names that stand for them."""
    if isinstance(value, dict):
        return {
            key: [ids[name] for name in inner]
            if key == "ids"
            else [inner[0], ids[inner[1]]]
            if key in ("sep", "cls")
            else filled_in(inner, ids)
            for key, inner in value.items()
        }
    return [filled_in(inner, ids) for inner in value] if isinstance(value, list) else value


@cache
def file_of(name: str) -> dict:
    """The tokenizer.json of a family, trained on TEXTS."""
    family = FAMILIES[name]
    special, fallback = family["added_tokens"], family.get("options", {}).get("byte_fallback")
    trained = Tokenizer.from_str(json.dumps(shell(family)))
    names = [each["content"] for each in special]
    if family["model"] == "BPE":
        alphabet = pre_tokenizers.ByteLevel.alphabet() if "ByteLevel" in json.dumps(family) else []
        trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    elif family["model"] == "Unigram":
        unknown = {"unk_token": "<unk>"}
        trainer = trainers.UnigramTrainer(vocab_size=400, special_tokens=["<unk>"], show_progress=False, **unknown)
    else:
        trainer = trainers.WordPieceTrainer(vocab_size=500, show_progress=False)
    trained.train_from_iterator([text[:-1] for text in TEXTS], trainer)
    file = shell(family)
    learned = json.loads(trained.to_str())["model"]
    first = names + (BYTES if fallback else [])
    without = family.get("without", ())
    if family["model"] == "Unigram":
        vocab = [[text, 0.0] for text in first] + [each for each in learned["vocab"] if each[0] not in first]
        file["model"] |= {"vocab": vocab, "unk_id": names.index("<unk>")}
        ids = {text: i for i, (text, _) in enumerate(vocab)}
    else:
        texts = sorted(learned["vocab"], key=learned["vocab"].get)
        texts = [*first, *(text for text in texts if text not in first)]
        gone = {text for text in texts if set(text) & set(without) or text in without} - set(names)
        ids = {text: i for i, text in enumerate(text for text in texts if text not in gone)}
        file["model"]["vocab"] = ids
        if family["model"] == "BPE":
            pairs = [merge for merge in learned["merges"] if gone.isdisjoint([*merge, "".join(merge)])]
            file["model"]["merges"] = pairs
    file["added_tokens"] = [{"id": ids[each["content"]], **each} for each in special]
    file["added_tokens"].sort(key=lambda each: each["id"])
    file["post_processor"] = filled_in(family.get("post_processor"), ids)
    return file


def shell(family: dict) -> dict:
    """The file of a family without its vocabulary."""
    model = {
        "BPE": {"type": "BPE", "vocab": {}, "merges": []},
        "Unigram": {"type": "Unigram", "vocab": [["<unk>", 0.0]], "unk_id": 0},
        "WordPiece": {"type": "WordPiece", "vocab": {"[UNK]": 0}, "unk_token": "[UNK]"}
        | {"continuing_subword_prefix": "##", "max_input_chars_per_word": 100},
    }[family["model"]]
    options = {key: value for key, value in family.get("options", {}).items() if key != "unk_token"}
    file = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "post_processor": None}
    file |= {step: family.get(step) for step in ("normalizer", "pre_tokenizer", "decoder")}
    return file | {
        "model": {**model, **options, **{k: v for k, v in family.get("options", {}).items() if k == "unk_token"}}
    }


@cache
def reference(name: str, special: bool) -> Tokenizer:
    """The package's tokenizer; `special`: whether it finds special tokens in a text."""
    tokenizer = Tokenizer.from_str(json.dumps(file_of(name)))
    tokenizer.encode_special_tokens = not special
    return tokenizer


@cache
def characters() -> list[list[str]]:
    """Groups of characters: those of each plane, and some kinds; all that this Python's tables know."""
    known = [chr(code) for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code)) not in ("Cn", "Cs")]
    kinds = [
        [char for char in known if unicodedata.category(char) == kind] for kind in ("Mn", "Cc", "Cf", "Nd", "No", "Zs")
    ]
    planes = [[char for char in known if ord(char) >> 16 == plane] for plane in (0, 1, 2, 3, 14, 15, 16)]
    return [*kinds, *(plane for plane in planes if plane), list("abcdefthe ET  '.,!?-_#<|>[]/0123456789\n\t")] * 1


PARTS = [
    *(
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
        "<s>",
        "</s>",
        "<unk>",
        "<think>",
        "</think>",
        "<|end|>",
        "<0x41>",
    ),
    *(
        "<|eot_id|>",
        "[INST]",
        "[/INST]",
        "[CLS]",
        "[SEP]",
        "[UNK]",
        "[MASK]",
        "<mask>",
        "<extra_id_0>",
        "<end>",
        "<bos>",
    ),
    *(
        "<start_of_turn>",
        "<|im_",
        "start|>",
        "<|",
        "|>",
        "##",
        "##a",
        "▁",
        "▁▁",
        "▁▁▁",
        "▁the",
        " ▁ ",
        "<table>",
        "<pad>",
    ),
    *("  ", "   ", "    ", "\t\t", "\n", "\n\n", "\n\n\n", "\r\n", " \n ", "\x00", "\x1c", "\x85", "\u3000", "\u2028"),
    *(
        "the",
        " the",
        "The",
        "THE",
        "apple",
        "app",
        "self.",
        "apples",
        "hedgehog",
        " hedgehog's",
        "I'LL",
        "'S",
        "'\u017f",
        "don't",
    ),
    *(
        "1234",
        "12",
        " 3",
        "½",
        "²",
        "Ⅷ",
        "e\u0301",
        "\u0301",
        "\u0327\u0301",
        "é",
        "ﬁ",
        "ß",
        "İ",
        "Σ",
        "ΑΣ",
        "한국",
        "漢字",
        "かな",
    ),
    *(
        "🦔",
        "🦔\u200d🦔",
        "\U0001f1e9\U0001f1ea",
        "👍🏽",
        "\ufeff",
        "\ufffd",
        "\u200b",
        "\xa0",
        "\U00040000",
        "\U0010ffff",
        "हिन्दी",
        "العربية",
    ),
    *("x" * 101, "the" * 40, "aaaaaaa", "_a_", "http://", "==>", "...", "!!!", "x", "xx"),
]


def random_text(generator: random.Random) -> str:
    """A string of known parts and of characters from everywhere."""
    groups = characters()
    parts = []
    for _ in range(generator.randint(0, 9)):
        if generator.random() < 0.5:
            parts.append(generator.choice(PARTS))
        else:
            group = generator.choice(groups)
            parts.append("".join(generator.choice(group) for _ in range(generator.randint(1, 4))))
    return "".join(parts)
