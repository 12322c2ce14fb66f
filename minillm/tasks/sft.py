"""Supervised fine-tuning: learn to answer, from conversations with good answers (Ouyang et al. 2022).

    loss = -log p(token t + 1 | tokens 0 ... t), summed over the tokens of all answers in a batch

Instruction tuning, dialogue tuning, tuning on worked steps and safety tuning are this one task on different
conversations. It is next-token prediction whose questions are read but not learned. The tokenizer gets the special
tokens of roles if it lacks them, and the model gets a row for each. Read before: `next_token`,
`datasets/conversations.py`, `tokenizers/role_template.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar, Literal

from torch import Tensor, nn

from minillm.config.fields import Positive, validate
from minillm.datasets.buckets import BucketedBatches, Buckets, each_row_once
from minillm.datasets.conversations import (
    Conversations,
    cut_to,
    everything_learned,
)
from minillm.datasets.corpus import Corpus
from minillm.datasets.examples import Example, load_examples
from minillm.evaluation.answering import AnswerValidation, answer
from minillm.evaluation.validation import Validation
from minillm.models.decoder import Decoder, DecoderConfig
from minillm.models.rnn import RNN, RNNConfig
from minillm.models.vocabulary import with_new_rows
from minillm.objectives.loss import Objective
from minillm.objectives.next_token import next_token
from minillm.tasks.gradients import GradientTask
from minillm.tasks.settings import Settings
from minillm.tasks.task import ALONE, Batches, Data, Demonstration, Extent, Frozen, Say, load_weights
from minillm.text.model import TextModel
from minillm.tokenizers.build_tokenizer import train_tokenizer
from minillm.tokenizers.chat import whole_text
from minillm.tokenizers.role_template import RoleTemplate, with_roles
from minillm.tokenizers.tokenizer import Tokenizer

N_SHOWN = 2  # questions of a demonstration


@dataclass(frozen=True)
class Sft(GradientTask):
    """The task of supervised fine-tuning; see the module."""

    kind: Literal["sft"] = "sft"  # what is learned
    learned: Literal["answers", "everything"] = "answers"  # the answers alone, or the questions too
    order: Literal["epochs", "random"] = "epochs"  # conversations once an epoch, or at random
    n_questions: Positive = 400  # most held-out exercises to answer in a full validation

    models: ClassVar = {DecoderConfig: Decoder, RNNConfig: RNN}
    text = TextModel

    def __post_init__(self) -> None:
        validate(self)

    def ignores(self, settings: Settings) -> Mapping[str, str]:
        ignored = dict.fromkeys(("data.clean", "cleaning"), "cleaning is for plain texts, and these are conversations")
        return ignored | {
            "text.template": "its models have the template of tokenizers/role_template.py",
            "train.compile": "rows of other lengths would be compiled again and again",
        }

    def data(self, settings: Settings, tokenizer: Tokenizer | None, say: Say, corpus: Corpus | None = None) -> Data:
        if corpus is not None:
            raise ValueError(
                f"corpus = {corpus.name}: expected none, since conversations are learned here; "
                "name a .jsonl file in data.corpus"
            )
        examples = load_examples(settings.data)
        if not examples.val:
            raise ValueError("data.val_fraction = 0: expected some conversations to validate on; raise it")
        if tokenizer is None:
            texts = (whole_text(message) for example in examples.train for message in example.messages)
            tokenizer = train_tokenizer(settings.tokenizer, texts)
        tokenizer = with_roles(tokenizer)
        parts = [self._tokenized(settings, part, tokenizer, say) if part else None for part in examples]
        return Data(tokenizer, True, *parts, examples=examples)

    def _tokenized(self, settings: Settings, part: Sequence[Example], tokenizer: Tokenizer, say: Say) -> Conversations:
        template = RoleTemplate(tokenizer)
        renderings, cuts = cut_to(
            [template.rendering(example.messages) for example in part], settings.model.context_length
        )
        if not renderings:
            raise ValueError(
                f"model.context_length = {settings.model.context_length}: expected enough for a question and the "
                "beginning of its answer, and no conversation fits; raise it"
            )
        if any(cuts):
            say(str(cuts))
        if self.learned == "everything":
            renderings = [everything_learned(rendering) for rendering in renderings]
        n_bytes = sum(len(whole_text(message).encode()) for example in part for message in example.messages)
        return Conversations(renderings, n_bytes, tokenizer.end_id)

    def extent(self, settings: Settings, data: Data) -> Extent:
        passes = settings.train.max_steps * settings.train.batch_size / len(data.train)
        return Extent(data.tokenizer.vocab_size, passes, n_windows=0)

    def batches(self, settings: Settings, data: Data, frozen: Frozen = ALONE) -> Batches:
        plan = Buckets(data.train.lengths(), settings.train.batch_size, settings.train.seed, self.order)
        return BucketedBatches(data.train, plan).batch

    def objective(self, settings: Settings, frozen: Frozen = ALONE) -> Objective:
        return next_token

    def start_from(self, model: nn.Module, weights: dict[str, Tensor]) -> list[nn.Module]:
        """See `Task.start_from`. The tokenizer of the other run may lack the tokens of roles."""
        load_weights(model, with_new_rows(weights, model))
        return []

    def validation(self, settings: Settings, data: Data, part: str) -> Validation:
        conversations, examples = {
            "val": (data.val, data.examples.val),
            "test": (data.test, data.examples.test),
        }[part]
        return AnswerValidation(
            each_row_once(conversations, 64),
            next_token,
            questions=spread(examples, self.n_questions),
            tokenizer=data.tokenizer,
            max_new_tokens=settings.text.max_new_tokens,
        )

    def demonstrate(self, settings: Settings, data: Data, text: TextModel) -> Demonstration:
        asked = [example for example in data.examples.val if example.world is not None][:N_SHOWN]
        answers = answer(text, asked, settings.text.max_new_tokens)
        shown = [f"{each.example.messages[-2]['content']}\n> {each.text}" for each in answers]
        return Demonstration("\n\n".join(shown), "ask it", '--chat "..."')


def spread(examples: Sequence[Example], n: int) -> list[Example]:
    """At most `n` of the examples, evenly spread, so that each part of a mixed corpus is among them."""
    return list(islice(examples, 0, None, max(1, -(-len(examples) // n))))
