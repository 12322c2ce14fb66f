"""A probabilistic grammar with memory: it writes texts, and reads them back choice by choice.

A grammar is word classes ("words color: red, blue") and rules ("rule meet" and its alternatives). Each choice is
uniform, so a text has probability 1 / (n1 n2 n3 ...), and  -log p = log n1 + log n2 + ...  is known exactly. What was
chosen is remembered under a name: `{hero:girl}` draws and remembers, `{hero}` repeats. So texts keep their promises
(names, pronouns, counts), which no context-free grammar could do. The notation is explained in `data/stories.txt`.

Each node below can `write` itself (one random number per choice) and `read` itself: all ways to go on from where
earlier nodes stopped. It also knows its number of texts, its entropy and its length, from those of its parts.
"""

import difflib
import math
import re
from pathlib import Path
from typing import NamedTuple

NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"]
VALUES = {word: value for value, word in enumerate(NUMBERS)}
SLOT = re.compile(r"(?:(?P<article>[aA]) )?(?P<name>[A-Za-z_]\w*)?(?:\.(?P<field>[a-z]+))?(?P<colon>:(?P<kind>[^:]+))?")


def with_article(word: str) -> str:
    sounds_like_vowel = word.startswith(("hour", "honest", "heir")) or (
        word[0] in "aeiou" and not word.startswith(("uni", "use", "uku", "eu", "one")))
    return ("an " if sounds_like_vowel else "a ") + word


class Words:
    """A class of words. An entry is a list of forms: the fields of the class, then forms derived for some slot."""

    def __init__(self, name: str, fields: list[str], entries: list[list[str]]):
        self.name, self.fields, self.entries = name, fields, entries
        self.columns = {(field, "", False): column for column, field in enumerate(fields)}

    def column(self, field: str, article: str, capital: bool) -> int:
        """Where in an entry the wanted form stands: `red`, `a red`, `Red`, `A red`."""
        form = field, article, capital
        if form not in self.columns:
            source = self.columns[field, "", False]
            self.columns[form] = len(self.columns)
            for entry in self.entries:
                word = with_article(entry[source]) if article else entry[source]
                entry.append(word[0].upper() + word[1:] if capital else word)
        return self.columns[form]


class Tale:
    """What has been written so far."""

    def __init__(self, random):
        self.random, self.out, self.state, self.logprob = random, [], {}, 0.0


class Reading(NamedTuple):
    """One way to have read the text so far."""

    end: int
    logprob: float
    state: dict


class Page:
    """A text that is being read, and all that was expected in vain: (offset, what could have stood there)."""

    def __init__(self, text: str):
        self.text, self.misses = text, []


class Node:
    """A piece of a rule. `count` texts, `entropy` nats, `shortest` to `longest` spaces, `copies` decided by memory."""

    count, entropy, shortest, longest, copies = 1, 0.0, 0, 0, 0.0

    def write(self, tale: Tale) -> None: ...

    def read(self, page: Page, readings: list[Reading]) -> list[Reading]:
        return readings

    def check(self, known: frozenset) -> frozenset:
        """The names remembered after this node, if `known` are remembered before it."""
        return known


class Text(Node):
    """Fixed text."""

    def __init__(self, text: str):
        self.text = text
        self.shortest = self.longest = text.count(" ")

    def write(self, tale):
        tale.out.append(self.text)

    def read(self, page, readings):
        found = []
        for end, logprob, state in readings:
            if page.text.startswith(self.text, end):
                found.append(Reading(end + len(self.text), logprob, state))
            else:
                page.misses.append((end, (self.text,)))
        return found


