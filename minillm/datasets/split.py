"""Train, validation and test documents, so that nothing that is evaluated was trained on.

A document's side is decided by a hash of its content, u in [0, 1): validation below val_fraction, then test, then train. So
identical documents always land on the same side, and a document's side does not change when others are added, removed or
shuffled. In a corpus of very few documents a side can come out empty; then the document with the smallest u moves to
validation, and the one with the largest to train. A single long text is cut the classic way: the first 90 % of its
characters train, the rest validate.
"""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple


class Splits(NamedTuple):
    """Documents by what they are for, each in its original order."""

    train: list[str]
    val: list[str]
    test: list[str]


def split(documents: Sequence[str], val_fraction: float = 0.05, test_fraction: float = 0.05) -> Splits:
    """Split documents by content; a single one is cut at 1 - (val_fraction + test_fraction) and has no test part.

    Train is never empty, nor is validation unless val_fraction (of a single text: both fractions) is 0.
    Raises ValueError where this is impossible.
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
    places = {document: place(document) for document in documents}
    sides = {
        document: "val" if u < val_fraction else "test" if u < held_out else "train" for document, u in places.items()
    }
    if "train" not in sides.values():
        sides[max(places, key=places.__getitem__)] = "train"
    if val_fraction > 0 and "val" not in sides.values():
        sides[min(places, key=places.__getitem__)] = "val"
    if "train" not in sides.values():
        raise ValueError(
            f"the corpus = {len(documents)} times the same document: expected different ones to train and to validate on"
        )
    return Splits(*([document for document in documents if sides[document] == side] for side in Splits._fields))


def place(document: str) -> float:
    """A number in [0, 1) that depends on the content alone."""
    return int.from_bytes(hashlib.sha256(document.encode()).digest()[:6]) / 2**48


def _cut(text: str, held_out: float) -> Splits:
    at = int(len(text) * (1 - held_out))
    if at == 0:
        raise ValueError(
            f"the only document = {len(text)} characters: expected enough to train and to validate on; give more text"
        )
    return Splits([text[:at]], [text[at:]] if at < len(text) else [], [])
