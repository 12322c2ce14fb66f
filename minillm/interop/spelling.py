"""Spelling: the tokens of a conversation as one string, from which the same tokens can be read again.

Our tokenizers never read a special token in a text, but some programs pass conversations on as strings. So the name of
a special token is written between two noncharacters of Unicode, which are kept for internal use and stand in no text
(Unicode Corrigendum 9, 2013). Read before: `tokenizers/chat.py`.
"""

import re
from collections.abc import Sequence
from itertools import groupby

from minillm.tokenizers.tokenizer import Tokenizer

LEFT, RIGHT = "\ufdd0", "\ufdd1"


def spell(tokenizer: Tokenizer, tokens: Sequence[int]) -> str:
    """The text of ids, with the names of the special ones between LEFT and RIGHT.

    >>> from minillm.tokenizers.byte import ByteTokenizer
    >>> string = spell(ByteTokenizer(), [256, *b"Hi"])
    >>> string.replace(LEFT, "[").replace(RIGHT, "]"), unspell(ByteTokenizer(), string)
    ('[<|end|>]Hi', ['', 256, 'Hi'])
    """
    names = {token: name for name, token in tokenizer.special_tokens.items()}
    pieces = []
    for name, group in groupby(tokens, names.get):
        ids = list(group)
        pieces.append(tokenizer.decode(ids) if name is None else f"{LEFT}{name}{RIGHT}" * len(ids))
    return "".join(pieces)


def unspell(tokenizer: Tokenizer, string: str) -> list[str | int]:
    """Texts and special ids by turns, text first and last, for `Tokenizer.encode_parts`."""
    names = "|".join(map(re.escape, tokenizer.special_tokens))
    parts = re.split(f"{LEFT}({names}){RIGHT}", string)
    return [tokenizer.special_tokens[part] if i % 2 else part for i, part in enumerate(parts)]
