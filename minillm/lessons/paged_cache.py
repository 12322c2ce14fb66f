"""Paged KV cache: memory is divided into pages of a few tokens, and each text has a table of its pages.

    token i of a text is in page table[i // page_size], at place i % page_size

A contiguous cache reserves memory for the longest possible text, and most of it stays empty. With pages, a text takes a
new page only when its last one is full, so it wastes less than one page, and its pages may be anywhere. Texts with the
same beginning share the pages of that beginning, so copying a text means copying its table. Before a text writes into a
shared page, it gets its own copy of that page (copy on write).

Paper: Kwon et al. 2023, "Efficient Memory Management for Large Language Model Serving with PagedAttention".
Read before: kv_cache.
Then read: minillm/cache/paged.py, minillm/cache/prefix.py
Try: python sample.py --cache paged

Change it:
    - self.copy_if_shared(table, page)
Shown: C reads 0 1 2 3 4 5 6
"""

from collections import defaultdict

import torch
from torch import Tensor


class PagedCache:
    """Pages of keys and values that many texts share; `memory` is (n_pages, page_size, 2, K)."""

    def __init__(self, memory: Tensor):
        self.memory = memory
        self.free = list(range(len(memory)))
        self.n_users = [0] * len(memory)  # texts that use each page
        self.tables, self.lengths = defaultdict(list), defaultdict(int)  # of each text

    def append(self, text: str, kv: Tensor) -> None:
        """Write the key and the value (2, K) of the next token of a text. Raises IndexError if no page is free."""
        table = self.tables[text]
        page, place = divmod(self.lengths[text], self.memory.shape[1])
        if page == len(table):
            table.append(self.take())
        self.copy_if_shared(table, page)
        self.memory[table[page], place] = kv
        self.lengths[text] += 1

    def read(self, text: str) -> Tensor:
        """The keys and values of a text, (S, 2, K)."""
        return self.memory[self.tables[text]].flatten(0, 1)[: self.lengths[text]]

    def fork(self, text: str, copy: str) -> None:
        """Add a copy of a text, which shares all of its pages."""
        self.tables[copy], self.lengths[copy] = list(self.tables[text]), self.lengths[text]
        for page in self.tables[copy]:
            self.n_users[page] += 1

    def drop(self, text: str) -> None:
        """Remove a text."""
        for page in self.tables.pop(text):
            self.release(page)
        del self.lengths[text]

    def take(self) -> int:
        page = self.free.pop(0)
        self.n_users[page] = 1
        return page

    def release(self, page: int) -> None:
        self.n_users[page] -= 1
        if self.n_users[page] == 0:
            self.free.append(page)

    def copy_if_shared(self, table: list[int], page: int) -> None:
        """Give a table its own copy of a page if other texts use the page too."""
        if self.n_users[table[page]] > 1:
            old, table[page] = table[page], self.take()
            self.memory[table[page]] = self.memory[old]
            self.release(old)


def main() -> None:
    """Two texts in pages of 4 tokens, then a copy of one of them with a different continuation."""
    cache = PagedCache(torch.zeros(6, 4, 2, 1))
    for text, n in (("A", 6), ("B", 3)):
        for i in range(n):
            cache.append(text, torch.full((2, 1), float(i)))
        print(f"text {text} has {n} tokens in pages {cache.tables[text]}")
    print(f"token 5 of A: page table[5 // 4] = {cache.tables['A'][5 // 4]}, place 5 % 4 = {5 % 4}")
    print(f"9 tokens take {4 * (6 - len(cache.free))} places; with 16 reserved for each text they take 32")
    cache.fork("A", "C")
    print(f"\nC, a copy of A: pages {cache.tables['C']}, users of each page {cache.n_users}, free {cache.free}")
    cache.append("C", torch.full((2, 1), 9.0))
    cache.append("A", torch.full((2, 1), 6.0))
    print(f"C continues with 9, A with 6: C in pages {cache.tables['C']}, A in pages {cache.tables['A']}")
    for text in "AC":
        print(text, "reads", *(int(key) for key in cache.read(text)[:, 0, 0]))


if __name__ == "__main__":
    main()