class Draw(Node):
    """A word of a class, each with the same chance; remembered if it is given a name."""

    def __init__(self, words: Words, column: int, name: str | None):
        self.entries, self.column, self.name = words.entries, column, name
        self.count, self.entropy = len(words.entries), math.log(len(words.entries))
        self.forms = [entry[column] for entry in words.entries]
        self.shortest = min(form.count(" ") for form in self.forms)
        self.longest = max(form.count(" ") for form in self.forms)
        self.by_length: dict[int, dict[str, list]] = {}
        for form, entry in zip(self.forms, words.entries):
            self.by_length.setdefault(len(form), {}).setdefault(form, []).append(entry)

    def write(self, tale):
        entry = self.entries[int(tale.random() * self.count)]
        if self.name:
            tale.state[self.name] = entry
        tale.out.append(entry[self.column])
        tale.logprob -= self.entropy

    def read(self, page, readings):
        found = []
        for end, logprob, state in readings:
            page.misses.append((end, self.forms))
            for length, forms in self.by_length.items():
                for entry in forms.get(page.text[end:end + length], ()):
                    new_state = {**state, self.name: entry} if self.name else state
                    found.append(Reading(end + length, logprob - self.entropy, new_state))
        return found

    def check(self, known):
        return known | {self.name} if self.name else known


class Remembered(Node):
    """Text that follows from what is remembered: subclasses say how. Nothing is chosen."""

    copies = 1.0

    def entry(self, state: dict) -> list[str]:
        raise NotImplementedError

    def write(self, tale):
        entry = self.entry(tale.state)
        if self.name:
            tale.state[self.name] = entry
        tale.out.append(entry[self.column])

    def read(self, page, readings):
        found = []
        for end, logprob, state in readings:
            entry = self.entry(state)
            form = entry[self.column]
            if page.text.startswith(form, end):
                found.append(Reading(end + len(form), logprob, {**state, self.name: entry} if self.name else state))
            else:
                page.misses.append((end, (form,)))
        return found

    def check(self, known):
        for name in self.needs:
            if name not in known:
                raise ValueError(f"{self.where}: slot = {name}: expected a name that every way to this point has remembered; "
                                 f"draw it earlier, as in {{{name}:...}}.")
        return known | {self.name} if self.name else known


class Copy(Remembered):
    """A remembered word again, in any of its forms."""

    def __init__(self, source: str, words: Words, column: int, where: str):
        self.source, self.column, self.where, self.name, self.needs = source, column, where, None, (source,)
        self.shortest = min(entry[column].count(" ") for entry in words.entries)
        self.longest = max(entry[column].count(" ") for entry in words.entries)

    def entry(self, state):
        return state[self.source]


class Sum(Remembered):
    """The sum or the difference of two remembered numbers."""

    def __init__(self, left: str, sign: int, right: str, words: Words, column: int, name: str | None, where: str):
        self.left, self.sign, self.right = left, sign, right
        self.words, self.column, self.name, self.where, self.needs = words, column, name, where, (left, right)

    def entry(self, state):
        return self.words.entries[VALUES[state[self.left][0]] + self.sign * VALUES[state[self.right][0]]]


class Note(Node):
    """Remembers a fact without a word in the text."""

    def __init__(self, name: str, value: str):
        self.name, self.entry = name, [value]

    def write(self, tale):
        tale.state[self.name] = self.entry

    def read(self, page, readings):
        return [Reading(end, logprob, {**state, self.name: self.entry}) for end, logprob, state in readings]

    def check(self, known):
        return known | {self.name}


class Rule(Node):
    """One of several sequences of nodes, each with the same chance."""

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

    def read(self, page, readings):
        start = [Reading(end, logprob - self.choice, state) for end, logprob, state in readings]
        found = []
        for nodes in self.alternatives:
            now = start
            for node in nodes:
                now = node.read(page, now)
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
        return frozenset.intersection(*ends)


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

    def read(self, page, readings):
        start = [Reading(end, logprob, {**state, self.name: end}) for end, logprob, state in readings]
        return [Reading(end, logprob, {**state, self.name: [page.text[state[self.name]:end]]})
                for end, logprob, state in self.rule.read(page, start)]

    def check(self, known):
        return self.rule.check(known) | {self.name}


