"""Questions to an encoder: fill the masked tokens of a text, classify it, or find the nearest sentences.

Each function prints its answer, with a note if the text is so unlike the training text that the answer means little.
`sample.py` chooses one. Read before: `text/cloze.py`, `evaluation/novelty.py`.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from minillm.console.attention_report import AttentionChoice, print_attention, refuse_attention
from minillm.console.flag_conflicts import flag, refuse_what_would_be_ignored
from minillm.datasets.corpus import load_corpus, read_text
from minillm.evaluation.novelty import Novelty
from minillm.runs.config import RunConfig
from minillm.runs.folder import OpenRun
from minillm.tasks.documents import read_texts
from minillm.text.classifier import TextClassifier
from minillm.text.cloze import Cloze

N_SHOWN = 8  # candidates for a masked token, or nearest sentences
N_DOCUMENTS = 200  # documents of the corpus whose sentences are searched
QUESTIONS = {Cloze: ["fill", "nearest"], TextClassifier: ["classify"]}
ASKED = [name for names in QUESTIONS.values() for name in names]


def answer(opened: OpenRun, given: Mapping[str, Any], attention: AttentionChoice | None) -> None:
    """Print the answer to the one question among the flags `given`, and the attention weights if asked.

    Raises ValueError for flags that do not fit the run.
    """
    question = check_question(opened, given)
    if attention:
        refuse_attention(opened, attention)
    print(f"run {opened.path} (step {opened.step})\n", flush=True)
    text = given[question]
    if question == "fill":
        fill(opened, text)
    elif question == "nearest":
        find_nearest(opened, text, given.get("among"))
    else:
        classify(opened, text)
    if attention:
        print_attention(opened, opened.text.attention(text), attention)


def check_question(opened: OpenRun, given: Mapping[str, Any]) -> str:
    """The name of the question. Raises ValueError for none or several, and for flags that have no effect beside it."""
    questions, possible = [name for name in ASKED if name in given], QUESTIONS.get(type(opened.text), [])
    if len(questions) != 1 or questions[0] not in possible:
        able = " or ".join(f"--{name} TEXT" for name in possible) or "--prompt TEXT"
        wrong = f"--{questions[-1]}" if questions else "no text"
        raise ValueError(f"{wrong}: expected {able} for {opened.path}, whose model.kind is {opened.config.model.kind}")
    [question] = questions
    beside = ["among"] if question == "nearest" else ["attention", "attention_layer", "attention_head"]
    useless = [name for name in given if name not in (question, *beside, "device", "run", "adapter")]
    if useless:
        raise ValueError(f"{flag(useless[0])} would be ignored beside --{question}; leave one of the two out")
    refuse_what_would_be_ignored(given)
    return question


def fill(opened: OpenRun, text: str) -> None:
    """Print candidates for each masked token of a text, and the text with the best ones filled in."""
    answer = opened.text.show(text, N_SHOWN)
    print_novelty(opened, text)
    print(answer)


def classify(opened: OpenRun, text: str) -> None:
    """Print the probability of each label of a text."""
    probabilities = opened.text.tell(text)
    print_novelty(opened, text)
    for label, probability in probabilities.items():
        print(f"{probability:7.4f}  {label}")


def find_nearest(opened: OpenRun, text: str, among: Path | None) -> None:
    """Print the sentences of a file, or of the run's corpus, with the greatest cosine similarity to a text."""
    for sentence, cosine in opened.text.nearest(text, sentences(among, opened), N_SHOWN):
        print(f"{cosine:7.4f}  {sentence}")


def print_novelty(opened: OpenRun, text: str) -> None:
    """Print a note if a text is unlike the training text, or if that cannot be decided."""
    try:
        remark = build_novelty(opened.config).remark(text)
    except (ValueError, OSError) as e:
        remark = (
            f"note: whether this text is like the training text is unknown, since the training text cannot be read: {e}"
        )
    if remark:
        print(f"{remark}\n")


def sentences(among: Path | None, opened: OpenRun) -> list[str]:
    """Lines of a file, or sentences of the corpus's first documents, each once. Raises ValueError if there are none."""
    if among is not None:
        found = read_text(among).split("\n")
    else:
        text = "\n".join(load_corpus(opened.config.data).documents[:N_DOCUMENTS])
        found = re.split(r'(?<=[.!?]) |(?<=[.!?]") |\n', text)
    found = list(dict.fromkeys(line.strip() for line in found if line.strip()))
    if not found:
        raise ValueError(f"--among {among}: expected sentences, one a line, found none; give a file with some")
    return found


N_STORIES = 4000  # generated stories to compare with; more would only take longer


def build_novelty(config: RunConfig) -> Novelty:
    """The novelty measure for a run's training text. Raises ValueError if the corpus cannot be read."""
    data = replace(config.data, n_stories=min(config.data.n_stories, N_STORIES))
    splits = read_texts(replace(config, data=data), lambda line: None).splits
    return Novelty(splits.train, [*splits.val, *splits.test])
