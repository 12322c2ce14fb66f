"""A probabilistic grammar with memory: it generates texts and parses them, and every text has an exact probability.

A text consists of fixed words, words drawn from a class, and rules, each of which is one of several sequences. Every
choice is uniform, so a derivation has probability 1 / (n1 n2 n3 ...), and  -log p = log n1 + log n2 + ...  is known
exactly. A drawn word is remembered under a name and can be repeated, or computed with, later in the text. So names,
pronouns, owners and counts stay consistent, which the rules of a probabilistic context-free grammar (Booth and Thompson
1973) do not ensure.

Each node below can `write` (generate, one random number per choice) and `read` (parse: every continuation of the
readings so far). It also has the exact number, entropy and length of its texts, computed from those of its parts. Read
before: `grammar_words`; after: `grammar_file`, which has the notation.
"""

import math
from typing import NamedTuple

from minillm.datasets.grammar_words import NUMBERS, VALUES, Words

Span = tuple[int, int]  # the least and the greatest value of a remembered number; (0, 0) for other words


class Tale:
    """A text while it is generated: its pieces `out`, its memory `state`, and its log probability."""

    def __init__(self, random):
        self.random, self.out, self.state, self.logprob = random, [], {}, 0.0


class Reading(NamedTuple):
    """A partial parse: the offset it has reached, its log probability, and its memory."""

    end: int
    logprob: float
    state: dict[str, list[str]]


class Parse:
    """A text while it is parsed, and the failed matches: (offset, forms that were possible there)."""

    def __init__(self, text: str):
        self.text, self.misses = text, []


class Node:
    """A part of a rule, with exact numbers that describe its texts.

    `count`: number of texts; `entropy`: in nats; `shortest` and `longest`: least and greatest number of
    spaces; `copies`: mean number of words that memory determines.
    """

    count, entropy, shortest, longest, copies = 1, 0.0, 0, 0, 0.0

    def write(self, tale: Tale) -> None:
        """Generate: append to `tale`, drawing one random number per choice."""
        raise NotImplementedError

    def read(self, parse: Parse, readings: list[Reading]) -> list[Reading]:
        """Parse: every reading that extends one of `readings` by this node."""
        raise NotImplementedError

    def check(self, known: dict[str, Span]) -> dict[str, Span]:
        """Names remembered after this node, given those `known` before it. Raises ValueError for a missing name."""
        return known


class Text(Node):
    """Fixed text."""

    def __init__(self, text: str):
        self.text = text
        self.shortest = self.longest = text.count(" ")

    def write(self, tale):
        tale.out.append(self.text)

    def read(self, parse, readings):
        found = []
        for end, logprob, state in readings:
            if parse.text.startswith(self.text, end):
                found.append(Reading(end + len(self.text), logprob, state))
            else:
                parse.misses.append((end, (self.text,)))
        return found


class Draw(Node):
    """A word drawn uniformly from a class; remembered if it is given a name."""

    def __init__(self, words: Words, column: int, name: str | None):
        self.entries, self.column, self.name = words.entries, column, name
        self.count, self.entropy = len(words.entries), math.log(len(words.entries))
        self.forms = [entry[column] for entry in words.entries]
        self.shortest = min(form.count(" ") for form in self.forms)
        self.longest = max(form.count(" ") for form in self.forms)
        self.by_length: dict[int, dict[str, list]] = {}
        for form, entry in zip(self.forms, words.entries, strict=True):
            self.by_length.setdefault(len(form), {}).setdefault(form, []).append(entry)

    def write(self, tale):
        entry = self.entries[int(tale.random() * self.count)]
        if self.name:
            tale.state[self.name] = entry
        tale.out.append(entry[self.column])
        tale.logprob -= self.entropy

    def read(self, parse, readings):
        found = []
        for end, logprob, state in readings:
            parse.misses.append((end, self.forms))
            for length, forms in self.by_length.items():
                for entry in forms.get(parse.text[end : end + length], ()):
                    new_state = {**state, self.name: entry} if self.name else state
                    found.append(Reading(end + length, logprob - self.entropy, new_state))
        return found

    def check(self, known):
        span = VALUES.get(self.forms[0], 0), VALUES.get(self.forms[-1], 0)
        return {**known, self.name: span} if self.name else known


