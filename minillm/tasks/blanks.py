"""Masked-token prediction: an encoder, which is bidirectional, learns to predict the masked tokens of a text (BERT).

    loss = -log p(token | the text around it), summed over the masked tokens of a batch            Devlin et al. 2019

Windows are cut as for `next_token`; then tokens in them are masked, and for `model.next_sentence` two halves are
paired. Only masked tokens are predicted, so bits per byte and regret are not defined here. Read before:
`datasets/masking.py`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

from minillm.config.fields import Between, Fraction, validate
from minillm.datasets.corpus import Corpus
from minillm.datasets.masking import MASK, Masking
from minillm.datasets.next_sentence import masked_pairs
from minillm.datasets.windows import Windows, evaluation_batches
from minillm.evaluation.validation import Validation
from minillm.models.encoder import Encoder, EncoderConfig
from minillm.objectives.loss import Objective
from minillm.objectives.masked_token import masked_token, masked_token_and_next_sentence
from minillm.tasks.documents import read_texts, tokenized
from minillm.tasks.gradients import GradientTask
from minillm.tasks.next_token import passes
from minillm.tasks.settings import Settings
from minillm.tasks.task import ALONE, Batches, Data, Demonstration, Extent, Frozen, Say
from minillm.text.cloze import EXAMPLE, Cloze
from minillm.tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True)
class Blanks(GradientTask):
    """The task of masked-token prediction; see the module."""

    kind: Literal["blanks"] = "blanks"  # what is learned
    order: Literal["epochs", "random"] = "epochs"  # windows once an epoch, or at random
    fraction: Annotated[float, Between(0.01, 1)] = 0.15  # share of tokens that are masked and predicted
    whole_words: bool = True  # mask all tokens of a word, or none
    masked: Fraction = 0.8  # share of the masked tokens that become [MASK]
    random: Fraction = 0.1  # share that become a random token; the rest stay as they are

    models: ClassVar = {EncoderConfig: Encoder}
    text = Cloze

    def __post_init__(self) -> None:
        validate(self)
        if self.masked + self.random > 1:
            raise ValueError(
                f"task.masked + task.random = {self.masked + self.random:g}: expected at most 1; lower one of them"
            )

    def ignores(self, settings: Settings) -> Mapping[str, str]:
        return dict.fromkeys(
            ("sampling", "text.max_new_tokens", "text.template"),
            "an encoder fills in masked tokens and does not generate text",
        )

    def data(self, settings: Settings, tokenizer: Tokenizer | None, say: Say, corpus: Corpus | None = None) -> Data:
        return tokenized(settings, read_texts(settings, say, corpus), tokenizer)

    def extent(self, settings: Settings, data: Data) -> Extent:
        return Extent(data.tokenizer.vocab_size, passes(settings, data), n_windows=1)

    def batches(self, settings: Settings, data: Data, frozen: Frozen = ALONE) -> Batches:
        seed, blank = settings.train.seed, self._blank(settings, data)
        how = (settings.model.context_length, settings.train.batch_size, seed, self.order, data.documents)
        windows = Windows(data.train, *how).batch
        return lambda step: blank(windows(step).tokens, seed, step, 1)

    def objective(self, settings: Settings, frozen: Frozen = ALONE) -> Objective:
        return masked_token_and_next_sentence if settings.model.next_sentence else masked_token

    def validation(self, settings: Settings, data: Data, part: str) -> Validation:
        """See `Task.validation`. The masks are the same at every validation."""
        stream, blank = {"val": data.val, "test": data.test}[part], self._blank(settings, data)
        batches = evaluation_batches(stream, settings.model.context_length, 64, data.documents)
        blanked = [blank(batch.tokens, 0, i, 2) for i, batch in enumerate(batches)]
        return Validation(blanked, self.objective(settings), n_bytes=None, source_nats=None)

    def demonstrate(self, settings: Settings, data: Data, text: Cloze) -> Demonstration:
        """See `Task.demonstrate`. The prompt is filled in if it has a [MASK] and fits into the context."""
        prompt = settings.text.prompt
        fits = MASK in prompt and len(text.encode(prompt)) <= settings.model.context_length
        example = f"{prompt}\n{text.show(prompt, 3)}" if fits else ""
        return Demonstration(example, "fill in more", f'--fill "{EXAMPLE}"')

    def _blank(self, settings: Settings, data: Data) -> Callable[..., Any]:
        """The function (tokens, *seed) -> masked batch; of pairs of texts if `model.next_sentence`."""
        shares = {"fraction": self.fraction, "masked": self.masked, "random": self.random}
        masking = Masking(data.tokenizer, whole_words=self.whole_words, **shares)
        return partial(masked_pairs, masking) if settings.model.next_sentence else masking
