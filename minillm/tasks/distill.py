"""Distillation: a student learns from a trained teacher, in one of three ways.

    data        next tokens of texts that the teacher wrote                                  Kim and Rush 2016
    knowledge   the teacher's distributions on the corpus, live or stored                    Hinton et al. 2015
    on_policy   the teacher's distributions on texts that the student writes as it learns    Agarwal et al. 2024

The teacher is a frozen companion of another run. It may have any shape, but the student has its tokenizer. Validation
is that of next-token prediction on the corpus, so the losses of all ways, and of training without a teacher, compare.
Read before: `next_token`, `objectives/distill.py`, `training/on_policy.py`, `teacher`.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar, Literal

import torch
from torch import nn

from minillm.config.fields import Above, AtMost, Choice, Count, Fraction, Positive, validate
from minillm.datasets.corpus import Corpus
from minillm.datasets.tokens import TokenStream
from minillm.datasets.windows import Windows
from minillm.evaluation.validation import Validation
from minillm.models.decoder import Decoder, DecoderConfig
from minillm.models.rnn import RNN, RNNConfig
from minillm.objectives.distill import DIVERGENCES, Matching, distill, distill_stored
from minillm.objectives.loss import Objective
from minillm.objectives.next_token import next_token
from minillm.speed.accelerate import accelerate
from minillm.tasks.gradients import GradientTask, build_step
from minillm.tasks.next_token import NextToken, measure_with_source, passes, read_with_source, sample
from minillm.tasks.settings import Settings
from minillm.tasks.task import ALONE, Batches, Companion, Data, Demonstration, Extent, Frozen, Say, Training
from minillm.tasks.teacher import soft_target_batches, written_texts
from minillm.text.model import TextModel
from minillm.tokenizers.tokenizer import Tokenizer
from minillm.training.on_policy import OnPolicyStep, PromptBatch, Writing
from minillm.training.precision import DTYPES
from minillm.training.step import GradientStep

AUTO = {"auto": None}
MATCHED = ("divergence", "beta", "temperature", "top_k", "weight", "stored")  # keys of the teacher's distributions


@dataclass(frozen=True)
class Distill(GradientTask):
    """The task of distillation; see the module."""

    kind: Literal["distill"] = "distill"  # what is learned
    teacher: str = ""  # folder of the teacher's run
    how: Literal["knowledge", "data", "on_policy"] = "knowledge"  # see minillm/tasks/distill.py
    order: Literal["epochs", "random"] = "epochs"  # rows once an epoch, or at random
    share: Annotated[float, Above(0), AtMost(1)] = 1.0  # share of the training documents that the student has
    divergence: Annotated[str, Choice(AUTO, DIVERGENCES)] = "auto"  # auto: reverse for on_policy, else forward
    beta: Fraction = 0.5  # jensen_shannon: share of the teacher in the mixture, between the two ends
    temperature: Annotated[float, Above(0)] = 1.0  # divides both logits; the divergence is multiplied by its square
    top_k: Count = 0  # tokens of the teacher that are told apart, the others in one bucket; 0: all
    weight: Annotated[float, Above(0), AtMost(1)] = 1.0  # of the divergence; the rest is that of the data's tokens
    stored: bool = False  # knowledge: compute the teacher's distributions once and store them; needs top_k
    n_texts: Count = 0  # data: texts that the teacher writes; 0: as many as the student has documents
    prompt_tokens: Positive = 8  # on_policy: tokens of a row after which the student writes on
    written_share: Fraction = 1.0  # on_policy: share of the rows that the student writes; the others are the corpus

    models: ClassVar = {DecoderConfig: Decoder, RNNConfig: RNN}
    text = TextModel

    def __post_init__(self) -> None:
        validate(self)
        if self.beta in (0, 1):
            end = "reverse" if self.beta else "forward"
            raise ValueError(
                f"task.beta = {self.beta:g}: expected a number between 0 and 1, since jensen_shannon vanishes there; "
                f"set task.divergence = {end}"
            )
        if self.stored and not self.top_k:
            raise ValueError(
                "task.stored = true: expected task.top_k > 0 beside it, since whole distributions would fill the disk; "
                "set it, for example --task.top_k 16"
            )

    def ignores(self, settings: Settings) -> Mapping[str, str]:
        reasons = dict(NextToken().ignores(settings))
        unused = {
            "knowledge": ("n_texts", "prompt_tokens", "written_share"),
            "data": (*MATCHED, "prompt_tokens", "written_share"),
            "on_policy": ("weight", "stored", "n_texts"),
        }[self.how]
        reasons |= {f"task.{key}": f"task.how = {self.how} does not use it" for key in unused}
        if self.divergence != "jensen_shannon":
            reasons["task.beta"] = "only task.divergence = jensen_shannon uses it"
        if self.how == "on_policy":
            reasons["train.compile"] = "the texts of task.how = on_policy differ in length from step to step"
        return reasons

    def companions(self) -> Mapping[str, Companion]:
        return {"teacher": Companion(self.teacher, TextModel)}

    def data(self, settings: Settings, tokenizer: Tokenizer | None, say: Say, corpus: Corpus | None = None) -> Data:
        """See `Task.data`. Only the training part is thinned by `share`."""
        if tokenizer is not None and self.top_k > (most := tokenizer.vocab_size - self.stored):
            others = ", and a stored table has a bucket for the others" * self.stored
            raise ValueError(
                f"task.top_k = {self.top_k}: expected at most {most}, since the teacher has {tokenizer.vocab_size} "
                f"tokens{others}; lower it"
            )
        data = read_with_source(settings, tokenizer, say, corpus, self.share)
        if not data.documents and (self.stored or self.how == "data"):
            key = "how = data" if self.how == "data" else "stored = true"
            raise ValueError(
                f"task.{key}: expected many documents, found one text, which has no ends and no fixed rows; "
                "set task.how = knowledge and task.stored = false"
            )
        return data

    def extent(self, settings: Settings, data: Data) -> Extent:
        n_passes = passes(settings, data)
        if self.how == "data" and self.n_texts:
            n_passes *= len(data.train.starts) / self.n_texts
        return Extent(data.tokenizer.vocab_size, n_passes, n_windows=1)

    def batches(self, settings: Settings, data: Data, frozen: Frozen = ALONE) -> Batches:
        how = (settings.model.context_length, settings.train.batch_size, settings.train.seed, self.order)
        if self.how == "data":
            return Windows(self._texts(settings, data, frozen), *how).batch
        windows = Windows(data.train, *how, data.documents)
        if self.stored:
            matching, n_ids = self._matching(), data.tokenizer.vocab_size
            return soft_target_batches(frozen["teacher"], windows, n_ids, matching, settings.train.fast)
        if self.how == "on_policy":
            ends = torch.full((settings.train.batch_size,), data.tokenizer.end_id)
            return lambda step: PromptBatch(*windows.batch(step), ends)
        return windows.batch

    def objective(self, settings: Settings, frozen: Frozen = ALONE) -> Objective:
        if self.how == "data":
            return next_token
        if self.stored:
            return partial(distill_stored, matching=self._matching())
        teacher = frozen["teacher"]
        if settings.train.precision == "bf16":
            teacher = copy.deepcopy(teacher).to(DTYPES["bf16"])
        reader = accelerate(teacher) if settings.train.fast else teacher
        return partial(distill, teacher=reader, matching=self._matching())

    def step(self, settings: Settings, model: nn.Module, frozen: Frozen = ALONE) -> GradientStep:
        kind = GradientStep
        if self.how == "on_policy":
            if self.prompt_tokens >= settings.model.context_length:
                raise ValueError(
                    f"task.prompt_tokens = {self.prompt_tokens}: expected less than model.context_length = "
                    f"{settings.model.context_length}, so that the student can write; lower it"
                )
            writing = Writing(self.prompt_tokens, self.written_share, settings.train.seed, settings.train.fast)
            kind = partial(OnPolicyStep, rollout=writing)
        return build_step(kind, settings, model, self.objective(settings, frozen))

    def training(self, settings: Settings, data: Data, model: nn.Module, frozen: Frozen, say: Say = print) -> Training:
        """See `Task.training`. The number of the teacher's texts is told."""
        if self.how == "data":
            texts = self._texts(settings, data, frozen)
            n_lost = self._n_texts(data) - len(texts.starts)
            say(f"the teacher wrote {len(texts.starts):,} texts to learn from, and {n_lost:,} without an end")
        return super().training(settings, data, model, frozen, say)

    def validation(self, settings: Settings, data: Data, part: str) -> Validation:
        return measure_with_source(settings, data, part)

    def demonstrate(self, settings: Settings, data: Data, text: TextModel) -> Demonstration:
        return Demonstration(sample(settings, text), "write more", "--top-p 0.9")

    def _matching(self) -> Matching:
        usual = "reverse" if self.how == "on_policy" else "forward"
        divergence = usual if self.divergence == "auto" else self.divergence
        return Matching(divergence, self.beta, self.temperature, self.top_k, self.weight)

    def _n_texts(self, data: Data) -> int:
        return self.n_texts or len(data.train.starts)

    def _texts(self, settings: Settings, data: Data, frozen: Frozen) -> TokenStream:
        teacher, length = frozen["teacher"], settings.model.context_length
        longest = length if teacher.context_length is None else teacher.context_length
        how = (self._n_texts(data), longest, settings.data.seed, settings.train.fast)
        return written_texts(teacher, data.tokenizer, *how)
