"""Unigram tokenizer: every piece has a probability, and a word gets its most probable segmentation (Kudo 2018).

    P(x) = product of p(piece) over the pieces of segmentation x        P(word) = sum of P(x) over all segmentations x

Training starts from too many pieces, the frequent substrings, and alternates two steps: expectation-maximization fits p
to unsegmented words (p(piece) is proportional to its expected count, by forward-backward), and pruning removes the
pieces whose loss costs the least likelihood. `encode` is Viterbi. `sample` draws a segmentation with probability
proportional to P(x)^alpha (forward sums, backward draws), so that a model sees a word in several spellings (subword
regularization). Pieces are byte strings; the 256 bytes are always among them, so every string has a segmentation.
Learned pieces consist of whole characters within a word. Ids: the bytes, pieces by falling probability, END last. Read
before: `pretokenize`.
"""

import base64
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Self

import numpy as np
import torch

from minillm.tokenizers.pretokenize import WordCache, count_words, split_words
from minillm.tokenizers.tokenizer import END, Tokenizer, join_pieces, to_utf8

BYTES = [bytes([byte]) for byte in range(256)]
LONGEST = 16  # characters of a learned piece
SEEDS = 8  # pieces at the start for each final one
KEEP = 0.75  # share of the pieces that remain after a pruning
EM_STEPS = 2  # between prunings
FLOOR = math.log(1e-9)  # least log probability of a byte, so that it remains possible


class PieceModel:
    """Segmentations of one word. logprobs: piece -> log p(piece).

    >>> model = PieceModel({b"a": -2.0, b"b": -2.0, b"ab": -3.0})
    >>> model.viterbi(b"abb")
    ([b'ab', b'b'], -5.0)
    """

    def __init__(self, logprobs: dict[bytes, float]):
        self.logprobs = logprobs
        self.longest = max(map(len, logprobs))

    def arcs_into(self, word: bytes, end: int) -> Iterator[tuple[int, float]]:
        """Yield (start, log p) of every piece that ends at `end`, the longest first."""
        for start in range(max(0, end - self.longest), end):
            logprob = self.logprobs.get(word[start:end])
            if logprob is not None:
                yield start, logprob

    def viterbi(self, word: bytes) -> tuple[list[bytes], float]:
        """The most probable segmentation and its log P; among equals, the one with the longest last piece."""
        best, back = [0.0], [0]
        for end in range(1, len(word) + 1):
            score, start = max(
                ((best[start] + logprob, -start) for start, logprob in self.arcs_into(word, end)),
                default=(-math.inf, 0),
            )
            best.append(score)
            back.append(-start)
        pieces, end = [], len(word)
        while end:
            pieces.append(word[back[end] : end])
            end = back[end]
        return pieces[::-1], best[-1]

    def forward(self, word: bytes, alpha: float = 1.0) -> list[float]:
        """For each place: the log of the sum of P(x)^alpha over all segmentations x of the bytes before it."""
        sums = [0.0]
        for end in range(1, len(word) + 1):
            sums.append(
                np.logaddexp.reduce([sums[start] + alpha * logprob for start, logprob in self.arcs_into(word, end)])
            )
        return sums

    def sample(self, word: bytes, alpha: float, generator: torch.Generator) -> list[bytes]:
        """A segmentation x with probability P(x)^alpha / sum, drawn from the last piece to the first."""
        sums = self.forward(word, alpha)
        pieces, end = [], len(word)
        while end:
            arcs = list(self.arcs_into(word, end))
            weights = torch.tensor(
                [sums[start] + alpha * logprob - sums[end] for start, logprob in arcs], dtype=torch.float64
            ).exp()
            start, _ = arcs[int(torch.multinomial(weights, 1, generator=generator))]
            pieces.append(word[start:end])
            end = start
        return pieces[::-1]


