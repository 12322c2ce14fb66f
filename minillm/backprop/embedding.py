"""Backward of an embedding, a table look-up: only the rows that were looked up have a derivative (Bengio et al. 2003).

    y = table[id]          dtable[v] = sum of dy over all places where id = v

It equals a linear layer over one-hot vectors, without the zeros. It serves tokens and learned positions. Read before:
`linear`.
"""

from torch import Tensor


def embedding(ids: Tensor, table: Tensor) -> tuple[Tensor, tuple]:
    """ids (...) long, table (V, D) -> y (..., D), kept."""
    return table[ids], (ids, table.shape[0])


def embedding_backward(dy: Tensor, kept: tuple) -> Tensor:
    """dy (..., D) -> dtable (V, D)."""
    ids, n_rows = kept
    dtable = dy.new_zeros(n_rows, dy.shape[-1])
    return dtable.index_add_(0, ids.flatten(), dy.reshape(-1, dy.shape[-1]))
