"""Drafters for speculative decoding with a run: another run, an n-gram table of its training text, or prompt lookup.

Read before: `folder`, `decoding/drafts.py`.
"""

import contextlib
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from minillm.config.loading import to_toml
from minillm.datasets.corpus import corpus_files
from minillm.datasets.single_pass import SinglePass
from minillm.datasets.tokens import TokenStream
from minillm.decoding.drafts import Drafter, ModelDrafter, PromptLookup, relative_cost
from minillm.models.language_model import device_of
from minillm.models.ngram import Ngram, NgramConfig
from minillm.runs.folder import OpenRun, open_run
from minillm.runs.wiring import build_data
from minillm.text.model import Prompt
from minillm.training import checkpoint

DRAFT_ORDER = 4  # tokens in an n-gram of the table


def build_drafter(name: str, opened: OpenRun, prompts: Sequence[Prompt], cost: float = 0.0) -> Drafter:
    """Build the drafter `name` for a run that continues these prompts.

    "prompt" looks up n-grams in the text so far, "ngram" uses a table counted from the run's training text, and any
    other name is the folder of a run whose model drafts. cost: the cost of a drafted token, in calls of the target; 0:
    estimated from the numbers of weights and layers (see `relative_cost`). Raises ValueError if the drafter cannot be
    used for this run.
    """
    target = opened.text
    if name == "prompt":
        return PromptLookup(target.model.vocab_size, cost=cost or PromptLookup.cost)
    if name == "ngram":
        model = ngram_table(opened).to(device_of(target.model))
        return ModelDrafter(model, cost or relative_cost(model, target.model))
    other = open_run(Path(name), str(device_of(target.model))).text
    if type(other) is not type(target):
        raise ValueError(
            f"--draft {name}: expected a run that writes as {opened.path} does, not a {type(other).__name__}; "
            "name another"
        )
    if other.tokenizer.to_dict() != target.tokenizer.to_dict():
        raise ValueError(
            f"--draft {name}: expected the tokenizer of {opened.path}, found a different one; "
            "train both on the same corpus with the same [data] and [tokenizer]"
        )
    other.fast = target.fast
    return ModelDrafter(other.writer, cost or relative_cost(other.model, target.model), other.start(prompts))


def ngram_table(opened: OpenRun) -> Ngram:
    """The table of `count_ngrams`, cached in the run's folder; one of another text or tokenizer is not used."""
    path = opened.path / "checkpoint" / "ngrams.pt"
    tokenizer = json.dumps(opened.text.tokenizer.to_dict(), sort_keys=True)
    source = f"{DRAFT_ORDER} {to_toml(opened.config)} {_stamp(opened)} {tokenizer}"
    source = hashlib.sha256(source.encode()).hexdigest()
    model = Ngram(NgramConfig(order=DRAFT_ORDER), opened.text.model.vocab_size)
    with contextlib.suppress(ValueError):  # subtle: if the cached table is missing or damaged, it is counted again
        kept = checkpoint.load(path)
        if kept["source"] == source:
            model.load_state_dict(kept["counts"])
            return model
    model = count_ngrams(opened)
    with contextlib.suppress(OSError):  # subtle: if the folder cannot be written, the table is counted every time
        checkpoint.save(path, {"source": source, "counts": model.state_dict()})
    return model


def _stamp(opened: OpenRun) -> str:
    """Sizes and modification times of the corpus files, since a user may edit them; "" for a built-in corpus."""
    files = corpus_files(opened.config.data.corpus)
    return " ".join(f"{file} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files)


def count_ngrams(opened: OpenRun) -> Ngram:
    """Count the n-grams of a run's training text, in its tokens. Raises ValueError for a run trained on pairs."""
    data = build_data(opened.config, opened.text.tokenizer, say=lambda line: None)
    if not isinstance(data.train, TokenStream):
        raise ValueError(
            f"--draft ngram: expected a run that learned from texts, and {opened.path} learned from pairs; "
            "use another draft"
        )
    model = Ngram(NgramConfig(order=DRAFT_ORDER), opened.text.model.vocab_size)
    text = SinglePass(data.train, model.config.context_length, 1024, DRAFT_ORDER - 1)
    for step in range(text.n_steps):
        model.count(text.batch(step))
    return model
