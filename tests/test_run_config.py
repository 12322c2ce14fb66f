"""What the sections of a run's config must agree about is refused before anything is read."""

import pytest

from minillm.flags import override
from minillm.run import TASKS, build_task
from minillm.run_config import RunConfig

KINDS = {"decoder": "NextToken", "rnn": "NextToken", "ngram": "Counting", "encoder": "Blanks", "encoder_decoder": "Translation"}


@pytest.mark.parametrize(("kind", "task"), KINDS.items())
def test_the_kind_of_model_says_what_is_learned(kind, task):
    assert type(build_task(override(RunConfig(), {"model.kind": kind}))).__name__ == task
    assert len(TASKS) == len(KINDS), "every kind is tried"


def test_labels_are_told_wherever_they_are_asked_for():
    assert type(build_task(override(RunConfig(), {"model.kind": "encoder", "labels.kind": "ending"}))).__name__ == "Labels"


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ({"labels.kind": "ending"}, r"^labels\.kind = ending: expected model\.kind = encoder"),
        ({"masking.fraction": "0.2"}, r"^masking: expected only beside model\.kind = encoder and labels\.kind = none"),
        ({"masking.fraction": "0.2", "model.kind": "encoder", "labels.kind": "ending"}, r"^masking: expected only beside "),
        ({"train.label_smoothing": "0.1", "model.kind": "encoder"}, r"^train\.label_smoothing = 0\.1: expected 0 beside"),
        *(
            ({"data.order": "contiguous", "model.kind": kind}, rf"^data\.order = contiguous: expected model\.kind = rnn, .*, not {kind};")
            for kind in KINDS
            if kind != "rnn"
        ),
        (
            {"data.order": "contiguous", "model.kind": "rnn", "train.backward": "manual"},
            r"^data\.order = contiguous: expected epochs or random beside train\.backward = manual",
        ),
    ],
)
def test_sections_that_contradict_each_other_are_refused(flags, sentence):
    with pytest.raises(ValueError, match=sentence):
        override(RunConfig(), flags)
