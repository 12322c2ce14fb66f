"""Documents as rows: one document a row, and rows of similar length together in a batch.

    row       END  Once  upon  ...  end  .          targets   Once  upon  ...  end  .  END

In `windows` a row has several documents, so a text sees those before it, and the document that a row cuts off is read
again in the next row. Here each token is a target once an epoch, no text sees another, and attention is as long as the
documents are: with short ones and a long context, a step has more of them in the same time. A document that is longer
than the context becomes several rows. Rows are filled up with END on the right, which causal models never see. Read
before: `buckets`, `tokens`.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from minillm.constants import IGNORE
from minillm.datasets.batch import Batch, padded
from minillm.datasets.tokens import TokenStream


class DocumentRows:
    """The `Rows` of a stream of documents."""

    def __init__(self, stream: TokenStream, context_length: int):
        self.ids, self.spans = stream.ids, document_spans(stream, context_length)

    def __len__(self) -> int:
        return len(self.spans)

    def lengths(self) -> np.ndarray:
        """Targets of each row, (n, 1)."""
        return self.spans[:, 1:] - self.spans[:, :1]

    def batch(self, rows: Sequence[int]) -> Batch:
        """The batch of these rows, filled up on the right to the longest."""
        texts = [self.ids[begin : end + 1].astype(np.int64) for begin, end in self.spans[rows]]
        end_id = int(self.ids[0])
        return Batch(padded([text[:-1] for text in texts], end_id), padded([text[1:] for text in texts], IGNORE))


def document_spans(stream: TokenStream, context_length: int) -> np.ndarray:
    """The places (first token, last target) of each row, (n, 2): documents, cut into pieces of at most T tokens.

    >>> ids = np.array([0, 7, 8, 9, 0, 5, 0])
    >>> document_spans(TokenStream(ids, starts=np.array([0, 4]), n_bytes=4), context_length=3).tolist()
    [[0, 3], [3, 4], [4, 6]]
    """
    borders = [*stream.starts.tolist(), len(stream.ids) - 1]
    spans = [
        (first, min(first + context_length, end))
        for begin, end in pairwise(borders)
        for first in range(begin, end, context_length)
    ]
    return np.array(spans, np.int64)
