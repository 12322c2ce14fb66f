"""Ambiguity: a grammar is ambiguous if it can write one text in two ways; then its count and its entropy are those of ways, not of texts.

Two derivations run side by side. They take the same choices up to some place and part there; from then on, whichever has written less
goes on, and the two are given up as soon as their texts differ. The grammar is ambiguous if two that have parted come to the same place
with the same text and the same memory. What was drawn before they parted is a variable, which gets a value only where a text depends on
it. There are finitely many such pairs, so the search is exact. In a grammar as large as that of the stories there are too many of them:
after MOST_PAIRS, some texts are read back instead, and `World.log_prob` goes on to watch those that it is asked about.
Read before: `grammar`.
"""

import random
from collections import deque
from collections.abc import Iterator
from functools import lru_cache
from itertools import permutations
from typing import NamedTuple

from minillm.datasets.grammar import Copy, Draw, Node, Note, Page, Quote, Reading, Remembered, Rule, Sum, Tale, Text

MOST_PAIRS = 5000  # a tenth of a second
N_READ = 50  # texts that are read back

Memory = frozenset[tuple[str, object]]  # names that are still needed, each with a Word, a Variable or a Total


class Word:
    """A word that is known: one entry of a class, and no other, whatever that looks like."""

    def __init__(self, entry: list[str]):
        self.entry = entry

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Word) and self.entry is other.entry

    def __hash__(self) -> int:
        return id(self.entry)


class Variable(NamedTuple):
    """A word that was drawn and given a name; which one does not matter yet."""

    name: str | None
    serial: int  # 0, unless an earlier word of this name is still in some Total
    words: tuple[Word, ...]  # what it may be; the same object for the same words


class Total(NamedTuple):
    """A sum or difference of remembered numbers."""

    left: object
    right: object
    node: Sum


class Place:
    """A node whose turn it is, within the rules that led to it."""

    def __init__(self, nodes: list[Node], i: int, up: "Place | None"):
        self.node, self._inside = nodes[i], {}
        self.after: Place | None = Place(nodes, i + 1, up) if i + 1 < len(nodes) else up and up.after
        later = self.after.live if self.after else frozenset()
        self.live: frozenset[str] = later | _needs(self.node)  # names that may still be read

    def inside(self) -> "list[Place | None]":
        """Where each alternative of this rule begins."""
        rule = _rule(self.node)
        if not self._inside:
            self._inside = {
                n: Place(nodes, 0, self) if nodes else self.after for n, nodes in enumerate(rule.alternatives)
            }
        return list(self._inside.values())


class Side(NamedTuple):
    """One of two derivations; at the end, its place is None."""

    place: Place | None
    memory: Memory = frozenset()

    def go(self, place: Place | None, name: str | None = None, value: object = None) -> "Side":
        """On to another place, perhaps with something new to remember; what is not needed there is forgotten."""
        live = place.live if place else frozenset()
        kept = {(key, old) for key, old in self.memory if key != name and key in live}
        return Side(place, frozenset(kept | ({(name, value)} if name in live else set())))


class TwoPaths(NamedTuple):
    """Two derivations; `behind` has yet to write `lead`, which `ahead` has written already."""

    ahead: Side
    behind: Side
    lead: str = ""
    parted: bool = False


def find_ambiguity(top: Rule) -> str | None:
    """A text, or the part of one between two places, that is written in two ways; None if none was found."""
    start = Side(Place([top], 0, None))
    seen, queue = set(), deque([(TwoPaths(start, start), "")])
    while queue and len(seen) < MOST_PAIRS:
        pair, text = queue.popleft()
        if pair.parted and pair.lead == "" and pair.ahead == pair.behind:
            return text
        for following, written in _step(pair):
            if following not in seen:
                seen.add(following)
                queue.append((following, text + written if following.parted else ""))
    return _read_back(top) if queue else None


