"""The source's own loss: the least loss that any model can have on held-out stories of a corpus (Gibbs' inequality).

    -log p(story | kept) = -log p(story) + log P(kept)

A cleaning rule that judges each story by itself (its length, its symbols) selects stories, and a model can learn that
the remaining ones were selected. P(kept) is the share of stories that pass, estimated from the corpus. Where a story is
cut, rewritten, or removed because of other stories, this formula does not hold, no bound is known, and none is
reported. Read before: `stories`, `cleaning`.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from minillm.datasets.cleaning import Report
from minillm.datasets.stories import World


class Source(NamedTuple):
    """A world, conditioned on its stories being kept by a cleaning."""

    world: World
    log_share: float = 0.0  # ln P(kept)
    error: float = 0.0  # standard error of log_share; 0 where nothing was removed

    def nats(self, stories: Sequence[str]) -> float:
        """Minus the log probability of stories that were kept."""
        return len(stories) * self.log_share - math.fsum(map(self.world.log_prob, stories))


def find_source(
    world: World | None, written: Sequence[str], kept: Sequence[str], report: Report | None
) -> tuple[Source | None, str]:
    """The source of the `kept` documents among those `written`, and a remark; None if no bound is known.

    `report` is the report of the cleaning, None without one.
    """
    if world is None:
        return None, ""
    originals = set(written)
    n_changes = report.n_changes if report is not None else 0
    changed = next((document for document in kept if document not in originals), None)
    reasons = {
        "the only story is cut in two, and the source writes whole ones": len(kept) == 1,
        # subtle: a changed story may be equal to another one that was written, so changes count too
        f"cleaning changed stories ({(changed or '')[:40]!r}...)": changed is not None or n_changes > 0,
        "cleaning removed stories that resemble others": report is not None and report.n_repeated > 0,
    }
    if reason := next((reason for reason, holds in reasons.items() if holds), ""):
        return (
            None,
            f"the source's own loss is unknown here, so regret is not measured and no leak is detected: {reason}",
        )
    if len(kept) == len(written):
        return Source(world), ""
    share = len(kept) / len(written)
    source = Source(world, math.log(share), math.sqrt((1 - share) / len(kept)))
    remark = f"the source's own loss is that of the {len(kept):,} of {len(written):,} stories that cleaning kept: "
    return (
        source,
        f"{remark}ln {share:.3f} = {source.log_share:.3f} +- {source.error:.3f} nats a story were added to it",
    )
