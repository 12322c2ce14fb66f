"""Byte-pair encoding: start from bytes, and repeatedly turn the most frequent pair of neighbors into one new symbol.

    merge_i = argmax over pairs (x, y) of count(x y in the training words, after merges 1 ... i-1);  stop below count 2

Of equally frequent pairs the first in byte order wins, so the result depends neither on the order of documents nor on a
hash table. To encode a word, apply the merges in the order learned, and each one from the left. Gage 1994 ("A New
Algorithm for Data Compression"); for translation Sennrich et al. 2016; on bytes GPT-2 (Radford et al. 2019).

Read before: `pretokenize`, since no merge crosses a word, and lessons/bpe.py, the same two algorithms in plain lines.
Ids: 0 ... 255 are the bytes, then the merges in order, END last. GPT-2's own files keep their ids.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from heapq import heapify, heappop, heappush
from itertools import pairwise
from pathlib import Path
from typing import Self

from minillm.tokenizers.pretokenize import WordCache, count_words
from minillm.tokenizers.tokenizer import END, Tokenizer, join_pieces

Pair = tuple[bytes, bytes]
BYTES = [bytes([byte]) for byte in range(256)]
NO_MERGE = (-1, -1)  # the rank and the token of a pair that is never merged


def merge_pair(symbols: list[bytes], pair: Pair) -> list[bytes]:
    """Join each occurrence of the pair, from the left.

    >>> merge_pair([b"a", b"a", b"a"], (b"a", b"a"))
    [b'aa', b'a']
    """
    merged, i = [], 0
    while i < len(symbols):
        n = 2 if i + 1 < len(symbols) and (symbols[i], symbols[i + 1]) == pair else 1
        merged.append(b"".join(symbols[i : i + n]))
        i += n
    return merged


def learn_merges(word_counts: Counter[str], n_merges: int) -> list[Pair]:
    """At most `n_merges` pairs in the order learned; fewer if no pair occurs twice any more.

    Counts are updated, not recomputed: a merge changes only the words that contain its pair, listed in `words_with`.
    The heap holds (-count, pair) for every count that a pair has had; stale entries are skipped. A merge costs the
    length of those words, so learning from a text of one enormous word is slow.

    >>> learn_merges(Counter({"abab": 3, "abc": 1}), 2)
    [(b'a', b'b'), (b'ab', b'ab')]
    """
    words = [[BYTES[byte] for byte in word.encode()] for word in word_counts]
    weights = list(word_counts.values())
    counts: Counter[Pair] = Counter()
    words_with: defaultdict[Pair, set[int]] = defaultdict(set)
    for w, symbols in enumerate(words):
        for pair in pairwise(symbols):
            counts[pair] += weights[w]
            words_with[pair].add(w)
    heap = [(-count, pair) for pair, count in counts.items()]
    heapify(heap)
    merges: list[Pair] = []
    while heap and len(merges) < n_merges:
        negative, pair = heappop(heap)
        if counts[pair] != -negative:
            continue
        if counts[pair] < 2:
            break
        merges.append(pair)
        changed = set()
        for w in words_with.pop(pair):
            old, new = words[w], merge_pair(words[w], pair)
            for each in pairwise(old):
                counts[each] -= weights[w]
                words_with[each].discard(w)
            for each in pairwise(new):
                counts[each] += weights[w]
                words_with[each].add(w)
            changed.update(pairwise(old), pairwise(new))
            words[w] = new
        for each in changed:
            heappush(heap, (-counts[each], each))
    return merges


def apply_merges(tokens: Sequence[int], merge_of: Mapping[tuple[int, int], tuple[int, int]]) -> list[int]:
    """Merge pairs of neighbors in the order (rank, place) until none is left; `merge_of`: pair -> rank, merged token.

    It takes O(n log n), since a word may be long. A symbol is stored at the place of its first token; the other places
    are None. `after` and `before` link the symbols. Place n, also reached as -1, is the border on both sides and holds
    None, so it belongs to no pair.

    >>> apply_merges([7, 7, 7, 8], {(7, 7): (1, 9), (7, 8): (0, 10)})
    [9, 10]
    """
    n = len(tokens)
    symbols: list[int | None] = [*tokens, None]
    after, before = [*range(1, n + 1), n], list(range(-1, n))
    heap = [(merge_of[pair][0], place) for place, pair in enumerate(pairwise(symbols)) if pair in merge_of]
    heapify(heap)
    while heap:
        rank, place = heappop(heap)
        following = after[place]
        now, merged = merge_of.get((symbols[place], symbols[following]), NO_MERGE)
        if now != rank:
            continue  # stale: one of the two has been merged with another symbol
        symbols[place], symbols[following] = merged, None
        after[place] = after[following]
        before[after[place]] = place
        for left in (before[place], place):
            pair = symbols[left], symbols[after[left]]
            if pair in merge_of:
                heappush(heap, (merge_of[pair][0], left))
    return [symbol for symbol in symbols if symbol is not None]


@cache
def gpt2_alphabet() -> dict[str, int]:
    """GPT-2's printable character for each byte: itself if it is printable, else one from U+0100 on, in order."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


