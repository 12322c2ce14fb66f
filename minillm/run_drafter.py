"""Who drafts for a run: another run, a table counted from the text that it learned from, or the text at hand itself.

Read `run_folder` and `decoding/drafts.py` before.
"""

from collections.abc import Sequence
from pathlib import Path

from minillm.datasets.single_pass import SinglePass
from minillm.decoding.drafts import Drafter, ModelDrafter, PromptLookup, relative_cost
from minillm.models.base import device_of
from minillm.models.ngram import Ngram, NgramConfig
from minillm.run import build_data
from minillm.run_folder import OpenRun, open_run

DRAFT_ORDER = 4  # tokens of the n-grams that are counted for a draft


def build_drafter(name: str, opened: OpenRun, prompts: Sequence[str]) -> Drafter:
    """Who drafts for a run that is to go on from these prompts: the text itself, "prompt"; a table counted from the text that the run
    was trained on, "ngram"; or the model of the run in the folder NAME. Raises ValueError for one that cannot draft for this run.
    """
    target = opened.text
    if name == "prompt":
        return PromptLookup(target.model.vocab_size)
    if name == "ngram":
        return ModelDrafter(count_ngrams(opened).to(device_of(target.model)))
    other = open_run(Path(name), str(device_of(target.model))).text
    if type(other) is not type(target):
        raise ValueError(f"--draft {name}: expected a run that writes as {opened.path} does, not a {type(other).__name__}; name another")
    if other.tokenizer.to_dict() != target.tokenizer.to_dict():
        raise ValueError(
            f"--draft {name}: expected the tokenizer of {opened.path}, found another, whose ids mean other texts; "
            "train both on the same corpus with the same [data] and [tokenizer]"
        )
    return ModelDrafter(other.model, relative_cost(other.model, target.model), other.start(prompts))


def count_ngrams(opened: OpenRun) -> Ngram:
    """The n-grams of the text that a run was trained on, in its own tokens. Raises ValueError for a run that learned from pairs."""
    if opened.config.model.kind == "encoder_decoder":
        raise ValueError(f"--draft ngram: expected a run that learned from texts, and {opened.path} learned from pairs; use another draft")
    data = build_data(opened.config, opened.text.tokenizer, say=lambda line: None)
    model = Ngram(NgramConfig(order=DRAFT_ORDER), opened.text.model.vocab_size)
    text = SinglePass(data.train, model.config.context_length, 1024, DRAFT_ORDER - 1)
    for step in range(text.n_steps):
        model.count(text.batch(step))
    return model
