"""A classifier of texts: an encoder with a head and its tokenizer. Read `cloze` before."""

import torch
from torch import nn

from minillm.datasets.labels import ENDINGS
from minillm.decoding.attention_map import AttentionMap
from minillm.text.model import opening, read_attention
from minillm.tokenizers.tokenizer import Tokenizer


class TextClassifier:
    """A text in, the probability of each label out."""

    def __init__(self, model: nn.Module, tokenizer: Tokenizer, documents: bool):
        """`documents`: whether training text was many documents, or one long text."""
        self.model, self.tokenizer, self.documents = model, tokenizer, documents

    @torch.inference_mode()
    def tell(self, text: str) -> dict[str, float]:
        """Label -> probability. Raises ValueError for a text that is longer than the context."""
        [logits] = self.model(torch.tensor([self.encode(text)], device=next(self.model.parameters()).device))
        return dict(zip(ENDINGS, logits.float().softmax(-1).tolist(), strict=True))

    def encode(self, text: str) -> list[int]:
        """The ids that the model reads."""
        return [*opening(self.tokenizer, self.documents), *self.tokenizer.encode(text)]

    def attention(self, text: str) -> AttentionMap:
        """As `Cloze.attention`."""
        return read_attention(self.model, self.tokenizer, self.encode(text))
