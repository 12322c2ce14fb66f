"""Configs are strict, complete, and unchanged by a round trip through TOML or the command line."""

import dataclasses
import importlib
import math
import sys
import tomllib
from dataclasses import dataclass, field
from typing import Annotated, Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.__main__ import COMMANDS
from minillm.config.fields import (
    Above,
    AtLeast,
    AtMost,
    Between,
    Choice,
    Count,
    Fraction,
    Positive,
    describe,
    suggest,
    validate,
)
from minillm.config.flags import Parser, add_flags, override
from minillm.config.loading import brief, from_dict, keys, load, to_toml
from minillm.runs.config import RunConfig
from minillm.system.folders import version

ROUND, EDGED = {"circle": 0}, {"triangle": 3, "square": 4}


@dataclass(frozen=True)
class Some:
    """One field of each type."""

    text: str = "a"  # any text
    n: int = 1  # any number
    x: float = 0.5  # any fraction
    yes: bool = True  # or no
    kind: Literal["one", "two", "three"] = "one"  # one of three
    shape: Annotated[str, Choice(ROUND, EDGED)] = "circle"  # one of the keys of two dictionaries
    ids: tuple[int, ...] = ()  # many numbers
    names: tuple[str, ...] = ()  # many texts
    positive: Positive = 1  # at least 1
    rate: Annotated[float, Above(0)] = 1.0  # above 0
    share: Fraction = 0.5  # from 0 to 1
    # a remark about what follows
    last: Annotated[int, AtLeast(-3), Between(-9, 9)] = 0  # with two ranges

    def __post_init__(self) -> None:
        validate(self)


@dataclass(frozen=True)
class Small:
    """Another section."""

    n: Count = 3  # how many


@dataclass(frozen=True)
class Whole:
    """Two sections."""

    some: Some = field(default_factory=Some)
    small_one: Small = field(default_factory=Small)


@dataclass(frozen=True)
class Round:
    """One kind of a section."""

    kind: Literal["round"] = "round"  # which shape
    color: str = "red"  # of all shapes
    radius: Positive = 1  # of the round one


@dataclass(frozen=True)
class Square:
    """Another kind of the same section."""

    kind: Literal["square"] = "square"  # which shape
    color: str = "blue"  # of all shapes
    side: Positive = 2  # of the square one


@dataclass(frozen=True)
class Drawing:
    """A section that is one of two."""

    shape: Round | Square = field(default_factory=Round)
    small_one: Small = field(default_factory=Small)


texts = st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(
    ['"', "\\", "a\nb", "\t#'", '"""', "é\u2028\x00", "true", "1"]
)
ints, floats = st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False, allow_infinity=False)
somes = st.builds(
    Some,
    text=texts,
    n=ints,
    x=floats,
    yes=st.booleans(),
    kind=st.sampled_from(["one", "two", "three"]),
    shape=st.sampled_from([*ROUND, *EDGED]),
    ids=st.lists(ints, max_size=3).map(tuple),
    names=st.lists(texts, max_size=3).map(tuple),
    positive=st.integers(1, 2**40),
    rate=st.floats(0, exclude_min=True, allow_nan=False, allow_infinity=False),
    share=st.floats(0, 1),
    last=st.integers(-3, 9),
)
wholes = st.builds(Whole, some=somes, small_one=st.builds(Small, n=st.integers(0, 9)))


@given(wholes)
def test_a_config_written_as_toml_is_read_back_as_it_was(config):
    assert from_dict(Whole, tomllib.loads(to_toml(config))) == config


LINES = ['{%- if a == "b" -%}', "\\", "\\n", '"', '""', '"' * 3, '"' * 7, "'", "\t", "\r", "#", " ", "", "é\x00\u2028"]


@given(st.lists(st.sampled_from(LINES), max_size=5), st.lists(st.sampled_from(LINES), max_size=5))
def test_a_text_of_several_lines_is_written_in_several_lines(above, below):
    text = "".join(above) + "\n" + "\n".join(below)
    written = to_toml(Whole(Some(text=text)))
    assert from_dict(Whole, tomllib.loads(written)).some.text == text
    assert written.count("\n") == to_toml(Whole()).count("\n") + text.count("\n") + 1


def test_a_brief_config_does_not_show_all_of_a_long_text():
    told = brief(Whole(Some(text="x" * 9999)))
    assert len(told) < 600 and "9,6" in told and "characters more" in told


