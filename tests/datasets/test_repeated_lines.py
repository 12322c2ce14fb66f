"""Laws of line-level deduplication: the first copies stay, short lines stay, and nothing else changes."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from minillm.datasets.plain_text import normalize
from minillm.datasets.repeated_lines import without_line_copies

lines = st.sampled_from(["home", "read more here", "  read more here", "one", "one two", "", "three four five"])
paragraphs = st.lists(lines, max_size=7).map("\n".join).map(normalize)


def non_empty(text: str) -> list[str]:
    return [line.strip() for line in text.split("\n") if line.strip()]


@given(st.lists(paragraphs, max_size=7), st.integers(1, 3), st.integers(1, 4))
def test_the_first_copies_of_each_long_line_stay_in_their_documents(documents, n_copies, n_words):
    seen, expected = Counter(), []
    for document in documents:
        expected.append([])
        for line in non_empty(document):
            seen[line] += 1
            if len(line.split()) < n_words or seen[line] <= n_copies:
                expected[-1].append(line)
    rewritten = without_line_copies(documents, n_copies, n_words)
    assert [non_empty(text) for text, _ in rewritten] == expected
    assert [n for _, n in rewritten] == [
        len(non_empty(before)) - len(after) for before, after in zip(documents, expected, strict=True)
    ]
    assert all(normalize(text) == text for text, _ in rewritten)
    assert all(text == document for (text, n), document in zip(rewritten, documents, strict=True) if n == 0)
    again = without_line_copies([text for text, _ in rewritten], n_copies, n_words)
    assert again == [(text, 0) for text, _ in rewritten]


def test_indentation_counts_for_nothing_but_stays():
    documents = ["if a:\n    return one of many", "return one of many\n\nend", "    return one of many"]
    assert without_line_copies(documents, 1, 3) == [(documents[0], 0), ("end", 1), ("", 1)]
    assert without_line_copies(documents, 2, 3)[:2] == [(documents[0], 0), (documents[1], 0)]
