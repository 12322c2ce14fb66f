r"""WordPiece: greedy longest match from the left, with pieces learned by the score of their pairs (BERT's tokenizer).

    score(x, y) = count(x y) / (count(x) count(y))        the pair that is more frequent than its parts let one expect

Schuster and Nakajima 2012 ("Japanese and Korean Voice Search"); Devlin et al. 2019. A piece that continues a word is
written with ## before it. Each step of training merges the pair with the highest score, of equals the first in order;
a pair must occur twice. To encode, take the longest piece that begins the word, then the longest that begins the
rest. A word that cannot be finished becomes [UNK], whole. What BERT's words drop (`bert_words`: case, accents, spaces,
newlines) does not come back, so it is not lossless: decoded words have a space before each. Read before:
lessons/wordpiece.py, the same in plain lines.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from heapq import heapify, heappop, heappush
from itertools import pairwise
from typing import Any, ClassVar, Self

from minillm.tokenizers.added_tokens import AddedToken
from minillm.tokenizers.imported import ImportedTokenizer, Pipeline
from minillm.tokenizers.text_steps import NORMALIZERS, SPLITTERS, build
from minillm.tokenizers.tokenizer import END, no_text_error, to_utf8

CONTINUES = "##"
UNKNOWN = "[UNK]"
LONGEST = 100  # characters of a word; a longer one is unknown
BERT_STEPS = {
    "normalizers": (
        {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
    ),
    "splitters": ({"type": "BertPreTokenizer"},),
}

Pair = tuple[str, str]


def count_words(texts: Iterable[str]) -> Counter[str]:
    """Count BERT's words of the training texts. Raises ValueError if there are none."""
    [normalize] = build(BERT_STEPS["normalizers"], NORMALIZERS, "normalizer")
    [split] = build(BERT_STEPS["splitters"], SPLITTERS, "pre_tokenizer")
    counts: Counter[str] = Counter()
    for text in texts:
        to_utf8(text)  # raises ValueError for a lone surrogate
        counts.update(word for word in split(normalize(text), True) if len(word) <= LONGEST)
    if not counts:
        raise no_text_error()
    return counts


def symbols_of(word: str) -> list[str]:
    """The characters of a word, all but the first marked as continuing it.

    >>> symbols_of("low")
    ['l', '##o', '##w']
    """
    return [char if i == 0 else CONTINUES + char for i, char in enumerate(word)]


def join(left: str, right: str) -> str:
    """The piece of two neighbors.

    >>> join("lo", "##w"), join("##o", "##w")
    ('low', '##ow')
    """
    return left + right.removeprefix(CONTINUES)


def merge_pair(symbols: list[str], pair: Pair) -> list[str]:
    """Join each occurrence of the pair, from the left."""
    merged, i = [], 0
    while i < len(symbols):
        n = 2 if tuple(symbols[i : i + 2]) == pair else 1
        merged.append(join(*pair) if n == 2 else symbols[i])
        i += n
    return merged


def learn_pieces(word_counts: Counter[str], n_pieces: int) -> list[str]:
    """At most `n_pieces` merged pieces in the order learned; fewer if no pair occurs twice any more.

    A merge changes the counts of the two symbols, and so the scores of all pairs that contain one of them: those pairs
    enter the heap again, with their new scores, and stale entries are skipped.

    >>> learn_pieces(Counter({"hug": 10, "pug": 5, "pun": 12, "bun": 4, "hugs": 5}), 3)
    ['##gs', '##ug', '##ugs']
    """
    words = [symbols_of(word) for word in word_counts]
    weights = list(word_counts.values())
    singles: Counter[str] = Counter()
    counts: Counter[Pair] = Counter()
    words_with: defaultdict[Pair, set[int]] = defaultdict(set)
    pairs_with: defaultdict[str, set[Pair]] = defaultdict(set)

    def add(w: int, sign: int) -> None:
        """Count the symbols and pairs of a word, or with sign -1 take them back."""
        for symbol in words[w]:
            singles[symbol] += sign * weights[w]
        for pair in pairwise(words[w]):
            counts[pair] += sign * weights[w]
            (words_with[pair].add if sign > 0 else words_with[pair].discard)(w)
            for symbol in pair:
                pairs_with[symbol].add(pair)

    def scored(pairs: Iterable[Pair]) -> list[tuple[float, Pair]]:
        return [(-counts[x, y] / (singles[x] * singles[y]), (x, y)) for x, y in pairs if counts[x, y] >= 2]

    for w in range(len(words)):
        add(w, 1)
    heap = scored(counts)
    heapify(heap)
    learned: dict[str, None] = {}  # two pairs may make the same piece
    while heap and len(learned) < n_pieces:
        best = heappop(heap)
        if scored([best[1]]) != [best]:
            continue  # stale
        learned[join(*best[1])] = None
        for w in list(words_with[best[1]]):
            add(w, -1)
            words[w] = merge_pair(words[w], best[1])
            add(w, 1)
        changed = set().union(*(pairs_with[symbol] for symbol in (*best[1], join(*best[1]))))
        for each in scored(changed):
            heappush(heap, each)
    return list(learned)


