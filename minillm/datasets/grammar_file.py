"""The notation of grammars: a text file of word classes and rules, compiled to the nodes of `grammar`.

    words color                               rule meet
      red, blue, green                          - Soon {his} friend {friend:friend} came with {a color} {toy:toy}.
    words toy: name | use                       - "Let me {toy.use} it," said {friend}.
      kite, drone | fly                         - ...
      drum, flute | play

`data/stories.txt` explains the notation and uses all of it. After the line `include stories.txt` a file has all
definitions of that one and may replace them by its own of the same name (see `data/diary.txt`). Every error raises
ValueError with the line and a remedy, so a grammar that compiles can neither miss a name nor count below zero. An
ambiguous grammar is an error too, because probabilities are those of derivations. Read before: `grammar`.
"""

import difflib
import re
from pathlib import Path
from typing import NoReturn

from minillm.datasets.ambiguity import find_ambiguity
from minillm.datasets.grammar import Copy, Draw, Node, Note, Quote, Rule, Sum, Text
from minillm.datasets.grammar_words import NUMBERS, Words

HEAD = re.compile(r"(words|rule) ([a-z]\w*)(?:: (.+))?")
INCLUDE = re.compile(r"include (\S+)")
NOTE = re.compile(r"(\w+)=(.+)")
SUM = re.compile(r"([a-z]\w*)([-+])([a-z]\w*)")
SPAN = re.compile(r"(\d+)\.\.(\d+)")
SLOT = re.compile(r"(?:([aA]) )?([A-Za-z]\w*)?(?:\.(\w+))?(?::(.+))?")
PRONOUNS_OF = "hero"  # {he} is short for {hero.he}


