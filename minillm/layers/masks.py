"""Attention masks: which slots a query may attend to, from positions alone.

A query at position i sees a key at position j if the slot is filled, if j <= i (causal), and if i - j < window. This
one rule covers prefill, chunks, single decoding steps, padding, ragged batches, and paged or evicting caches: they
differ only in their positions.
"""

from torch import Tensor


def visible(q_positions: Tensor, k_positions: Tensor, causal: bool, window: int = 0) -> Tensor:
    """The attention mask, True where a query may see a slot.

    q_positions (B or 1, T) and k_positions (B or 1, G or 1, S) have -1 for empty; window 0 is no window. Returns
    (B or 1, G or 1, T, S); T is 1 if all queries see the same slots. Under the causal rule an empty query sees nothing.

    >>> import torch
    >>> places = torch.arange(4)[None]  # one text: the query in row i sees the keys of columns 0 ... i
    >>> visible(places, places[:, None], causal=True)[0, 0].int()
    tensor([[1, 0, 0, 0],
            [1, 1, 0, 0],
            [1, 1, 1, 0],
            [1, 1, 1, 1]], dtype=torch.int32)
    >>> visible(places, places[:, None], causal=True, window=2)[0, 0].int()
    tensor([[1, 0, 0, 0],
            [1, 1, 0, 0],
            [0, 1, 1, 0],
            [0, 0, 1, 1]], dtype=torch.int32)
    >>> padded = torch.tensor([[-1, 0, 1]])  # the first column is padding
    >>> visible(padded, padded[:, None], causal=True)[0, 0].int()
    tensor([[0, 0, 0],
            [0, 1, 0],
            [0, 1, 1]], dtype=torch.int32)
    """
    q, k = q_positions[:, None, :, None], k_positions[:, :, None, :]
    mask = k >= 0
    if causal:
        mask = mask & (k <= q)
    if window:
        mask = mask & (q - k < window)
    return mask