class Lattice:
    """All segmentations of all training words at once, as arrays of arcs: the input of one EM step.

    Places are numbered through all words. Arc i is the piece `piece[i]` from place `start[i]` to place `end[i]`. Sums
    over paths go place by place within the word, for all words together.
    """

    def __init__(self, word_counts: dict[bytes, int], pieces: list[bytes]):
        index_of = {piece: index for index, piece in enumerate(pieces)}
        longest = max(map(len, pieces))
        words = list(word_counts)
        self.weights = np.array(list(word_counts.values()), dtype=np.float64)  # (words,)
        lengths = np.array([len(word) for word in words])
        self.last = np.cumsum(lengths + 1) - 1  # the place after each word
        self.first = self.last - lengths
        arcs = [
            (first + i, first + j, index, w)
            for w, (word, first) in enumerate(zip(words, self.first.tolist(), strict=True))
            for i in range(len(word))
            for j in range(i + 1, min(i + longest, len(word)) + 1)
            if (index := index_of.get(word[i:j])) is not None
        ]
        self.start, self.end, self.piece, self.word = np.array(arcs, dtype=np.int64).reshape(-1, 4).T
        self.n_pieces, self.length = len(pieces), int(lengths.max(initial=0))
        self._order()

    def _order(self) -> None:
        """Group arcs by the distance of their end (start) from the beginning of their word."""
        self.by_end, self.by_start = (
            np.split(
                order := np.argsort(depth, kind="stable"), np.searchsorted(depth[order], range(1, self.length + 1))
            )
            for depth in (self.end - self.first[self.word], self.start - self.first[self.word])
        )

    def keep(self, alive: np.ndarray) -> None:
        """Drop the arcs of pruned pieces; `alive` is a mask (n_pieces,)."""
        mask = alive[self.piece]
        self.start, self.end = self.start[mask], self.end[mask]
        self.piece, self.word = self.piece[mask], self.word[mask]
        self._order()

    def expected_counts(self, logprobs: np.ndarray) -> tuple[np.ndarray, float]:
        """Expected count of each piece over all segmentations, (n_pieces,), and log P of the training words.

        The share  forward(i) p(piece) backward(j) / P(word)  of a word's segmentations has the piece from i to j.
        """
        scores = logprobs[self.piece]
        forward = np.full(int(self.last[-1]) + 1, -np.inf)
        backward = forward.copy()
        forward[self.first] = backward[self.last] = 0.0
        for arcs in self.by_end:
            np.logaddexp.at(forward, self.end[arcs], forward[self.start[arcs]] + scores[arcs])
        for arcs in reversed(self.by_start):
            np.logaddexp.at(backward, self.start[arcs], scores[arcs] + backward[self.end[arcs]])
        of_word = forward[self.last]
        share = np.exp(forward[self.start] + scores + backward[self.end] - of_word[self.word])
        counts = np.bincount(self.piece, weights=self.weights[self.word] * share, minlength=self.n_pieces)
        return counts, float(self.weights @ of_word)


def normalize(counts: np.ndarray) -> np.ndarray:
    """The M step: log of each count's share. An unused piece gets -inf."""
    with np.errstate(divide="ignore"):
        return np.log(counts / counts.sum())


def seed_pieces(word_counts: Counter[str], n_pieces: int) -> list[bytes]:
    """The `n_pieces` substrings with the largest count * length, among those longer than a byte that occur twice."""
    counts: Counter[str] = Counter()
    for word, count in word_counts.items():
        for i in range(len(word)):
            for j in range(i + 1, min(i + LONGEST, len(word)) + 1):
                counts[word[i:j]] += count
    cover = {
        piece.encode(): count * len(piece)
        for piece, count in counts.items()
        if count > 1 and (len(piece) > 1 or not piece.isascii())
    }
    return sorted(cover, key=lambda piece: (-cover[piece], piece))[:n_pieces]


