"""Translation: an encoder reads a sentence, and a decoder generates its translation.

    loss = -log p(target token t | source, target tokens before t), summed over a batch           Sutskever et al. 2014

Pairs are split by word combinations, so held-out sentences have combinations that were not trained on. Both languages
share one tokenizer. Besides the loss, the share of exactly translated sentences is measured. Read before:
`datasets/pairs.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from minillm.config.fields import Between, validate
from minillm.datasets.corpus import Corpus, load_pairs
from minillm.datasets.pairs import PairBatches, Pairs, evaluation_pairs, spaced, split_pairs
from minillm.datasets.tokens import token_stream
from minillm.evaluation.exact_match import TranslationValidation
from minillm.evaluation.validation import Validation
from minillm.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from minillm.objectives.loss import Objective
from minillm.objectives.seq2seq import seq2seq
from minillm.tasks.gradients import GradientTask, smoothed
from minillm.tasks.next_token import sample
from minillm.tasks.settings import Settings
from minillm.tasks.task import ALONE, Batches, Data, Demonstration, Extent, Frozen, Say
from minillm.text.translator import Translator
from minillm.tokenizers.build_tokenizer import train_tokenizer
from minillm.tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True)
class Translate(GradientTask):
    """The task of translation; see the module."""

    kind: Literal["translate"] = "translate"  # what is learned
    order: Literal["epochs", "random"] = "epochs"  # pairs once an epoch, or at random
    label_smoothing: Annotated[float, Between(0, 0.99)] = 0.0  # share of the target that is spread over all tokens

    models: ClassVar = {EncoderDecoderConfig: EncoderDecoder}
    text = Translator

    def __post_init__(self) -> None:
        validate(self)

    def ignores(self, settings: Settings) -> Mapping[str, str]:
        ignored = dict.fromkeys(("data.clean", "cleaning"), "cleaning removes single texts, which would separate pairs")
        return ignored | {"text.template": "a translator holds no conversations"}

    def data(self, settings: Settings, tokenizer: Tokenizer | None, say: Say, corpus: Corpus | None = None) -> Data:
        if corpus is not None:
            raise ValueError(
                f"corpus = {corpus.name}: expected none, since pairs are learned here; name a .tsv file in data.corpus"
            )
        splits = split_pairs(load_pairs(settings.data), settings.data.val_fraction, settings.data.test_fraction)
        parts = [
            [[spaced(pair.source) for pair in part], [spaced(pair.target) for pair in part]] for part in splits if part
        ]
        tokenizer = tokenizer or train_tokenizer(settings.tokenizer, parts[0][0] + parts[0][1])
        train, val, *test = (Pairs(*(token_stream(side, tokenizer) for side in part)) for part in parts)
        return Data(tokenizer, True, train, val, test[0] if test else None)

    def extent(self, settings: Settings, data: Data) -> Extent:
        passes = settings.train.max_steps * settings.train.batch_size / len(data.train)
        return Extent(data.tokenizer.vocab_size, passes, n_windows=0)

    def batches(self, settings: Settings, data: Data, frozen: Frozen = ALONE) -> Batches:
        how = (settings.model.context_length, settings.train.batch_size, settings.train.seed)
        return PairBatches(data.train, *how, self.order).batch

    def objective(self, settings: Settings, frozen: Frozen = ALONE) -> Objective:
        return smoothed(seq2seq, self.label_smoothing)

    def validation(self, settings: Settings, data: Data, part: str) -> Validation:
        pairs = {"val": data.val, "test": data.test}[part]
        batches = evaluation_pairs(pairs, settings.model.context_length, 256)
        return TranslationValidation(batches, seq2seq, n_bytes=pairs.n_bytes, tokenizer=data.tokenizer)

    def demonstrate(self, settings: Settings, data: Data, text: Translator) -> Demonstration:
        return Demonstration(sample(settings, text), "write more", '--attention --prompt "..."')