def _read_back(top: Rule) -> str | None:
    """The first of some texts that is read in two ways."""
    draw = random.Random(0).random
    for _ in range(N_READ):
        tale = Tale(draw)
        top.write(tale)
        text = "".join(tale.out)
        if sum(reading.end == len(text) for reading in top.read(Page(text), [Reading(0, 0.0, {})])) > 1:
            return text
    return None


def _step(pair: TwoPaths) -> Iterator[tuple[TwoPaths, str]]:
    """All ways in which a pair goes on, each with what `behind` writes."""
    ahead, behind, lead, _ = pair
    if lead == "" and ahead.place and behind.place:
        one, two = ahead.place.node, behind.place.node
        if ahead.place is behind.place:
            yield from _step_together(pair)
            return
        if _rule(one) or isinstance(one, Note):
            yield from ((TwoPaths(side, other, "", True), "") for side, other, _ in _moves(ahead, behind, ""))
            return
        if (
            isinstance(one, Draw)
            and isinstance(two, Draw)
            and one.column == two.column
            and _words_of(one) is _words_of(two)
        ):
            yield from _draw_together(pair)
            return
        if (
            isinstance(one, Copy)
            and isinstance(two, Copy)
            and one.column == two.column
            and _copied(ahead) == _copied(behind)
        ):
            yield TwoPaths(_pass(ahead), _pass(behind), "", True), "..."
            return
    if behind.place:
        for one, other, form in _moves(behind, ahead, lead):
            if lead.startswith(form):
                yield TwoPaths(other, one, lead[len(form) :], True), form
            elif form.startswith(lead):
                yield TwoPaths(one, other, form[len(lead) :], True), lead
    elif lead == "" and ahead.place:
        yield TwoPaths(behind, ahead, "", True), ""


def _step_together(pair: TwoPaths) -> Iterator[tuple[TwoPaths, str]]:
    """Both stand at one place and have written the same: they choose alike, or part."""
    a, b, _, parted = pair
    node = a.place.node
    if rule := _rule(node):
        begins = a.place.inside()
        yield from ((TwoPaths(a.go(begin), b.go(begin), "", parted), "") for begin in begins)
        yield from (
            (TwoPaths(a.go(begins[i]), b.go(begins[j]), "", True), "")
            for i, j in permutations(range(len(rule.alternatives)), 2)
        )
    elif isinstance(node, Draw):
        yield from _draw_together(pair)
    elif isinstance(node, Remembered) and parted and not (isinstance(node, Copy) and _copied(a) == _copied(b)):
        yield from ((TwoPaths(one, other, form, True), "") for one, other, form in _moves(a, b, ""))
    else:
        yield TwoPaths(_pass(a), _pass(b), "", parted), node.text if isinstance(node, Text) else "..."


def _draw_together(pair: TwoPaths) -> Iterator[tuple[TwoPaths, str]]:
    """Both draw a word of one class: the same, or two of which one begins the other."""
    a, b, _, parted = pair
    one, two = a.place.node, b.place.node
    after = a.go(a.place.after, one.name, None), b.go(b.place.after, two.name, None)
    name = one.name or two.name
    value = Variable(name, _serial(name, after[0].memory | after[1].memory), _words_of(one))
    yield TwoPaths(a.go(a.place.after, one.name, value), b.go(b.place.after, two.name, value), "", parted), "..."
    for longer, shorter in _beginnings(one):
        form, lead = shorter[one.column], longer[one.column][len(shorter[one.column]) :]
        yield (
            TwoPaths(
                a.go(a.place.after, one.name, Word(longer)), b.go(b.place.after, two.name, Word(shorter)), lead, True
            ),
            form,
        )
        yield (
            TwoPaths(
                b.go(b.place.after, two.name, Word(longer)), a.go(a.place.after, one.name, Word(shorter)), lead, True
            ),
            form,
        )


