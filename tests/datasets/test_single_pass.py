"""A single pass: every token is a target once, with all the context that its document and the overlap allow."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minillm.constants import EMPTY, IGNORE
from minillm.datasets.single_pass import SinglePass
from minillm.datasets.tokens import TokenStream


def stream_of(lengths: list[int]) -> TokenStream:
    """Documents of ids that occur once each, so that an id says where it stands; id 0 ends each."""
    ids, starts = [0], []
    for n in lengths:
        starts.append(len(ids) - 1)
        ids += [*range(len(ids), len(ids) + n), 0]
    return TokenStream(np.array(ids, np.uint16), np.array(starts), n_bytes=1)


cuts = {"lengths": st.lists(st.integers(0, 30), min_size=1, max_size=6), "fresh": st.integers(1, 11)}


@given(**cuts, overlap=st.integers(0, 4), batch_size=st.integers(1, 5))
def test_every_id_but_the_first_is_a_target_once_in_its_order_after_its_context(lengths, fresh, overlap, batch_size):
    stream = stream_of(lengths)
    dealt = SinglePass(stream, fresh + overlap, batch_size, overlap)
    seen = []
    for step in range(dealt.n_steps):
        batch = dealt.batch(step)
        assert batch.tokens.shape == batch.targets.shape and 1 <= len(batch.tokens) <= batch_size
        for tokens, targets in zip(batch.tokens.tolist(), batch.targets.tolist(), strict=True):
            row = [t for t in tokens if t != EMPTY]
            first = next(i for i, target in enumerate(targets) if target != IGNORE)
            for i, target in enumerate(targets):
                if target != IGNORE:
                    seen.append(target)
                    assert i == first or targets[i - 1] == tokens[i], "without gaps"
            n_before = sum(t != EMPTY for t in tokens[: first + 1])
            assert row[0] == 0 or n_before == overlap + 1, (
                "from the beginning of the document, or as much as was asked for"
            )
            assert 0 not in row[1:], "no row reaches into another document"
    assert seen == stream.ids[1:].tolist()


def test_a_step_beyond_the_end_and_rows_too_short_for_the_overlap_are_refused():
    stream = stream_of([7, 5])
    with pytest.raises(ValueError, match=r"step 3: expected at most 2, .* lower train\.max_steps"):
        SinglePass(stream, 10, 1, 2).batch(2)
    with pytest.raises(ValueError, match=r"model\.context_length = 2: expected more than model\.order - 1 = 2"):
        SinglePass(stream, 2, 1, 2)
