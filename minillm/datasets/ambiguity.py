"""Ambiguity of a grammar: whether some text has two derivations.

The counts and the entropy of `grammar` are those of derivations; they are those of texts only if each text has one
derivation. The test is a breadth-first search over pairs of derivations. Both take the same choices up to some node and
part there; from then on the one that has written less advances, and a pair is dropped as soon as its texts differ (the
leftover text of the longer one is the "dangling suffix" of Sardinas and Patterson 1953). The grammar is ambiguous if a
parted pair reaches one node with the same text and the same memory. A word drawn before the pair parted is a variable;
it gets a value only where a text depends on it. There are finitely many pairs, so the search is exact. A grammar as
large as that of the stories has too many: after MAX_PAIRS, random texts are parsed instead, and `World.log_prob` raises
ValueError for an ambiguous text. Read before: `grammar`.
"""

import random
from collections import deque
from collections.abc import Iterator
from functools import lru_cache
from itertools import permutations
from typing import NamedTuple

from minillm.datasets.grammar import Copy, Draw, Node, Note, Parse, Quote, Reading, Remembered, Rule, Sum, Tale, Text

MAX_PAIRS = 5000  # searching them takes about 0.1 seconds
N_SAMPLES = 50  # random texts that are parsed after that

Memory = frozenset[tuple[str, object]]  # (name, Word, Variable or Total) for the names that may still be read


class Word:
    """A known word: one entry of a class, compared by identity, because two entries may look alike."""

    def __init__(self, entry: list[str]):
        self.entry = entry

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Word) and self.entry is other.entry

    def __hash__(self) -> int:
        return id(self.entry)


class Variable(NamedTuple):
    """A drawn word that was given a name but has no value yet."""

    name: str | None
    serial: int  # > 0 while a Total still refers to an earlier word of this name
    words: tuple[Word, ...]  # possible values; one shared tuple for each class of words


class Total(NamedTuple):
    """A sum or difference of two remembered numbers."""

    left: object
    right: object
    node: Sum


class Place:
    """A place in a derivation: the next node, and the rules that contain it."""

    def __init__(self, nodes: list[Node], i: int, up: "Place | None"):
        self.node, self._inside = nodes[i], {}
        self.after: Place | None = Place(nodes, i + 1, up) if i + 1 < len(nodes) else up and up.after
        later = self.after.live if self.after else frozenset()
        self.live: frozenset[str] = later | _needs(self.node)  # names that this node or a later one may read

    def inside(self) -> "list[Place | None]":
        """The first place of each alternative of this node's rule."""
        rule = _rule(self.node)
        if not self._inside:
            self._inside = {
                n: Place(nodes, 0, self) if nodes else self.after for n, nodes in enumerate(rule.alternatives)
            }
        return list(self._inside.values())


class Side(NamedTuple):
    """One of two derivations: its next place (None at the end) and its memory."""

    place: Place | None
    memory: Memory = frozenset()

    def go(self, place: Place | None, name: str | None = None, value: object = None) -> "Side":
        """Advance to a place, remember `value` under `name`, and forget the names that are not read from there on."""
        live = place.live if place else frozenset()
        kept = {(key, old) for key, old in self.memory if key != name and key in live}
        return Side(place, frozenset(kept | ({(name, value)} if name in live else set())))


class TwoPaths(NamedTuple):
    """A pair of derivations. `ahead` has written `lead` more than `behind`; `parted`: their choices have differed."""

    ahead: Side
    behind: Side
    lead: str = ""
    parted: bool = False


def find_ambiguity(top: Rule) -> str | None:
    """A text with two derivations, or the part of it between two places ("..." is any word); None if none is found."""
    start = Side(Place([top], 0, None))
    seen, queue = set(), deque([(TwoPaths(start, start), "")])
    while queue and len(seen) < MAX_PAIRS:
        pair, text = queue.popleft()
        if pair.parted and pair.lead == "" and pair.ahead == pair.behind:
            return text
        for following, written in _step(pair):
            if following not in seen:
                seen.add(following)
                queue.append((following, text + written if following.parted else ""))
    return _find_in_samples(top) if queue else None


