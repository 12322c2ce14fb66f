"""An extended tokenizer: another tokenizer, and added tokens with the ids after its own.

A model that learns to converse needs tokens that mark who speaks, which the tokenizer of its pre-training does not
have. Their ids follow those of the base, so that every text keeps its ids, and a model keeps its rows and gets new
ones. Special tokens never come from text. Ordinary ones, such as <think>, do: they are found before the base reads the
text between them. A space after a special token belongs to it, and is left out of the text (see `role_template`). Read
before: `tokenizer`, `added_tokens`.
"""

from collections.abc import Iterable, Sequence

from minillm.tokenizers.added_tokens import AddedToken, AddedTokens
from minillm.tokenizers.tokenizer import Tokenizer, join_pieces


class ExtendedTokenizer(Tokenizer):
    """A base tokenizer and added tokens.

    >>> from minillm.tokenizers.byte import ByteTokenizer
    >>> tokenizer = ExtendedTokenizer(ByteTokenizer(), special=["<|user|>"], ordinary=["<think>"])
    >>> tokenizer.encode("a<think><|user|>")[:3], tokenizer.special_tokens
    ([97, 258, 60], {'<|end|>': 256, '<|user|>': 257})
    """

    def __init__(
        self, base: Tokenizer, special: Iterable[str] = (), ordinary: Iterable[str] = (), stops: Iterable[str] = ()
    ):
        """`stops`: special tokens that end a completion. Raises ValueError for a name that the base has already."""
        names = [(name, True) for name in special] + [(name, False) for name in ordinary]
        for i, (name, _) in enumerate(names):
            if name in base.special_tokens or name in [other for other, _ in names[:i]]:
                raise ValueError(f"added token {name!r}: expected a name that is not taken; rename or leave it out")
        self.base = base
        added = [AddedToken(base.vocab_size + i, name, is_special) for i, (name, is_special) in enumerate(names)]
        self.added = AddedTokens(added, str)
        self.vocab_size = base.vocab_size + len(added)
        self.special_tokens = base.special_tokens | self.added.special
        self.opening, self.closing, self.lossless = base.opening, base.closing, base.lossless
        self.stops = tuple(stops)
        self.stop_ids = base.stop_ids | {self.added.special[name] for name in self.stops}
        self.texts = [b"" if each.special else each.text.encode() for each in added]

    @property
    def end_id(self) -> int:
        return self.base.end_id

    def encode(self, text: str) -> list[int]:
        parts = self.added.split(text) or [""]
        return [token for part in parts for token in ([part] if isinstance(part, int) else self.base.encode(part))]

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        plain = [i for i, text in enumerate(texts) if all(isinstance(part, str) for part in self.added.split(text))]
        found = dict(zip(plain, self.base.encode_many([texts[i] for i in plain]), strict=True))
        return [found[i] if i in found else self.encode(text) for i, text in enumerate(texts)]

    def decode_bytes(self, tokens: Sequence[int]) -> bytes:
        pieces, own, mark = [], [], None
        for token in tokens:
            if not self.base.vocab_size <= token < self.vocab_size:
                own.append(token)
                continue
            pieces += [self._own_bytes(own, mark), self.piece(token)]
            own, mark = [], token
        return b"".join([*pieces, self._own_bytes(own, mark)])

    def piece(self, token: int, before: int | None = None) -> bytes:
        """See `Tokenizer.piece`."""
        if self.base.vocab_size <= token < self.vocab_size:
            return join_pieces(self.texts, [token - self.base.vocab_size])
        return self._own_bytes([token], before)

    def _own_bytes(self, tokens: Sequence[int], before: int | None) -> bytes:
        data = self.base.decode_bytes(tokens)
        return data.removeprefix(b" ") if before in self.added.special.values() else data

    def to_dict(self) -> dict:
        return {
            "kind": "extended",
            "base": self.base.to_dict(),
            "special": [each.text for each in self.added.tokens if each.special],
            "ordinary": [each.text for each in self.added.tokens if not each.special],
            "stops": list(self.stops),
        }
