"""The diary: stories in the first person, a grammar that includes another one and changes a part of it."""

import itertools
import re
from pathlib import Path

import pytest

from minillm.datasets.stories import DIARY, World


@pytest.fixture(scope="module")
def diary():
    return World(DIARY)


def test_the_hero_tells_every_page(diary):
    names = [entry[0] for entry in World().grammar.words["hero"].entries]
    for page in diary.generate(1000, seed=7):
        assert not re.search(rf"\b({'|'.join(names)})\b", page) and re.search(r"\bI\b", page)
        assert not re.search(r"\bThey\b|ogether they|gave them|\bthey (had|were|could|found|left|spent)\b", page)
        assert not re.search(r"\b(I's|and I's|to I|(hit|gave|gives|bit|knows) I)\b", page)
        assert page.isascii() and "  " not in page and page.count('"') % 2 == 0


def test_every_page_is_read_in_exactly_one_way_and_is_no_story(diary):
    stories = World()
    for tale in itertools.islice(diary.tales(seed=3), 60):
        page = "".join(tale.out)
        (reading,) = diary.derivations(page)
        assert reading.logprob == pytest.approx(tale.logprob, abs=1e-9)
        assert not stories.is_valid(page)
    assert not any(map(diary.is_valid, stories.generate(30, seed=3)))


def test_a_page_lacks_the_choice_of_a_name_and_is_as_long_as_a_story(diary):
    mean, error = diary.entropy(3000, seed=6)
    assert abs(mean - diary.nats) < 4 * error
    stories = World()
    assert stories.nats - 6 < diary.nats < stories.nats and diary.max_words <= stories.max_words
    facts = diary.facts(diary.generate(1, seed=1)[0])
    assert facts["hero"] == "I" and facts["hero_is"] == "child"


OLD = "words mood\n  sad, glad\nwords color\n  red\nrule story\n  - {mood} {end}\nrule end\n  - {color}!\n"


def world_of(folder: Path, **files: str) -> World:
    for name, text in files.items():
        (folder / f"{name}.txt").write_text(text)
    return World(folder / "new.txt")


def test_what_a_file_defines_replaces_what_it_includes(tmp_path):
    world = world_of(
        tmp_path, old=OLD, new="include old.txt\nwords color\n  blue, green\nrule end\n  - {color}?\n  - {color}.\n"
    )
    expected = {f"{mood} {color}{end}" for mood in ("sad", "glad") for color in ("blue", "green") for end in "?."}
    assert set(world.generate(200, seed=0)) == expected


@pytest.mark.parametrize(
    ("new", "sentence"),
    [
        ("include older.txt", r"new\.txt line 1: include = older\.txt: expected another file in the same folder"),
        ("\ninclude new.txt", r"new\.txt line 2: include = new\.txt: expected another file"),
        ("include back.txt", r"back\.txt line 1: include = new\.txt: expected another file"),
        ("include old.txt\nrule end\n  - x\nrule end\n  - y", r"new\.txt line 4: name = end: expected a new one"),
        ("words mood\n  sad\ninclude old.txt", r"old\.txt line 1: name = mood: expected a new one"),
        ("include old.txt\nwords color\n  red | hot", r"new\.txt line 3: fields = 2: expected 1"),
        ("include old.txt\nrule end\n  - {colour}", r"new\.txt line 3: slot = \{colour\}: .* did you mean color\?"),
        ("include bad.txt", r"bad\.txt line 2: line = 'Once'"),
    ],
)
def test_a_wrong_line_is_named_with_the_file_that_it_stands_in(tmp_path, new, sentence):
    with pytest.raises(ValueError, match=sentence):
        world_of(tmp_path, old=OLD, new=new, back="include new.txt", bad="rule story\n  Once")
