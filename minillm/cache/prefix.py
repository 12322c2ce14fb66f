"""Prefix caching: pages are found by a hash of their text, so texts with a common prefix share its pages.

    digest of a page = hash(digest of the page before it, its tokens)

The keys and values of a token depend on all tokens before it, and so does the digest of its page: pages with the same
digest hold the same numbers. So a second question on a document reads only the question. A page without users keeps its
content until room is needed. Then the least recently used page is overwritten, the last page of a text first, because a
page is found only through the pages before it. Chained page hashes: vLLM (2023). Read before: `paged`.
"""

from array import array
from collections.abc import Sequence
from hashlib import sha256

from minillm.cache.paged import PagePool


def digests(tokens: Sequence[int], page_size: int, known: Sequence[bytes] = (), origin: bytes = b"") -> list[bytes]:
    """Digests of all full pages of a text; `known` are those of its first pages.

    `origin` stands for the digest before the first page: it differs for models that compute other keys and values.

    >>> a, b = digests([5, 6, 7, 8, 9], page_size=2), digests([5, 6, 0, 8], page_size=2)
    >>> len(a), a[0] == b[0], a[1] == b[1]
    (2, True, False)
    """
    chain = list(known)
    for i in range(len(chain) * page_size, len(tokens) - page_size + 1, page_size):
        chain.append(
            sha256((chain[-1] if chain else origin) + array("q", tokens[i : i + page_size]).tobytes()).digest()
        )
    return chain


class PrefixPool(PagePool):
    """A pool that finds full pages by digest. A page with a digest is never written: all its users copy it first."""

    def __init__(self, n_pages: int, page_size: int):
        super().__init__(n_pages, page_size)
        self.page_of: dict[bytes, int] = {}
        self.digest_of: dict[int, bytes] = {}
        self.idle: dict[int, None] = {}  # pages with a digest but no users, the least recently used first

    @property
    def n_free(self) -> int:
        """See `PagePool.n_free`. Idle pages count as free."""
        return len(self.free) + len(self.idle)

    def find(self, chain: Sequence[bytes]) -> list[int]:
        """The pages of the longest known prefix of a text. The caller must `share` them to keep them."""
        found = []
        for digest in chain:
            if digest not in self.page_of:
                break
            found.append(self.page_of[digest])
        return found

    def publish(self, pages: Sequence[int], chain: Sequence[bytes]) -> None:
        """Register full pages under their digests. Of two pages with the same text, the first stays registered."""
        for page, digest in zip(pages, chain, strict=False):
            if page not in self.digest_of and digest not in self.page_of:
                self.page_of[digest], self.digest_of[page] = page, digest

    def share(self, pages: Sequence[int]) -> None:
        """See `PagePool`."""
        super().share(pages)
        for page in pages:
            self.idle.pop(page, None)

    def copies(self, page: int, n_writers: int) -> int:
        """See `PagePool`."""
        return n_writers if page in self.digest_of else super().copies(page, n_writers)

    def _free_page(self) -> int:
        if self.free:
            return self.free.pop()
        page = next(iter(self.idle))
        del self.idle[page]
        del self.page_of[self.digest_of.pop(page)]
        return page

    def _retire(self, page: int) -> None:
        if page in self.digest_of:
            self.idle[page] = None
        else:
            self.free.append(page)