class WordPieceTokenizer(ImportedTokenizer):
    """`texts`: the piece of each id, ## before those that continue a word; None for a hole. `unknown`: id of [UNK].

    [UNK] is no special token, since text yields it; it decodes to its name. Raises ValueError.

    >>> tokenizer = WordPieceTokenizer.train(["Hug pug, pun bun hugs hug hug"], vocab_size=18)
    >>> tokens = tokenizer.encode("Hugs, HÚG cat")
    >>> [tokenizer.texts[token] for token in tokens], tokenizer.decode(tokens)
    (['hug', '##s', ',', 'hug', '[UNK]'], ' hugs , hug [UNK]')
    """

    kind: ClassVar[str] = "wordpiece"

    def __init__(self, texts: Sequence[str | None], pipeline: Pipeline, unknown: int, longest: int = LONGEST):
        self.texts, self.longest = list(texts), longest
        pieces = [text and (" " + text if text[:2] != CONTINUES else text[2:]).encode() for text in texts]
        super().__init__(pieces, pipeline, unknown)
        forbidden = {None, *(texts[token] for token in (*self.never, unknown) if token < len(texts))}
        self.token_of = {text: token for token, text in enumerate(texts) if text not in forbidden}
        self.widest = max(map(len, self.token_of), default=0)

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> Self:
        """Learn at most `vocab_size` ids, END and [UNK] included, from BERT's words in lower case.

        At most half of them are single characters; words with rarer ones are unknown. Raises ValueError below 4.
        """
        if vocab_size < 4:
            raise ValueError(f"vocab_size = {vocab_size}: expected at least 4, [UNK], END and two pieces; ask for more")
        counts = count_words(texts)
        frequency: Counter[str] = Counter()
        for word, n in counts.items():
            for symbol in symbols_of(word):
                frequency[symbol] += n
        by_frequency = sorted(frequency, key=lambda symbol: (-frequency[symbol], symbol))
        alphabet = set(by_frequency[: max(1, (vocab_size - 2) // 2)])
        known = Counter({word: n for word, n in counts.items() if alphabet.issuperset(symbols_of(word))})
        learned = learn_pieces(known, vocab_size - 2 - len(alphabet))
        pieces = [UNKNOWN, *sorted(alphabet), *learned, END]
        end_id = len(pieces) - 1
        return cls(pieces, Pipeline(end_id, (AddedToken(end_id, END),), opening=None, **BERT_STEPS), unknown=0)

    def segment(self, word: str) -> list[int]:
        tokens, begin = [], 0
        while begin < len(word) <= self.longest:
            mark = CONTINUES if begin else ""
            ends = range(min(len(word), begin + self.widest), begin, -1)
            end = next((end for end in ends if mark + word[begin:end] in self.token_of), None)
            if end is None:
                return [self.unknown]
            tokens.append(self.token_of[mark + word[begin:end]])
            begin = end
        return tokens or [self.unknown]

    def to_dict(self) -> dict:
        return super().to_dict() | {"texts": self.texts, "longest": self.longest}

    @classmethod
    def from_dict(cls, d: dict[str, Any]) -> Self:
        return cls(d["texts"], Pipeline.from_dict(d["pipeline"]), d["unknown"], d["longest"])
