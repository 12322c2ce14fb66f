"""Validation of a chat model: the loss of held-out answers, and the share of questions that it answers right.

    right           share of right answers over all questions
    right_WORLD     the same for each world of exercises

Each answer is decoded greedily and compared with the known truth of its exercise. The loss is that of the learned
tokens of all held-out conversations. Read before: `validation`, `datasets/examples.py`.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import nn

from minillm.datasets.batch import Batch
from minillm.datasets.examples import Example
from minillm.decoding.rows import Reason
from minillm.decoding.sampler import SamplingConfig
from minillm.evaluation.validation import Validation
from minillm.objectives.loss import Objective
from minillm.text.model import TextModel
from minillm.tokenizers.tokenizer import Tokenizer

N_ROWS = 64  # questions that are answered at once
GREEDY = SamplingConfig(temperature=0.0)


class Answered(NamedTuple):
    """A question and what the model answered."""

    example: Example
    text: str
    reason: Reason
    right: bool


class AnswerValidation(Validation):
    """Measures a chat model on fixed batches, and on fixed questions."""

    def __init__(
        self,
        batches: Iterable[Batch],
        objective: Objective,
        *,
        questions: Sequence[Example],
        tokenizer: Tokenizer,
        max_new_tokens: int,
    ):
        """`questions`: those of exercises are judged, others are left out."""
        super().__init__(batches, objective, n_bytes=None, source_nats=None)
        self.questions = [question for question in questions if question.world is not None]
        self.tokenizer, self.max_new_tokens = tokenizer, max_new_tokens

    @torch.inference_mode()
    def __call__(self, model: nn.Module) -> dict[str, float]:
        """val_loss, right and right_WORLD. Raises as `Validation`."""
        text = TextModel(model, self.tokenizer, documents=True)
        return super().__call__(model) | shares(answer(text, self.questions, self.max_new_tokens))


def answer(text: TextModel, questions: Sequence[Example], max_new_tokens: int) -> list[Answered]:
    """The greedy answers to exercises, in their order."""
    prompts = [text.converse(question.asked.messages) for question in questions]
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    found: dict[int, Answered] = {}
    for start in range(0, len(order), N_ROWS):
        rows = order[start : start + N_ROWS]
        how = {"max_new_tokens": max_new_tokens, "seeds": rows}
        for i, done in zip(rows, text.generate([prompts[i] for i in rows], GREEDY, **how), strict=True):
            question = questions[i]
            right = question.world.is_right(question.asked, done.text)
            found[i] = Answered(question, done.text, done.reason, right)
    return [found[i] for i in range(len(questions))]


def shares(answers: Sequence[Answered]) -> dict[str, float]:
    """The share of right answers, over all questions and for each world; {} for no answers."""
    by_world: dict[str, list[bool]] = defaultdict(list)
    for each in answers:
        by_world["right"].append(each.right)
        by_world[f"right_{each.example.world.name}"].append(each.right)
    return {name: sum(right) / len(right) for name, right in by_world.items()}
