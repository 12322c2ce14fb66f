"""Questions to a model that reads and does not write: blanks to fill, labels to tell, sentences that are alike.

Each question prints its answer, and says where a text is so unlike the training text that the answer means little. `sample.py` chooses
one. Read `text/cloze.py` and `evaluation/novelty.py` before.
"""

import re
from dataclasses import replace
from pathlib import Path

from minillm.datasets.corpus import load_corpus, read_text
from minillm.evaluation.novelty import Novelty
from minillm.runs.config import RunConfig
from minillm.runs.folder import OpenRun
from minillm.tasks.documents import read_texts
from minillm.text.classifier import TextClassifier
from minillm.text.cloze import Cloze

N_SHOWN = 8  # candidates for a blank, or sentences
N_DOCUMENTS = 200  # of a corpus, whose sentences are searched
QUESTIONS = {Cloze: ["fill", "nearest"], TextClassifier: ["classify"]}


def fill(opened: OpenRun, text: str) -> None:
    """Candidates for each blank of a text, and the text filled with the best ones."""
    answer = opened.text.show(text, N_SHOWN)
    print_novelty(opened, text)
    print(answer)


def classify(opened: OpenRun, text: str) -> None:
    """The probability of each label of a text."""
    told = opened.text.tell(text)
    print_novelty(opened, text)
    for label, probability in told.items():
        print(f"{probability:7.4f}  {label}")


def find_nearest(opened: OpenRun, text: str, among: Path | None) -> None:
    """The sentences of a file, or of the run's corpus, whose vectors point most nearly where that of a text points."""
    for sentence, cosine in opened.text.nearest(text, sentences(among, opened), N_SHOWN):
        print(f"{cosine:7.4f}  {sentence}")


def print_novelty(opened: OpenRun, text: str) -> None:
    """A remark where a text is unlike the training text, or where that cannot be known."""
    try:
        remark = build_novelty(opened.config).remark(text)
    except (ValueError, OSError) as e:
        remark = f"note: whether this text is like the training text is unknown, since that cannot be read: {e}"
    if remark:
        print(f"{remark}\n")


def sentences(among: Path | None, opened: OpenRun) -> list[str]:
    """The lines of a file, or the sentences of the first documents of the run's corpus, each once. Raises ValueError for none."""
    if among is not None:
        found = read_text(among).split("\n")
    else:
        text = "\n".join(load_corpus(opened.config.data).documents[:N_DOCUMENTS])
        found = re.split(r'(?<=[.!?]) |(?<=[.!?]") |\n', text)
    found = list(dict.fromkeys(line.strip() for line in found if line.strip()))
    if not found:
        raise ValueError(f"--among {among}: expected sentences, one a line, found none; give a file with some")
    return found


N_STORIES = 4000  # made-up texts to compare with; more only take longer


def build_novelty(config: RunConfig) -> Novelty:
    """That of the text that a run was trained on. Raises ValueError where the corpus is not there any more."""
    data = replace(config.data, n_stories=min(config.data.n_stories, N_STORIES))
    splits = read_texts(replace(config, data=data), lambda line: None).splits
    return Novelty(splits.train, [*splits.val, *splits.test])
