"""Command-line flags of a config: `--section.key value` sets a leaf, and an unknown flag gets a suggestion.

A flag is text until the type of its field converts it, as strictly as a value in a file. `override` applies flags to a
config and builds it anew, so that all checks run on the result. --help-all lists every flag. Read before: `loading`.
"""

import argparse
import dataclasses
import functools
import importlib.metadata
import platform
import sys
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

from minillm.config.fields import describe, fit, kinds_of, suggest
from minillm.config.loading import from_dict, keys, literal
from minillm.system.folders import version

C = TypeVar("C")


class Parser(argparse.ArgumentParser):
    """An argparse parser that suggests the nearest flag for an unknown one and accepts no abbreviations.

    With `examples`, --help is one short page: the description, the examples, and the flags in `often`; --help-all lists
    all flags.
    """

    def __init__(self, examples: str = "", often: Sequence[str] = (), **how: Any):
        """`examples`: command lines, one a line. `often`: destinations of flags, in the order of the short page."""
        how.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        how.setdefault("prog", _program())
        super().__init__(allow_abbrev=False, **how)
        self.examples, self.often = examples, often
        self.add_argument("--version", action=_Version, help="show the versions of minillm, torch and Python, and exit")
        if examples:
            self.add_argument("--help-all", action=_HelpAll, help="show every flag and exit")

    def format_help(self) -> str:
        """The short page if there are examples, else all flags."""
        if not self.examples:
            return self.format_all()
        flags = {action.dest: action for action in self._actions}
        formatter = self._get_formatter()
        formatter.add_text(self.description)
        formatter.start_section("examples")
        formatter.add_text(self.examples)
        formatter.end_section()
        formatter.start_section("flags that are used most")
        formatter.add_arguments([flags[name] for name in self.often])
        formatter.end_section()
        n_flags = len([action for action in self._actions if action.dest not in ("help", "help_all", "version")])
        formatter.add_text(f"{self.prog} --help-all lists all {n_flags} flags.")
        return formatter.format_help()

    def format_all(self) -> str:
        """The description and every flag."""
        return super().format_help()

    def parse(self, argv: list[str] | None = None) -> argparse.Namespace:
        """Parse known flags; any other one exits with status 2 and a sentence."""
        known, unknown = self.parse_known_args(argv)
        if unknown:
            flags = [option for action in self._actions for option in action.option_strings]
            name = unknown[0].split("=")[0]
            self.error(
                f"{name}: unknown {'flag' if name.startswith('-') else 'argument'}; expected {suggest(name, flags)}"
            )
        return known

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Refuse a value that is not among a flag's choices, with the nearest ones; called by argparse."""
        if action.choices is not None and value not in action.choices:
            expected = suggest(str(value), list(map(str, action.choices)))
            raise argparse.ArgumentError(
                None, f"{'/'.join(action.option_strings) or action.dest} {value}: expected {expected}"
            )


def _program() -> str:
    """The name of the running program: a script, or `python -m` and a module."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return f"python -m {spec.name.removesuffix('.__main__')}" if spec else Path(sys.argv[0]).name


class _Version(argparse.Action):
    """--version: print the versions and exit."""

    def __init__(self, **how: Any):
        super().__init__(nargs=0, default=argparse.SUPPRESS, **how)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        print(f"minillm {version()} (torch {importlib.metadata.version('torch')}, Python {platform.python_version()})")
        parser.exit()


class _HelpAll(argparse.Action):
    """--help-all: print every flag and exit."""

    def __init__(self, **how: Any):
        super().__init__(nargs=0, default=argparse.SUPPRESS, **how)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        print(parser.format_all(), end="")  # type: ignore[attr-defined]
        parser.exit()


def add_flags(
    parser: argparse.ArgumentParser, cls: type, prefix: str = "", dashes: bool = False, heading: str = ""
) -> None:
    """Add one flag for each leaf, with type, default and comment as its help; absent flags are not in the namespace.

    `dashes`: names in the style of commands (--top-p) instead of configs (--train.max_steps). `heading`: the title
    above the leaves outside of sections.
    """
    groups: dict[str, argparse._ArgumentGroup] = {}
    for key in keys(cls, prefix):
        section = key.name.rpartition(".")[0]
        if section not in groups:
            groups[section] = parser.add_argument_group(f"[{section}]" if section else heading)
        flag = "--" + (key.name.replace("_", "-") if dashes else key.name)
        text = f"{key.comment} ({key.describe_type()}; default {literal(key.default)})".replace("%", "%%")
        groups[section].add_argument(flag, dest=key.name, metavar="X", default=argparse.SUPPRESS, help=text)


def override(config: C, flags: Mapping[str, str], dashes: bool = False) -> C:
    """A copy of a config with some leaves replaced by the texts of flags, named as in `add_flags`.

    Raises ValueError for a text that does not fit.
    """
    tree = dataclasses.asdict(config)  # type: ignore[call-overload]
    for name, text in flags.items():
        section, _, leaf = name.rpartition(".")
        several = leaf == "kind" and len(kinds_of(typing.get_type_hints(type(config)).get(section))) > 1
        if several and tree[section]["kind"] != text:
            tree[section] = {"kind": text}  # another kind starts from its own defaults
    leaves = {key.name: key for key in keys(type(config), tree=tree)}
    for name, text in flags.items():
        if name not in leaves:
            wrong = _of_another_kind(type(config), tree, name) or f"; expected {suggest(name, list(leaves))}"
            raise ValueError(f"--{name}: unknown key{wrong}")
        *sections, leaf = name.split(".")
        flag = "--" + (name.replace("_", "-") if dashes else name)
        functools.reduce(dict.__getitem__, sections, tree)[leaf] = _parse(text, leaves[name].hint, flag)
    return from_dict(type(config), tree)


def _of_another_kind(cls: type, tree: Mapping[str, Any], name: str) -> str:
    """The sentence for a key that only other kinds of its section have; empty for any other key."""
    section, _, leaf = name.rpartition(".")
    kinds = kinds_of(typing.get_type_hints(cls).get(section))
    owners = [kind for kind, member in kinds.items() if leaf in {field.name for field in dataclasses.fields(member)}]
    if not owners:
        return ""
    needed = f"{section}.kind = {' or '.join(owners)}"
    return (
        f" of {section}.kind = {tree[section]['kind']}; expected {needed} beside it; leave it out, or change the kind"
    )


def _parse(text: str, hint: Any, name: str) -> Any:
    """Convert a flag's text to its value."""
    base = typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint
    if base is bool:
        if text not in ("true", "false"):
            raise ValueError(f"{name} = {text!r}: expected true or false")
        value: Any = text == "true"
    elif base in (int, float):
        try:
            value = base(text)
        except ValueError:
            raise ValueError(f"{name} = {text!r}: expected {describe(hint)}") from None
    elif typing.get_origin(base) is tuple:
        value = tuple(_parse(part.strip(), typing.get_args(base)[0], name) for part in text.split(",") if part.strip())
    else:
        value = text
    return fit(value, hint, name)