class Remembered(Node):
    """A word determined by the words remembered under the names `needs`; it involves no choice."""

    copies = 1.0

    def __init__(self, needs: tuple[str, ...], words: Words, column: int, name: str | None, where: str):
        self.needs, self.words, self.column, self.name, self.where = needs, words, column, name, where
        self.shortest = min(entry[column].count(" ") for entry in words.entries)
        self.longest = max(entry[column].count(" ") for entry in words.entries)

    def entry(self, state: dict[str, list[str]]) -> list[str]:
        raise NotImplementedError

    def write(self, tale):
        entry = self.entry(tale.state)
        if self.name:
            tale.state[self.name] = entry
        tale.out.append(entry[self.column])

    def read(self, parse, readings):
        found = []
        for end, logprob, state in readings:
            entry = self.entry(state)
            form = entry[self.column]
            if parse.text.startswith(form, end):
                found.append(Reading(end + len(form), logprob, {**state, self.name: entry} if self.name else state))
            else:
                parse.misses.append((end, (form,)))
        return found

    def check(self, known):
        for name in self.needs:
            if name not in known:
                raise ValueError(
                    f"{self.where}: slot = {{{name}}}: expected a name that has been remembered on every path to "
                    f"this point; draw it earlier, as in {{{name}:...}}."
                )
        return known


class Copy(Remembered):
    """A remembered word, repeated in any of its forms."""

    def entry(self, state):
        return state[self.needs[0]]


class Sum(Remembered):
    """The sum or the difference of two remembered numbers; remembered if it is given a name."""

    def __init__(self, left: str, sign: int, right: str, words: Words, column: int, name: str | None, where: str):
        super().__init__((left, right), words, column, name, where)
        self.left, self.sign, self.right = left, sign, right

    def entry(self, state):
        return self.words.entries[VALUES[state[self.left][0]] + self.sign * VALUES[state[self.right][0]]]

    def check(self, known):
        super().check(known)
        (low, high), (least, most) = known[self.left], known[self.right]
        low, high = (low + least, high + most) if self.sign > 0 else (low - most, high - least)
        if low < 0 or high >= len(NUMBERS):
            raise ValueError(
                f"{self.where}: {self.left}{'-+'[self.sign > 0]}{self.right} = {low}..{high}: expected a result inside "
                f"0..{len(NUMBERS) - 1}; draw the numbers from other ranges."
            )
        return {**known, self.name: (low, high)} if self.name else known


class Note(Node):
    """A fact that is remembered without a word in the text."""

    def __init__(self, name: str, value: str):
        self.name, self.entry = name, [value]

    def write(self, tale):
        tale.state[self.name] = self.entry

    def read(self, parse, readings):
        return [Reading(end, logprob, {**state, self.name: self.entry}) for end, logprob, state in readings]

    def check(self, known):
        return {**known, self.name: (0, 0)}


class Rule(Node):
    """A uniform choice of one of several sequences of nodes."""

    def __init__(self, alternatives: list[list[Node]]):
        self.alternatives = alternatives
        n = len(alternatives)
        self.choice = math.log(n)
        self.count = sum(math.prod(node.count for node in nodes) for nodes in alternatives)
        self.entropy = self.choice + sum(node.entropy for nodes in alternatives for node in nodes) / n
        self.copies = sum(node.copies for nodes in alternatives for node in nodes) / n
        self.shortest = min(sum(node.shortest for node in nodes) for nodes in alternatives)
        self.longest = max(sum(node.longest for node in nodes) for nodes in alternatives)

    def write(self, tale):
        tale.logprob -= self.choice
        for node in self.alternatives[int(tale.random() * len(self.alternatives))]:
            node.write(tale)

    def read(self, parse, readings):
        start = [Reading(end, logprob - self.choice, state) for end, logprob, state in readings]
        found = []
        for nodes in self.alternatives:
            now = start
            for node in nodes:
                now = node.read(parse, now)
                if not now:
                    break
            found += now
        return found

    def check(self, known):
        ends = []
        for nodes in self.alternatives:
            after = known
            for node in nodes:
                after = node.check(after)
            ends.append(after)
        common = set.intersection(*map(set, ends))
        return {name: (min(end[name][0] for end in ends), max(end[name][1] for end in ends)) for name in common}


class Quote(Node):
    """A rule whose text is remembered as a fact."""

    def __init__(self, rule: Rule, name: str):
        self.rule, self.name = rule, name
        self.count, self.entropy, self.copies = rule.count, rule.entropy, rule.copies
        self.shortest, self.longest = rule.shortest, rule.longest

    def write(self, tale):
        start = len(tale.out)
        self.rule.write(tale)
        tale.state[self.name] = ["".join(tale.out[start:])]

    def read(self, parse, readings):
        start = [Reading(end, logprob, {**state, self.name: end}) for end, logprob, state in readings]
        return [
            Reading(end, logprob, {**state, self.name: [parse.text[state[self.name] : end]]})
            for end, logprob, state in self.rule.read(parse, start)
        ]

    def check(self, known):
        return {**self.rule.check(known), self.name: (0, 0)}