@given(wholes)
def test_a_config_given_as_flags_is_read_back_as_it_was(config):
    values = {f"some.{name}": value for name, value in dataclasses.asdict(config.some).items() if name != "names"}
    flags = {
        name: ",".join(map(str, value)) if isinstance(value, tuple) else str(value) for name, value in values.items()
    }
    flags["some.yes"] = flags["some.yes"].lower()
    assert override(Whole(), flags).some == dataclasses.replace(config.some, names=())


def test_the_config_of_a_run_survives_a_trip_through_a_file_and_flags_win(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(to_toml(RunConfig()), encoding="utf-8")
    assert load(RunConfig, path) == RunConfig()
    changed = override(
        load(RunConfig, path), {"train.max_steps": "70", "model.tied": "false", "sampling.banned_tokens": "3, 5"}
    )
    assert (changed.train.max_steps, changed.model.tied, changed.sampling.banned_tokens) == (70, False, (3, 5))
    assert dataclasses.replace(changed.train, max_steps=RunConfig().train.max_steps) == RunConfig().train


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_byte_order_mark_before_a_file_changes_nothing(mark, tmp_path):
    path = tmp_path / "run.toml"
    path.write_bytes(mark + '[some]\ntext = "\u00e9\ufeff"\n'.encode())
    assert load(Whole, path) == Whole(Some(text="\u00e9\ufeff"))


@given(wholes)
def test_a_brief_config_tells_the_values_that_are_not_the_default_and_no_others(config):
    told = brief(config)
    for section in ("some", "small_one"):
        value, default = getattr(config, section), getattr(Whole(), section)
        changed = [
            field.name
            for field in dataclasses.fields(value)
            if getattr(value, field.name) != getattr(default, field.name)
        ]
        line = next((line for line in told.split("\n") if line.startswith(f"[{section}]")), "")
        assert bool(line) == bool(changed) and [name for name in changed if f" {name} " not in line] == []
    assert told.count("\n") < 2 and (config != Whole() or told == "")


def test_a_brief_config_names_the_kind_of_a_section_that_has_several():
    assert brief(Drawing()) == "[shape]      kind round"
    assert brief(Drawing(Square(side=3, color="light blue"))) == '[shape]      kind square, color "light blue", side 3'


def test_what_a_file_leaves_out_is_the_default_and_a_whole_number_may_be_a_fraction(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text("[some]\nx = 3\n")
    config = load(Whole, path)
    assert config == Whole(Some(x=3.0))
    assert type(config.some.x) is float


@pytest.mark.parametrize("text", ["[some\n", "n = ", "\xff"])
def test_a_file_that_is_no_toml_is_refused_by_name(text, tmp_path):
    path = tmp_path / "odd.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"odd\.toml: expected a TOML file; "):
        load(Whole, path)


@pytest.mark.parametrize(
    ("tree", "sentence"),
    [
        ({"some": {"tekst": "b"}}, r"^some\.tekst: unknown key; expected .*did you mean text\?"),
        ({"smal_one": {}}, r"^smal_one: unknown section; expected .*did you mean small_one"),
        ({"qqq": {}}, r"^qqq: unknown section; expected one of some, small_one$"),
        ({"some": 3}, r"^some = 3: expected a section; write \[some\]"),
        ({"some": {"n": True}}, r"^some\.n = True: expected int$"),
        ({"some": {"n": 1.0}}, r"^some\.n = 1\.0: expected int$"),
        ({"some": {"n": "1"}}, r"^some\.n = '1': expected int$"),
        ({"some": {"x": True}}, r"^some\.x = True: expected float$"),
        ({"some": {"x": math.nan}}, r"^some\.x = nan: expected a finite number$"),
        ({"some": {"yes": 1}}, r"^some\.yes = 1: expected true or false$"),
        ({"some": {"text": 1}}, r"^some\.text = 1: expected text$"),
        ({"some": {"kind": "tow"}}, r"^some\.kind = 'tow': expected .*did you mean two"),
        ({"some": {"kind": 1}}, r"^some\.kind = 1: expected one of one, two, three$"),
        ({"some": {"shape": "squrae"}}, r"^some\.shape = 'squrae': expected .*did you mean square"),
        ({"some": {"shape": 4}}, r"^some\.shape = 4: expected one of circle, triangle, square$"),
        ({"some": {"ids": 1}}, r"^some\.ids = 1: expected comma-separated int$"),
        ({"some": {"ids": [1, "2"]}}, r"^some\.ids = '2': expected int$"),
        ({"some": {"positive": 0}}, r"^some\.positive = 0: expected int >= 1$"),
        ({"some": {"rate": 0}}, r"^some\.rate = 0\.0: expected float > 0$"),
        ({"some": {"rate": math.nan}}, r"^some\.rate = nan: expected a finite number$"),
        ({"some": {"share": 1.01}}, r"^some\.share = 1\.01: expected float 0 \.\.\. 1$"),
        ({"some": {"last": -4}}, r"^some\.last = -4: expected int >= -3 and -9 \.\.\. 9$"),
        ({"some": {"last": 10}}, r"^some\.last = 10: expected int"),
        ({"small_one": {"n": -1}}, r"^small_one\.n = -1: expected int >= 0$"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_full_name(tree, sentence):
    with pytest.raises(ValueError, match=sentence):
        from_dict(Whole, tree)


@pytest.mark.parametrize(
    ("flag", "text", "sentence"),
    [
        ("some.nn", "1", r"^--some\.nn: unknown key; expected .*did you mean some\.n"),
        ("n", "1", r"^--n: unknown key; expected one of .*did you mean .*\.n"),
        ("some", "1", r"^--some: unknown key"),
        ("some.n", "1.5", r"^--some\.n = '1\.5': expected int$"),
        ("some.n", "", r"^--some\.n = '': expected int$"),
        ("some.x", "one", r"^--some\.x = 'one': expected float$"),
        ("some.x", "nan", r"^--some\.x = nan: expected a finite number$"),
        ("some.yes", "True", r"^--some\.yes = 'True': expected true or false$"),
        ("some.yes", "1", r"^--some\.yes = '1': expected true or false$"),
        ("some.kind", "four", r"^--some\.kind = 'four': expected one of one, two, three$"),
        ("some.shape", "cube", r"^--some\.shape = 'cube': expected one of circle, triangle, square$"),
        ("some.ids", "1,x", r"^--some\.ids = 'x': expected int$"),
        ("some.positive", "0", r"^--some\.positive = 0: expected int >= 1$"),
        ("some.share", "2", r"^--some\.share = 2\.0: expected float 0 \.\.\. 1$"),
    ],
)
def test_a_flag_that_does_not_fit_is_refused_as_it_was_written(flag, text, sentence):
    with pytest.raises(ValueError, match=sentence):
        override(Whole(), {flag: text})


@pytest.mark.parametrize("shape", [Round(radius=5), Square(color="red"), Square(side=7)])
def test_a_section_of_several_kinds_is_read_back_as_the_kind_that_it_was(shape):
    drawing = Drawing(shape)
    assert from_dict(Drawing, tomllib.loads(to_toml(drawing))) == drawing
    assert override(drawing, {"small_one.n": "4", "shape.color": "green"}).shape == dataclasses.replace(
        shape, color="green"
    )


def test_the_kind_may_be_a_flag_and_another_kind_starts_from_its_own_defaults():
    assert override(Drawing(Round(color="green")), {"shape.side": "3", "shape.kind": "square"}).shape == Square(side=3)
    assert override(Drawing(Round(color="green")), {"shape.kind": "round"}).shape == Round(color="green")
    assert from_dict(Drawing, {"shape": {"radius": 3}}).shape == Round(radius=3)
    assert [key.name for key in keys(Drawing)] == [
        "shape.kind",
        "shape.color",
        "shape.radius",
        "shape.side",
        "small_one.n",
    ]
    assert next(keys(Drawing)).describe_type() == "one of round, square"


def test_a_key_of_another_kind_and_an_unknown_kind_are_refused():
    with pytest.raises(ValueError, match=r"^shape\.side: unknown key; expected one of kind, color, radius$"):
        from_dict(Drawing, {"shape": {"side": 3}})
    with pytest.raises(
        ValueError, match=r"^--shape\.side: unknown key of shape\.kind = round; expected shape\.kind = square beside it"
    ):
        override(Drawing(), {"shape.side": "3"})
    with pytest.raises(ValueError, match=r"^shape\.kind = 'sqare': expected .*did you mean square"):
        from_dict(Drawing, {"shape": {"kind": "sqare"}})
    with pytest.raises(ValueError, match=r"shape\.kind = 'sqare': expected .*did you mean square"):
        override(Drawing(), {"shape.kind": "sqare"})


def test_flags_with_dashes_are_named_with_dashes_in_errors():
    with pytest.raises(ValueError, match=r"^--no-repeat-ngram = 'x': expected int >= 0"):
        override(RunConfig().sampling, {"no_repeat_ngram": "x"}, dashes=True)


def test_a_new_key_of_a_dictionary_is_a_new_choice(monkeypatch):
    with pytest.raises(ValueError, match=r"Some\.shape = 'hexagon': expected one of circle, triangle, square$"):
        Some(shape="hexagon")
    monkeypatch.setitem(EDGED, "hexagon", 6)
    assert from_dict(Whole, tomllib.loads(to_toml(Whole(Some(shape="hexagon"))))).some.shape == "hexagon"
    assert "one of circle, triangle, square, hexagon; default" in " ".join(parser_of(Whole).format_help().split())


def test_a_dataclass_built_in_python_is_checked_as_strictly():
    with pytest.raises(ValueError, match=r"Some\.n = True: expected int"):
        Some(n=True)
    with pytest.raises(ValueError, match=r"Some\.positive = 0: expected int >= 1"):
        Some(positive=0)


def parser_of(cls: type, **how) -> Parser:
    parser = Parser(prog="prog")
    add_flags(parser, cls, **how)
    return parser


def test_help_tells_every_key_of_a_run_with_its_type_default_and_comment():
    told = "".join(parser_of(RunConfig).format_help().split())
    lines = [line for line in to_toml(RunConfig()).splitlines() if " = " in line]
    for key, line in zip(keys(RunConfig, tree=dataclasses.asdict(RunConfig())), lines, strict=True):
        default = line.partition(" = ")[2].removesuffix(f"  # {key.comment}")
        line = f"--{key.name} X {key.comment} ({key.describe_type()}; default {default})"
        assert "".join(line.split()) in told
    for key in keys(RunConfig):  # those of every kind of a section
        assert "".join(f"--{key.name} X {key.comment} ({key.describe_type()}; default".split()) in told


def test_every_key_of_a_run_has_a_comment_of_its_own():
    comments = [key.comment for key in keys(RunConfig)]
    assert len(comments) > 60 and all(comments)
    assert {key.name: key.comment for key in keys(Some)} == {
        "text": "any text",
        "n": "any number",
        "x": "any fraction",
        "yes": "or no",
        "kind": "one of three",
        "shape": "one of the keys of two dictionaries",
        "ids": "many numbers",
        "names": "many texts",
        "positive": "at least 1",
        "rate": "above 0",
        "share": "from 0 to 1",
        "last": "with two ranges",
    }


FLAGS, KEYS = ["--temperature", "--stream", "--stop", "--help"], ["train.temperature", "--train.stream", "some.temp_o"]


@pytest.mark.parametrize("known", [FLAGS, KEYS])
def test_names_that_go_on_as_an_unknown_one_begins_are_suggested_and_no_others(known):
    for name in known:
        for n in range(4, len(name)):
            unknown, goes_on = name[:n], [k for k in known if k.lstrip("-").startswith(name[:n].lstrip("-"))]
            if len(goes_on) <= 3:
                assert suggest(unknown, known) == f"one of {len(known)} names; did you mean {' or '.join(goes_on)}?"
    tails = {k: k.rpartition(".")[2].lstrip("-") for k in known}
    assert suggest("--temp", known).endswith(
        f"did you mean {' or '.join(k for k, t in tails.items() if t.startswith('temp'))}?"
    )
    assert "did you mean" in suggest("--temprature", known)


def test_several_ranges_are_told_with_a_word_between_them():
    assert describe(Annotated[float, Above(0), AtMost(1)]) == "float > 0 and <= 1"


def page() -> Parser:
    parser = Parser(prog="prog", description="What it does.", examples="prog --n 3   # three", often=["names", "n"])
    add_flags(parser, Some, dashes=True, heading="some words")
    return parser


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_is_one_short_page_with_the_examples_before_the_flags_that_are_used_most(flag, capsys):
    with pytest.raises(SystemExit) as stopped:
        page().parse([flag])
    out = capsys.readouterr().out
    assert stopped.value.code == 0
    order = [
        "What it does.",
        "prog --n 3   # three",
        "--names X",
        "--n X",
        f"prog --help-all lists all {len(list(keys(Some)))} flags.",
    ]
    assert [out.index(text) for text in order] == sorted(out.index(text) for text in order) and "--share" not in out


def test_help_all_tells_every_flag_below_its_heading(capsys):
    with pytest.raises(SystemExit) as stopped:
        page().parse(["--help-all"])
    out = capsys.readouterr().out
    assert stopped.value.code == 0 and all(f"--{key.name} X" in out for key in keys(Some)) and "\nsome words:\n" in out
    assert "Some" not in out


def test_only_flags_that_were_given_are_passed_on():
    args = vars(parser_of(Whole).parse(["--some.text", "a b", "--small_one.n=3"]))
    assert args == {"some.text": "a b", "small_one.n": "3"}
    assert vars(parser_of(Some, dashes=True).parse(["--text", "x"])) == {"text": "x"}


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (
            ["--train.max_step", "3"],
            "prog: --train.max_step: unknown flag; expected one of {n} names; did you mean --train.max_steps",
        ),
        (
            ["--max_steps=3"],
            "prog: --max_steps: unknown flag; expected one of {n} names; did you mean --train.max_steps",
        ),
        (["--train.max", "3"], "prog: --train.max: unknown flag; expected one of {n} names"),
        (["stray"], "prog: stray: unknown argument; expected one of {n} names"),
        (["--train.max_steps"], "prog: argument --train.max_steps: expected one argument"),
    ],
)
def test_an_unknown_flag_ends_with_status_2_and_a_suggestion(argv, sentence, capsys):
    with pytest.raises(SystemExit) as stopped:
        parser_of(RunConfig).parse(argv)
    assert stopped.value.code == 2
    n_flags = len(list(keys(RunConfig))) + 3  # -h, --help and --version
    assert capsys.readouterr().err.startswith(sentence.format(n=n_flags))


@pytest.mark.parametrize(("word", "told"), [("tow", "did you mean two?"), ("q", "expected one of one, two, three")])
def test_a_choice_that_is_none_of_those_there_are_is_refused_in_a_sentence(word, told, capsys):
    parser = Parser(prog="prog")
    parser.add_argument("--kind", choices=["one", "two", "three"])
    with pytest.raises(SystemExit) as stopped:
        parser.parse(["--kind", word])
    err = capsys.readouterr().err
    assert stopped.value.code == 2 and err.startswith(f"prog: --kind {word}: expected ") and err.endswith(f"{told}\n")


def test_every_command_tells_its_version(capsys):
    with pytest.raises(SystemExit) as stopped:
        Parser(prog="prog").parse(["--version"])
    assert stopped.value.code == 0 and capsys.readouterr().out.startswith(
        f"minillm {version()} (torch {torch.__version__}, Python "
    )


@pytest.mark.parametrize("seed", [-1, 2**32, 2**70])
@pytest.mark.parametrize("section", ["train", "data"])
def test_a_seed_beyond_32_bits_is_refused(section, seed):
    assert getattr(override(RunConfig(), {f"{section}.seed": str(2**32 - 1)}), section).seed == 2**32 - 1
    with pytest.raises(ValueError, match=rf"^--{section}\.seed = {seed}: expected int 0 \.\.\. 4294967295$"):
        override(RunConfig(), {f"{section}.seed": str(seed)})


@pytest.mark.parametrize(
    ("module", "words", "sentence"),
    [
        ("minillm.models.ngram", [], "the following arguments are required: text"),
        ("minillm.models.ngram", ["one. two.", "--order", "0"], "NgramConfig.order = 0: expected int >= 1"),
        ("benchmarks", ["--only", "wrong"], "--only wrong: expected one of "),
        (
            "benchmarks",
            ["--only", "decod"],
            f"--only decod: expected one of {len(COMMANDS)} names; did you mean decode?",
        ),
        ("benchmarks.imports", ["--repeat", "3"], "--repeat: unknown flag; expected "),
    ],
)
def test_a_wrong_word_to_a_module_that_runs_gets_a_sentence_and_no_usage(module, words, sentence, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [module, *words])
    main = importlib.import_module(f"{module}.__main__" if module == "benchmarks" else module).main
    with pytest.raises(SystemExit) as stopped:
        main()
    err = capsys.readouterr().err
    assert stopped.value.code == 2 and f": {sentence}" in err and err.count("\n") == 1 and "usage" not in err