def learn_pieces(word_counts: Counter[str], n_pieces: int) -> dict[bytes, float]:
    """log p of the 256 bytes and of at most `n_pieces` learned pieces."""
    pieces = BYTES + seed_pieces(word_counts, SEEDS * n_pieces)
    lattice = Lattice({word.encode(): word_counts[word] for word in sorted(word_counts)}, pieces)
    learned = np.arange(len(pieces)) >= 256
    logprobs = normalize(np.bincount(lattice.piece, minlength=len(pieces)) + 1.0)
    while True:
        for _ in range(EM_STEPS):
            counts, _ = lattice.expected_counts(logprobs)
            logprobs = normalize(counts)
        logprobs = np.where(learned, logprobs, np.maximum(logprobs, FLOOR))
        remaining = np.flatnonzero(learned & (logprobs > FLOOR))
        n_keep = min(len(remaining), max(n_pieces, int(KEEP * len(remaining))))
        model = PieceModel({pieces[i]: float(logprobs[i]) for i in [*range(256), *remaining]})
        if n_keep == len(remaining):
            return model.logprobs
        loss = [counts[i] * (logprobs[i] - logprob_without(model, pieces[i])) for i in remaining]
        kept = remaining[np.argsort(-np.array(loss), kind="stable")[:n_keep]]
        alive = ~learned
        alive[kept] = True
        lattice.keep(alive)


def logprob_without(model: PieceModel, piece: bytes) -> float:
    """log P of the best replacement of a piece, if it is pruned; its loss times its count is about its likelihood."""
    logprob = model.logprobs.pop(piece)
    _, replacement = model.viterbi(piece)
    model.logprobs[piece] = logprob
    return replacement


class UnigramTokenizer(Tokenizer):
    """`logprobs`: log probability of each piece in the order of ids, the 256 bytes among them. Raises ValueError."""

    def __init__(self, logprobs: dict[bytes, float]):
        missing = [byte for byte in BYTES if byte not in logprobs]
        if missing:
            raise ValueError(
                f"logprobs lack {missing[0]!r}: expected every byte among the pieces; "
                "build it with UnigramTokenizer.train"
            )
        self.model = PieceModel(logprobs)
        self.pieces = [*logprobs, b""]
        self.token_of = {piece: token for token, piece in enumerate(logprobs)}
        self.vocab_size = len(self.pieces)
        self.special_tokens = {END: len(logprobs)}
        self.cache = WordCache(lambda word: [self.token_of[piece] for piece in self.model.viterbi(word.encode())[0]])

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> Self:
        """Learn at most `vocab_size` ids, bytes and END included. Raises ValueError below 257."""
        if vocab_size < 257:
            raise ValueError(f"vocab_size = {vocab_size}: expected at least 257, the bytes and END; ask for more")
        logprobs = learn_pieces(count_words(texts), vocab_size - 257)
        # subtle: of up to 14 digits, every reader of JSON makes the same number, and so breaks ties in the same way
        logprobs = {piece: round(logprob, 12) for piece, logprob in logprobs.items()}
        by_probability = sorted(logprobs.items(), key=lambda item: (-item[1], item[0]))
        return cls({byte: logprobs[byte] for byte in BYTES} | dict(by_probability))

    def encode(self, text: str) -> list[int]:
        return self.cache.encode(text)

    def sample(self, text: str, alpha: float, generator: torch.Generator) -> list[int]:
        """Ids of a random segmentation, each x with probability proportional to P(x)^alpha. Raises ValueError.

        alpha = 0 gives all segmentations the same probability, 1 is the model's own distribution, a large alpha is
        `encode`.
        """
        if not 0 <= alpha < math.inf:
            raise ValueError(f"alpha = {alpha}: expected a number from 0 on; for the best segmentation take encode")
        to_utf8(text)  # raises ValueError for a lone surrogate
        return [
            self.token_of[piece]
            for word in split_words(text)
            for piece in self.model.sample(word.encode(), alpha, generator)
        ]

    def decode_bytes(self, tokens: Sequence[int]) -> bytes:
        return join_pieces(self.pieces, tokens)

    def to_dict(self) -> dict:
        learned = self.pieces[256:-1]
        return {
            "kind": "unigram",
            "logprobs": list(self.model.logprobs.values()),
            "learned": [base64.b64encode(piece).decode("ascii") for piece in learned],
        }

    @classmethod
    def from_dict(cls, d: dict) -> Self:
        learned = [base64.b64decode(piece) for piece in d["learned"]]
        return cls(dict(zip([*BYTES, *learned], d["logprobs"], strict=True)))