@cache
def characters_of_bytes() -> list[str]:
    """The inverse of `gpt2_alphabet`: byte -> character."""
    return sorted(gpt2_alphabet(), key=gpt2_alphabet().__getitem__)


def printable(piece: bytes) -> str:
    """A piece in GPT-2's printable characters.

    >>> printable(b" low")
    'Ġlow'
    """
    return "".join(map(characters_of_bytes().__getitem__, piece))


class BPETokenizer(Tokenizer):
    """Byte-level BPE. `pieces`: the bytes of each id (END's are empty); `merges`: pairs of pieces in the order learned.

    The concatenation of a merge's pair is a piece too.

    >>> tokenizer = BPETokenizer.train(["low lower lowest low low"], vocab_size=260)
    >>> tokenizer.merges
    [(b'l', b'o'), (b'lo', b'w'), (b' ', b'low')]
    >>> tokenizer.encode("a low slow"), tokenizer.decode([97, 258])
    ([97, 258, 32, 115, 257], 'a low')
    """

    def __init__(self, pieces: list[bytes], merges: list[Pair], end_id: int):
        self.pieces, self.merges = pieces, merges
        self.vocab_size = len(pieces)
        self.special_tokens = {END: end_id}
        self.token_of = {piece: token for token, piece in enumerate(pieces)}
        for needed in [*BYTES, *(piece for left, right in merges for piece in (left, right, left + right))]:
            if needed not in self.token_of:
                raise ValueError(
                    f"pieces lack {needed!r}: expected each byte, and the parts and the whole of each merge; "
                    "take whole files"
                )
        self.byte_tokens = [self.token_of[byte] for byte in BYTES]
        self.merge_of = {
            (self.token_of[left], self.token_of[right]): (rank, self.token_of[left + right])
            for rank, (left, right) in enumerate(merges)
        }
        self.cache = WordCache(self._encode_word)

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> Self:
        """Learn at most `vocab_size` ids, bytes and END included. Raises ValueError below 257."""
        if vocab_size < 257:
            raise ValueError(f"vocab_size = {vocab_size}: expected at least 257, the bytes and END; ask for more")
        merges = learn_merges(count_words(texts), vocab_size - 257)
        pieces = [*BYTES, *(left + right for left, right in merges), b""]
        return cls(pieces, merges, end_id=len(pieces) - 1)

    @classmethod
    def from_gpt2(cls, vocab_json: str | Path, merges_txt: str | Path) -> Self:
        """Read `vocab.json` and `merges.txt` of GPT-2's format, with their ids; "<|endoftext|>" is END.

        Raises ValueError for files of another kind.
        """
        token_of = json.loads(Path(vocab_json).read_text(encoding="utf-8"))
        if sorted(token_of.values()) != list(range(len(token_of))):
            raise ValueError(
                f"{vocab_json}: expected the ids 0 ... {len(token_of) - 1}, each once; take the file as published"
            )
        if "<|endoftext|>" not in token_of:
            raise ValueError(
                f"{vocab_json}: expected the piece '<|endoftext|>' that ends a document; add it, with the next free id"
            )
        end_id = token_of["<|endoftext|>"]
        alphabet = gpt2_alphabet()

        def to_bytes(piece: str) -> bytes:
            if not set(piece) <= alphabet.keys():
                raise ValueError(
                    f"piece {piece!r}: expected byte-level pieces, as GPT-2 writes them; "
                    "this is another kind of tokenizer"
                )
            return bytes(alphabet[char] for char in piece)

        pieces = [
            b"" if token == end_id else to_bytes(piece)
            for piece, token in sorted(token_of.items(), key=lambda item: item[1])
        ]
        first, *lines = Path(merges_txt).read_text(encoding="utf-8").split("\n")
        if not first.startswith("#version:"):  # it cannot be a merge: the first one joins two single characters
            lines = [first, *lines]
        pairs = [line.split(" ") for line in lines if line]
        wrong = next((pair for pair in pairs if len(pair) != 2 or "" in pair), None)
        if wrong:
            raise ValueError(
                f"{merges_txt}: {' '.join(wrong)!r}: expected two pieces and a space between; "
                "take the file as published"
            )
        return cls(pieces, [(to_bytes(left), to_bytes(right)) for left, right in pairs], end_id)

    def encode(self, text: str) -> list[int]:
        return self.cache.encode(text)

    def _encode_word(self, word: str) -> list[int]:
        return apply_merges([self.byte_tokens[byte] for byte in word.encode()], self.merge_of)

    def decode_bytes(self, tokens: Sequence[int]) -> bytes:
        return join_pieces(self.pieces, tokens)

    def to_dict(self) -> dict:
        """Pieces in GPT-2's printable alphabet, merges as pairs of ids."""
        return {
            "kind": "bpe",
            "pieces": list(map(printable, self.pieces)),
            "merges": [[self.token_of[left], self.token_of[right]] for left, right in self.merges],
            "end_id": self.end_id,
        }

    @classmethod
    def from_dict(cls, d: dict) -> Self:
        alphabet = gpt2_alphabet()
        pieces = [bytes(alphabet[char] for char in piece) for piece in d["pieces"]]
        return cls(pieces, [(pieces[left], pieces[right]) for left, right in d["merges"]], d["end_id"])