def _moves(side: Side, other: Side, lead: str) -> Iterator[tuple[Side, Side, str]]:
    """All that one side may do next, while the other may learn what a variable is: both sides then, and what was written."""
    place, node = side.place, side.place.node
    if _rule(node):
        yield from ((side.go(begin), other, "") for begin in place.inside())
    elif isinstance(node, Draw):
        for entry, form in zip(node.entries, node.forms, strict=True):
            if lead.startswith(form) or form.startswith(lead):
                yield side.go(place.after, node.name, Word(entry)), other, form
    elif isinstance(node, Remembered):
        for known, fixed in _known(side, other, node.needs):
            entry = node.entry({name: _entry(value) for name, value in known.memory})
            yield known.go(place.after, node.name, Word(entry)), fixed, entry[node.column]
    else:
        yield side.go(place.after), other, node.text if isinstance(node, Text) else ""


def _pass(side: Side) -> Side:
    """A side after a node that chooses nothing."""
    node, values = side.place.node, dict(side.memory)
    total = Total(values[node.left], values[node.right], node) if isinstance(node, Sum) else None
    return side.go(side.place.after, node.name if isinstance(node, Sum) else None, total)


def _known(side: Side, other: Side, names: tuple[str, ...]) -> Iterator[tuple[Side, Side]]:
    """Both sides, for all values of the variables that these names of one side depend on."""
    values = dict(side.memory)
    variable = next((found for name in names for found in _variables(values[name])), None)
    if variable is None:
        yield side, other
        return
    for word in variable.words:
        one, two = (Side(place, _fixed(memory, variable, word)) for place, memory in (side, other))
        yield from _known(one, two, names)


def _serial(name: str | None, memory: Memory) -> int:
    """A number for a new variable of this name, which no other in memory has."""
    return 1 + max(
        (found.serial for _, value in memory for found in _variables(value) if found.name == name), default=-1
    )


def _copied(side: Side) -> object:
    """The value that a Copy repeats."""
    return dict(side.memory)[side.place.node.needs[0]]


def _variables(value: object) -> list[Variable]:
    if isinstance(value, Total):
        return _variables(value.left) + _variables(value.right)
    return [value] if isinstance(value, Variable) else []


@lru_cache(maxsize=4096)
def _words_of(draw: Draw) -> tuple[Word, ...]:
    return _interned(tuple(map(Word, draw.entries)))


@lru_cache(maxsize=4096)
def _interned(words: tuple[Word, ...]) -> tuple[Word, ...]:
    return words


def _fixed(memory: Memory, variable: Variable, word: Word) -> Memory:
    def fix(value: object) -> object:
        if isinstance(value, Total):
            return Total(fix(value.left), fix(value.right), value.node)
        return word if value == variable else value

    return frozenset((name, fix(value)) for name, value in memory)


def _entry(value: object) -> list[str] | None:
    """The entry that a value is, as far as it is known."""
    if isinstance(value, Word):
        return value.entry
    if _variables(value):
        return None
    return value.node.entry({value.node.left: _entry(value.left), value.node.right: _entry(value.right)})


def _beginnings(draw: Draw) -> Iterator[tuple[list[str], list[str]]]:
    """Pairs of entries of which the second begins the first, as they are written here."""
    entries = sorted(draw.entries, key=lambda entry: entry[draw.column])
    for i, shorter in enumerate(entries):
        for longer in entries[i + 1 :]:
            if not longer[draw.column].startswith(shorter[draw.column]):
                break
            yield longer, shorter


def _rule(node: Node) -> Rule | None:
    return node.rule if isinstance(node, Quote) else node if isinstance(node, Rule) else None


@lru_cache(maxsize=4096)
def _needs(node: Node) -> frozenset[str]:
    """Names that a node may read."""
    if rule := _rule(node):
        return frozenset().union(*(_needs(part) for nodes in rule.alternatives for part in nodes))
    return frozenset(node.needs) if isinstance(node, Remembered) else frozenset()
