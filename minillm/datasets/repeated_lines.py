"""Line-level deduplication: remove the lines that a corpus repeats, such as menus, footers and license notes.

Web pages of one site share such boilerplate although their documents differ, so comparing documents does not find it.
Each line is counted over the whole corpus, without its indentation; the first copies stay where they are. Lines of few
words ("}", "Yes.") are repeated in good text too and are never removed. Source: Wenzek et al. 2020 (CCNet), who compare
paragraphs of the web.
"""

from collections import Counter
from collections.abc import Sequence

from minillm.datasets.plain_text import normalize


def without_line_copies(documents: Sequence[str], n_copies: int, n_words: int) -> list[tuple[str, int]]:
    r"""Each normalized document without the further copies of lines, and the number of lines removed from it.

    The first `n_copies` of a line stay, in the order of the documents; lines of fewer than `n_words` words stay always.

    >>> without_line_copies(["One story.\nRead more here!", "Another.\nRead more here!"], n_copies=1, n_words=3)
    [('One story.\nRead more here!', 0), ('Another.', 1)]
    """
    seen: Counter[str] = Counter()
    rewritten = []
    for document in documents:
        lines = document.split("\n")
        kept = [line for line in lines if not _is_copy(line.strip(), seen, n_copies, n_words)]
        n_removed = len(lines) - len(kept)
        # empty lines around removed ones are joined
        rewritten.append((normalize("\n".join(kept)) if n_removed else document, n_removed))
    return rewritten


def _is_copy(line: str, seen: Counter[str], n_copies: int, n_words: int) -> bool:
    """Count a line; return whether enough copies of it were counted before."""
    if len(line.split()) < n_words:
        return False
    seen[line] += 1
    return seen[line] > n_copies