class GrammarFile:
    """A grammar: its top rule `story`, its `words` by class, and the class of each `remembered` name (None: a fact).

    Raises ValueError for a file that breaks the notation.
    """

    def __init__(self, path: Path):
        self.name = path.name
        self.words = {"number": Words("number", ["name"], [[word] for word in NUMBERS])}
        self.lines: dict[str, list[tuple[str, str]]] = {}  # rule -> (line number, alternative)
        self.rules: dict[str, Rule] = {}
        self.opened: list[str] = []  # rules that are being compiled, outermost first
        self._read_lines(path, [])
        self.remembered = self._find_remembered()
        if "story" not in self.lines:
            raise ValueError(
                f"{self.name}: rule = story: expected a rule of this name, the start of every story; add 'rule story'."
            )
        self.top = self._rule("story", self.name)
        for name in (name for name in self.lines if name not in self.rules):
            self._refuse(
                self.lines[name][0][0], f"rule = {name}: expected a rule that some other rule uses; use or delete it."
            )
        self.top.check({})
        if (text := find_ambiguity(self.top)) is not None:
            raise ValueError(
                f"{self.name}: text = {text!r} (... is any word): expected one way to write it, found two, so its "
                "probability is unknown; reword one of them."
            )

    def _refuse(self, where: str, sentence: str) -> NoReturn:
        raise ValueError(f"{where}: {sentence}")

    def _read_lines(self, path: Path, above: list[Path]) -> None:
        """Read a file; `above` are the files that include it."""
        inside = None  # the class or rule that the next lines belong to
        old: set[str] = set()  # names from included files, which may be replaced
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            where = f"{path.name} line {number}"
            if not line.strip() or line.startswith("#"):
                continue
            if include := INCLUDE.fullmatch(line):
                other = path.parent / include[1]
                if not other.is_file() or other in (path, *above):
                    self._refuse(
                        where, f"include = {include[1]}: expected another file in the same folder; correct the name."
                    )
                before = {*self.words, *self.lines}
                self._read_lines(other, [*above, path])
                old |= {*self.words, *self.lines} - before
                continue
            if head := HEAD.fullmatch(line):
                kind, inside, fields = head.groups()
                if inside in old:
                    old.remove(inside)
                    self.words.pop(inside, None)
                    self.lines.pop(inside, None)
                if inside in self.words or inside in self.lines:
                    self._refuse(where, f"name = {inside}: expected a new one; rename this {kind} or the earlier one.")
                if kind == "rule":
                    self.lines[inside] = []
                else:
                    self.words[inside] = Words(inside, [field.strip() for field in (fields or "name").split("|")], [])
            elif not line.startswith("  ") or inside is None:
                self._refuse(
                    where,
                    f"line = {line[:40]!r}: expected 'words NAME', 'rule NAME' or, below one of these, an indented "
                    "line; indent it by two spaces.",
                )
            elif inside in self.words:
                self._add_words(self.words[inside], where, line)
            elif line.strip().startswith("- "):
                self.lines[inside].append((where, line.strip()[2:]))
            else:
                self._refuse(
                    where,
                    f"line = {line.strip()[:40]!r}: expected '- ' before each alternative of a rule; put it there.",
                )
        empty = [name for name in self.words if not self.words[name].entries] + [
            name for name in self.lines if not self.lines[name]
        ]
        if empty:
            raise ValueError(
                f"{self.name}: {empty[0]} = (nothing): expected an indented line below its name; add one or delete it."
            )

    def _add_words(self, words: Words, where: str, line: str) -> None:
        names, *shared = (part.strip() for part in line.split("|"))
        if 1 + len(shared) != len(words.fields):
            heading = f"words {words.name}: {' | '.join(words.fields)}"
            self._refuse(
                where,
                f"fields = {1 + len(shared)}: expected {len(words.fields)}, as in '{heading}'; separate them by '|'.",
            )
        for name in (name.strip() for name in names.removesuffix(",").split(",")):
            if not name or any(name == entry[0] for entry in words.entries):
                self._refuse(
                    where, f"word = {name!r}: expected a word that is not yet in {words.name}; delete it and its comma."
                )
            words.entries.append([name, *(field.replace("~", name) for field in shared)])

    def _find_remembered(self) -> dict[str, Words | None]:
        remembered: dict[str, Words | None] = {}
        for where, line in (placed for lines in self.lines.values() for placed in lines):
            for name, separator, kind in re.findall(r"\{(?:[aA] )?(\w+)([:=])([^}]+)\}", line):
                name = name[0].lower() + name[1:]
                is_number = SPAN.fullmatch(kind) or SUM.fullmatch(kind)
                words = self.words.get("number" if is_number else kind.split(".")[0]) if separator == ":" else None
                if remembered.setdefault(name, words) is not words:
                    self._refuse(where, f"name = {name}: expected one class for each name; use two names.")
        return remembered

    def _rule(self, name: str, where: str) -> Rule:
        if name in self.opened:
            way = " > ".join([*self.opened, name])
            self._refuse(
                where,
                f"rule = {name}: expected a rule that does not contain itself ({way}), because stories must end; "
                "remove one of these references.",
            )
        if name not in self.rules:
            self.opened.append(name)
            self.rules[name] = Rule([self._nodes(where, alternative) for where, alternative in self.lines[name]])
            self.opened.pop()
        return self.rules[name]

    def _nodes(self, where: str, line: str) -> list[Node]:
        line = re.sub(r"(\{\w+=[^}]*\}) ", r"\1", line)  # the space after a note goes with it
        nodes: list[Node] = []
        for part in re.split(r"(\{[^{}]*\})", line):
            if part.startswith("{") and part.endswith("}"):
                nodes.append(self._slot(where, part[1:-1]))
            elif "{" in part or "}" in part:
                self._refuse(where, f"text = {part[:40]!r}: expected braces in pairs; close or remove one.")
            elif part:
                nodes.append(Text(part))
        if re.search(r"\b[aA] \{", line):
            self._refuse(
                where,
                "text = 'a {...}': expected {a ...}, which chooses 'a' or 'an'; move the article into the slot.",
            )
        return nodes

    def _slot(self, where: str, body: str) -> Node:
        """The node for the text between two braces."""
        if note := NOTE.fullmatch(body):
            return Note(*note.groups())
        slot = SLOT.fullmatch(f":{body}" if SUM.fullmatch(body) else body)
        if not slot or not (slot[2] or slot[4]):
            self._refuse(
                where,
                f"slot = {{{body}}}: expected {{word}}, {{name.field}}, {{name:class}} or {{a word}}; correct it.",
            )
        article, name, field, kind = slot.groups()
        form = ("a" if article else "", (article or name or "a")[0].isupper())
        name = name and name[0].lower() + name[1:]
        if kind is None and name in self.remembered:
            if not (words := self.remembered[name]):
                self._refuse(
                    where, f"slot = {{{body}}}: expected a word or a number, but {name} is a fact; rename the fact."
                )
            return Copy((name,), words, self._column(where, words, field, form), None, where)
        if kind is None:
            name, kind = None, f"{name}.{field}" if field else name
        if span := SPAN.fullmatch(kind):
            low, high = map(int, span.groups())
            if not low <= high < len(NUMBERS):
                self._refuse(
                    where, f"range = {kind}: expected two numbers in order, up to {len(NUMBERS) - 1}; change it."
                )
            column = self.words["number"].column("name", *form)
            return Draw(Words("number", ["name"], self.words["number"].entries[low : high + 1]), column, name)
        if total := SUM.fullmatch(kind):
            left, sign, right = total.groups()
            words = self.words["number"]
            return Sum(left, 1 if sign == "+" else -1, right, words, words.column("name", *form), name, where)
        kind, _, field = kind.partition(".")
        if kind in self.words:
            return Draw(self.words[kind], self._column(where, self.words[kind], field, form), name)
        if kind in self.lines:
            rule = self._rule(kind, where)
            return Quote(rule, name) if name else rule
        hero = self.remembered.get(PRONOUNS_OF)
        if name is None and hero and kind in hero.fields:
            return Copy((PRONOUNS_OF,), hero, self._column(where, hero, kind, form), None, where)
        near = difflib.get_close_matches(kind, [*self.remembered, *self.words, *self.lines], 1)
        remedy = f"did you mean {near[0]}?" if near else f"define {kind} by 'words {kind}' or 'rule {kind}'."
        self._refuse(where, f"slot = {{{body}}}: expected a class, a rule or a remembered name; {remedy}")

    def _column(self, where: str, words: Words, field: str | None, form: tuple[str, bool]) -> int:
        field = field or words.fields[0]
        if field not in words.fields:
            self._refuse(
                where, f"field = {field}: expected {' or '.join(words.fields)}, the fields of {words.name}; change it."
            )
        return words.column(field, *form)
