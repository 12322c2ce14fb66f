"""Text classifier: an encoder with a classification head, and its tokenizer. Read before: `cloze`."""

import torch
from torch import nn

from minillm.datasets.labels import ENDINGS
from minillm.decoding.attention_map import AttentionMap
from minillm.text.model import opening, read_attention
from minillm.tokenizers.tokenizer import Tokenizer


class TextClassifier:
    """Maps a text to the probability of each label."""

    def __init__(self, model: nn.Module, tokenizer: Tokenizer, documents: bool):
        """`documents`: whether the training text was many documents, or one long text."""
        self.model, self.tokenizer, self.documents = model, tokenizer, documents

    @torch.inference_mode()
    def tell(self, text: str) -> dict[str, float]:
        """The probability of each label of a text. Raises ValueError for a text longer than the context."""
        [logits] = self.model(torch.tensor([self.encode(text)], device=next(self.model.parameters()).device))
        return dict(zip(ENDINGS, logits.float().softmax(-1).tolist(), strict=True))

    def encode(self, text: str) -> list[int]:
        """The ids that the model reads."""
        return [*opening(self.tokenizer, self.documents), *self.tokenizer.encode(text)]

    def attention(self, text: str) -> AttentionMap:
        """Self-attention weights of a text. Raises ValueError for a text longer than the context."""
        return read_attention(self.model, self.tokenizer, self.encode(text))
