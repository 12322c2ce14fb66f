"""Data cleaning: find the documents that nearly repeat an earlier one by MinHash, without comparing all pairs.

    J(A, B) = |A & B| / |A | B|        P(min of A = min of B) = J        P(pair is compared) = 1 - (1 - J^r)^(k / r)

A model learns a repeated text by heart and sees less of the others. A document is the set of its runs of n words
(shingles), each hashed to a number; J is the Jaccard index of two sets. In a random order of all shingles, the first
one of A | B is equally likely to be any of them, and with probability J it is in both. So k random orders give k
minima, the signature, of which two documents share about J k. Cut into bands of r numbers, signatures share a whole
band almost never if J is small and almost always if it is large. Only documents that share a band are compared.

Paper: Broder 1997, "On the resemblance and containment of documents".
Read before: nothing.
Then read: minillm/datasets/near_duplicates.py, minillm/datasets/cleaning.py, minillm/datasets/quality_rules.py
Try: python train.py --config gpt-docs --data.clean true --dry-run

Change it:
    - ROWS = 4
    + ROWS = 1
Shown: 6 of 6 pairs are compared
"""

import random
from hashlib import blake2b
from itertools import combinations

TEXTS = (
    "a small dog ran to the old red barn and slept in the warm hay until noon",
    "one small cat ran to the old red house and sat in the warm sun all day",
    "yesterday a small dog ran to the old red barn and slept in the warm hay until noon",
    "a small dog and a small cat ran to the old red barn, where the cat slept until noon",
)
N_WORDS, N_HASHES, SIMILARITY = 2, 64, 0.8
ROWS = 4  # numbers in a band


def shingles(text: str, n_words: int) -> set[tuple]:
    """The runs of n words, as a set."""
    words = text.split()
    return {tuple(words[i : i + n_words]) for i in range(len(words) - n_words + 1)}


def jaccard(a: set, b: set) -> float:
    """The share of the elements of either set that are in both."""
    return len(a & b) / len(a | b)


def number(shingle: tuple) -> int:
    """A hash of 64 bits: the same on every machine, unlike Python's own."""
    return int.from_bytes(blake2b(" ".join(shingle).encode(), digest_size=8).digest())


def random_orders(k: int, seed: int = 0) -> list[tuple[int, int]]:
    """k pairs (a, b); each orders all numbers x by (a x + b mod 2^64) / 2^32."""
    draw = random.Random(seed)
    return [(2 * draw.getrandbits(63) + 1, draw.getrandbits(64)) for _ in range(k)]


def signature(numbers: set[int], orders: list[tuple[int, int]]) -> list[int]:
    """The least number in each order."""
    return [min((a * x + b) % 2**64 >> 32 for x in numbers) for a, b in orders]


def share_a_band(a: list[int], b: list[int], rows: int) -> bool:
    """Whether two signatures agree in all numbers of some band."""
    return any(a[i : i + rows] == b[i : i + rows] for i in range(0, len(a) - rows + 1, rows))


def chance(j: float, k: int, rows: int) -> float:
    """The probability that a pair with Jaccard index j shares a band."""
    return 1 - (1 - j**rows) ** (k // rows)


def near_duplicates(sets: list[set], signatures: list[list[int]], similarity: float, rows: int) -> list[bool]:
    """For each document: whether it nearly repeats an earlier one that is kept; candidates are compared exactly."""
    kept, verdicts = [], []
    for i in range(len(sets)):
        candidates = [j for j in kept if share_a_band(signatures[i], signatures[j], rows)]
        verdicts.append(any(jaccard(sets[i], sets[j]) >= similarity for j in candidates))
        kept += [] if verdicts[-1] else [i]
    return verdicts


def main() -> None:
    """The Jaccard index of each pair, its estimate, and whether bands make it a candidate."""
    sets = [shingles(text, N_WORDS) for text in TEXTS]
    orders = random_orders(N_HASHES)
    signatures = [signature(set(map(number, found)), orders) for found in sets]
    print(*(f"{i}  {text}" for i, text in enumerate(TEXTS)), "", sep="\n")
    print(f"pair   J    minima shared, of {N_HASHES}   P(compared)")
    pairs = list(combinations(range(len(TEXTS)), 2))
    for i, j in pairs:
        exact, shared = jaccard(sets[i], sets[j]), sum(map(int.__eq__, signatures[i], signatures[j]))
        print(f"{i} {j}  {exact:.2f}   {shared:2} = {shared / N_HASHES:.2f}   {chance(exact, N_HASHES, ROWS):16.2f}")
    compared = [pair for pair in pairs if share_a_band(*(signatures[i] for i in pair), ROWS)]
    print(f"{len(compared)} of {len(pairs)} pairs are compared:", *compared)
    print("near-duplicates:", near_duplicates(sets, signatures, SIMILARITY, ROWS))


if __name__ == "__main__":
    main()