def _find_in_samples(top: Rule) -> str | None:
    """Parse N_SAMPLES random texts; return the first one with two derivations, or None."""
    draw = random.Random(0).random
    for _ in range(N_SAMPLES):
        tale = Tale(draw)
        top.write(tale)
        text = "".join(tale.out)
        if sum(reading.end == len(text) for reading in top.read(Parse(text), [Reading(0, 0.0, {})])) > 1:
            return text
    return None


def _step(pair: TwoPaths) -> Iterator[tuple[TwoPaths, str]]:
    """Yield every successor of a pair, with the text that `behind` writes on the way."""
    ahead, behind, lead, _ = pair
    if lead == "" and ahead.place and behind.place:
        one, two = ahead.place.node, behind.place.node
        if ahead.place is behind.place:
            yield from _step_together(pair)
            return
        if _rule(one) or isinstance(one, Note):
            yield from ((TwoPaths(side, other, "", True), "") for side, other, _ in _moves(ahead, behind, ""))
            return
        same_column = isinstance(one, Draw | Copy) and type(one) is type(two) and one.column == two.column
        if same_column and isinstance(one, Draw) and _words_of(one) is _words_of(two):
            yield from _draw_together(pair)
            return
        if same_column and isinstance(one, Copy) and _copied(ahead) == _copied(behind):
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
    """Successors of a pair with equal texts at one place: both sides take the same choice, or they part."""
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
    """Successors where both sides draw from one class: the same word, or two of which one is a prefix of the other."""
    a, b, _, parted = pair
    one, two = a.place.node, b.place.node
    after = a.go(a.place.after, one.name, None), b.go(b.place.after, two.name, None)
    name = one.name or two.name
    value = Variable(name, _serial(name, after[0].memory | after[1].memory), _words_of(one))
    yield TwoPaths(a.go(a.place.after, one.name, value), b.go(b.place.after, two.name, value), "", parted), "..."
    for longer, shorter in _prefixes(one):
        form, lead = shorter[one.column], longer[one.column][len(shorter[one.column]) :]
        for (ahead, first), (behind, second) in permutations(((a, one), (b, two))):
            long = ahead.go(ahead.place.after, first.name, Word(longer))
            short = behind.go(behind.place.after, second.name, Word(shorter))
            yield TwoPaths(long, short, lead, True), form


def _moves(side: Side, other: Side, lead: str) -> Iterator[tuple[Side, Side, str]]:
    """Yield every move of `side` as (side, other, text written). A variable that gets a value gets it in both sides."""
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
    """The side after a node without a choice."""
    node, values = side.place.node, dict(side.memory)
    total = Total(values[node.left], values[node.right], node) if isinstance(node, Sum) else None
    return side.go(side.place.after, node.name if isinstance(node, Sum) else None, total)


def _known(side: Side, other: Side, names: tuple[str, ...]) -> Iterator[tuple[Side, Side]]:
    """Yield both sides once for every value of the variables that `names` depend on in `side`."""
    values = dict(side.memory)
    variable = next((found for name in names for found in _variables(values[name])), None)
    if variable is None:
        yield side, other
        return
    for word in variable.words:
        one, two = (Side(place, _fixed(memory, variable, word)) for place, memory in (side, other))
        yield from _known(one, two, names)


def _serial(name: str | None, memory: Memory) -> int:
    """A serial number for a new variable `name`, different from those of all variables in memory."""
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
    """The entry that a value stands for; None while it depends on a variable."""
    if isinstance(value, Word):
        return value.entry
    if _variables(value):
        return None
    return value.node.entry({value.node.left: _entry(value.left), value.node.right: _entry(value.right)})


def _prefixes(draw: Draw) -> Iterator[tuple[list[str], list[str]]]:
    """Yield pairs of entries (longer, shorter) where the form of `shorter` is a prefix of that of `longer`."""
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
    """Names that a node, or a node inside it, may read."""
    if rule := _rule(node):
        return frozenset().union(*(_needs(part) for nodes in rule.alternatives for part in nodes))
    return frozenset(node.needs) if isinstance(node, Remembered) else frozenset()