class Grammar:
    """A grammar file, compiled. `top` is the rule called `story`.

    Raises ValueError, with the line, for whatever the file says wrongly.
    """

    def __init__(self, path: Path):
        self.path, self.words, self.lines = path, {}, {}
        self.words["number"] = Words("number", ["name"], [[word] for word in NUMBERS])
        self.split(path.read_text(encoding="ascii").splitlines())
        self.remembered = self.find_remembered()
        self.rules: dict[str, Rule] = {}
        self.open: list[str] = []
        if "story" not in self.lines:
            raise ValueError(f"{path.name}: rule = story: expected a rule of this name, where stories start; add 'rule story'.")
        self.top = self.rule("story", f"{path.name}")
        unused = sorted(set(self.lines) - set(self.rules))
        if unused:
            raise self.error(self.lines[unused[0]][0][0], f"rule = {unused[0]}: expected to be used by some other rule; use or delete it.")
        self.top.check(frozenset())

    def error(self, line: int, sentence: str) -> ValueError:
        return ValueError(f"{self.path.name} line {line}: {sentence}")

    def split(self, lines: list[str]) -> None:
        """Fills `words` and `lines` (name of rule -> its numbered alternatives)."""
        add = None
        for number, line in enumerate(lines, 1):
            if not line.strip() or line.startswith("#"):
                continue
            head = re.fullmatch(r"(words|rule) (\w+)(?:: (.+))?", line)
            if head:
                kind, name, fields = head.groups()
                if name in self.words or name in self.lines:
                    raise self.error(number, f"name = {name}: expected a new one; rename this or the earlier one.")
                if kind == "rule":
                    self.lines[name] = []
                    add = self.lines[name].append
                    add_line = self.add_alternative
                else:
                    add = self.words[name] = Words(name, [field.strip() for field in (fields or "name").split("|")], [])
                    add_line = self.add_words
            elif line.startswith("  ") and add:
                add_line(add, number, line.strip())
            else:
                raise self.error(number, f"line = {line[:40]!r}: expected 'words NAME', 'rule NAME' or an indented line under one; "
                                         "indent it by two spaces.")
        for name in [*self.words, *self.lines]:
            if not (self.words[name].entries if name in self.words else self.lines[name]):
                raise ValueError(f"{self.path.name}: {name} = (nothing): expected at least one line below it; add one or delete {name}.")

    def add_alternative(self, add, number: int, line: str) -> None:
        if not line.startswith("- "):
            raise self.error(number, f"line = {line[:40]!r}: expected '- ' before each alternative of a rule; add it.")
        add((number, line[2:]))

    def add_words(self, words: Words, number: int, line: str) -> None:
        names, *shared = [part.strip() for part in line.split("|")]
        if len(shared) != len(words.fields) - 1:
            raise self.error(number, f"fields = {len(shared) + 1}: expected {len(words.fields)} ({' | '.join(words.fields)}), as "
                                     f"words {words.name} says; separate them by '|'.")
        for name in names.strip(",").split(","):
            name = name.strip()
            if not name or any(entry[0] == name for entry in words.entries):
                raise self.error(number, f"word = {name!r}: expected a word that is not yet in {words.name}; delete it.")
            words.entries.append([name, *(field.replace("~", name) for field in shared)])

    def find_remembered(self) -> dict[str, Words]:
        """Which class each remembered name comes from."""
        remembered: dict[str, Words] = {}
        for lines in self.lines.values():
            for number, line in lines:
                for name, kind in re.findall(r"\{(?:[aA] )?(\w+):([^}]+)\}", line):
                    name, kind = name[0].lower() + name[1:], kind.split(".")[0] if ".." not in kind else "number"
                    words = self.words.get(kind if kind in self.words else "number" if re.search("[-+]", kind) else None)
                    words = words or Words("text", ["name"], [[""]])
                    if remembered.setdefault(name, words).name != words.name:
                        raise self.error(number, f"{name} = {words.name}: expected {remembered[name].name}, as elsewhere; "
                                                 "use another name.")
                for name, value in re.findall(r"\{(\w+)=([^}]+)\}", line):
                    remembered.setdefault(name, Words("text", ["name"], [[value]]))
                for name in remembered.keys() & self.lines.keys():
                    raise self.error(number, f"name = {name}: expected a name that is no rule; rename one of them.")
        return remembered

    def rule(self, name: str, where: str) -> Rule:
        if name in self.open:
            raise ValueError(f"{where}: rule = {name}: expected a rule that does not lead back to itself "
                             f"({' > '.join([*self.open, name])}); stories must end.")
        if name not in self.rules:
            self.open.append(name)
            self.rules[name] = Rule([self.nodes(number, line) for number, line in self.lines[name]])
            self.open.pop()
        return self.rules[name]

    def nodes(self, number: int, line: str) -> list[Node]:
        nodes: list[Node] = []
        line = re.sub(r"(\{\w+=[^}]*\}) ", r"\1", line)
        for part in re.split(r"(\{[^}]*\})", line):
            if part.startswith("{"):
                nodes.append(self.slot(number, part[1:-1]))
            elif "{" in part or "}" in part:
                raise self.error(number, f"text = {part[:40]!r}: expected braces in pairs; close or remove one.")
            elif part:
                nodes.append(Text(part))
        return nodes

    def slot(self, number: int, body: str) -> Node:
        """The node for what stands between braces."""
        where = f"{self.path.name} line {number}"
        if note := re.fullmatch(r"(\w+)=(.+)", body):
            return Note(*note.groups())
        if total := re.fullmatch(r"(?:(\w+):)?(\w+)([-+])(\w+)", body):
            name, left, sign, right = total.groups()
            column = self.words["number"].column("name", "", False)
            return Sum(left, 1 if sign == "+" else -1, right, self.words["number"], column, name, where)
        match = SLOT.fullmatch(body)
        if not match or not (match["name"] or match["kind"]):
            raise self.error(number, f"slot = {{{body}}}: expected {{name}}, {{name.field}}, {{name:class}} or {{a name}}; correct it.")
        article, name, field, kind = match["article"] or "", match["name"] or "", match["field"], match["kind"]
        capital = article == "A" or (not article and name[:1].isupper())
        article, name = article.lower(), name[:1].lower() + name[1:]
        if kind and (span := re.fullmatch(r"(\d+)\.\.(\d+)", kind)):
            low, high = map(int, span.groups())
            if not 0 <= low <= high < len(NUMBERS):
                raise self.error(number, f"range = {kind}: expected a range inside 0..{len(NUMBERS) - 1}; change it.")
            column = self.words["number"].column("name", article, capital)
            return Draw(Words("number", ["name"], self.words["number"].entries[low:high + 1]), column, name)
        if kind:
            kind, _, field = kind.partition(".")
        elif name in self.remembered:
            words = self.remembered[name]
            return Copy(name, words, self.column(number, words, field, article, capital), where)
        elif name in self.remembered["hero"].fields:
            words = self.remembered["hero"]
            return Copy("hero", words, self.column(number, words, name, article, capital), where)
        else:
            kind, name = name, None
        if kind in self.words:
            words = self.words[kind]
            return Draw(words, self.column(number, words, field, article, capital), name)
        if kind in self.lines:
            rule = self.rule(kind, where)
            return Quote(rule, name) if name else rule
        known = [*self.remembered, *self.words, *self.lines, *self.remembered["hero"].fields]
        near = difflib.get_close_matches(kind, known, 1)
        raise self.error(number, f"slot = {{{body}}}: expected a remembered name, a word class or a rule; "
                                 + (f"did you mean {near[0]}?" if near else f"define {kind} with 'words' or 'rule'."))

    def column(self, number: int, words: Words, field: str | None, article: str, capital: bool) -> int:
        field = field or words.fields[0]
        if field not in words.fields:
            raise self.error(number, f"field = {field}: expected one of {', '.join(words.fields)}, the fields of {words.name}; change it.")
        return words.column(field, article, capital)
