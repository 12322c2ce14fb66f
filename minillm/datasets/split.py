"""Split of documents into training, validation and test parts, so that no evaluated document was trained on.

A hash u in [0, 1) of a document's content decides: validation below val_fraction, then test, then training. So equal
documents are in the same part, and a document's part does not change when others are added, removed or shuffled. In a
corpus of very few documents a part may come out empty; then the document with the smallest u moves to validation, and
the one with the largest u to training. A single long text is cut by position instead: its first 90 % for training, the
rest for validation.
"""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple


class Splits(NamedTuple):
    """The documents of each part, in their original order."""

    train: list[str]
    val: list[str]
    test: list[str]


def split(documents: Sequence[str], val_fraction: float = 0.05, test_fraction: float = 0.05) -> Splits:
    """Split documents by content; a single one is cut at 1 - (val_fraction + test_fraction) and has no test part.

    Training is never empty, nor is validation unless val_fraction (of a single text: both fractions) is 0.
    Raises ValueError if this is impossible.
    """
    held_out = val_fraction + test_fraction
    if held_out >= 1:
        raise ValueError(
            f"data.val_fraction + data.test_fraction = {held_out:g}: expected less than 1; leave something to train on"
        )
    if not documents:
        raise ValueError(
            "the corpus has no documents: expected at least one; give more text or remove less of it by cleaning"
        )
    if len(documents) == 1:
        return _cut(documents[0], held_out)
    hashes = {document: unit_hash(document) for document in documents}
    parts = {
        document: "val" if u < val_fraction else "test" if u < held_out else "train" for document, u in hashes.items()
    }
    if "train" not in parts.values():
        parts[max(hashes, key=hashes.__getitem__)] = "train"
    if val_fraction > 0 and "val" not in parts.values():
        parts[min(hashes, key=hashes.__getitem__)] = "val"
    if "train" not in parts.values():
        raise ValueError(
            f"the corpus = {len(documents)} times the same document: "
            "expected different ones to train and to validate on; add some"
        )
    return Splits(*([document for document in documents if parts[document] == part] for part in Splits._fields))


def unit_hash(document: str) -> float:
    """A number in [0, 1) that depends on the content alone.

    >>> round(unit_hash("Once upon a time"), 3)
    0.885
    """
    return int.from_bytes(hashlib.sha256(document.encode()).digest()[:6]) / 2**48


def _cut(text: str, held_out: float) -> Splits:
    at = int(len(text) * (1 - held_out))
    if at == 0:
        raise ValueError(
            f"the only document = {len(text)} characters: expected enough to train and to validate on; give more text"
        )
    return Splits([text[:at]], [text[at:]] if at < len(text) else [], [])
