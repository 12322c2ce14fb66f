"""Translator: an encoder-decoder and its tokenizer, from a sentence to its translation. Read before: `model`."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from minillm.cache.kv_cache import KVCache
from minillm.datasets.pairs import spaced
from minillm.decoding.attention_map import AttentionMap
from minillm.decoding.rows import pad_right
from minillm.models.language_model import State
from minillm.text.model import TextModel
from minillm.text.scoring import Question, ScoredToken


class Translator(TextModel):
    """Translates sentences: the encoder reads the prompt, and the decoder begins with END."""

    joint = " ->"  # a translation begins with a space

    def encode(self, prompt: str) -> list[int]:
        """The first ids of the decoder: END. The prompt goes to the encoder."""
        return [self.tokenizer.end_id]

    def encode_source(self, prompt: str) -> list[int]:
        """The ids that the encoder reads. Raises ValueError for an empty sentence, and as `TextModel.encode`."""
        if not prompt.strip():
            raise ValueError(f"prompt = {prompt!r}: expected a sentence to translate; give one with --prompt")
        return [*self.tokenizer.encode(spaced(prompt)), self.tokenizer.end_id]

    def start(self, prompts: Sequence[str], cache: Callable[[], KVCache] | None = None) -> Callable[[int], State]:
        """A function that makes the initial state, with these prompts encoded as sources."""
        return partial(super().start(prompts, cache) or self.writer.start, source=self._sources(prompts))

    def logprobs(self, texts: Sequence[str], contexts: Sequence[str] | None = None) -> list[list[ScoredToken]]:
        """Every token of each translation, and the END after it, given its source. Errors as `TextModel.logprobs`."""
        if contexts is None:
            raise ValueError(
                "contexts = None: expected the sources; a translation has a probability only given its source"
            )
        return super().logprobs(texts, contexts)

    def _question(self, context: str, text: str) -> Question:
        """The tokens of a translation, with END before and after them, and its source."""
        end = self.tokenizer.end_id
        return Question([end, *self.tokenizer.encode(spaced(text)), end], n_given=1, about=self.encode_source(context))

    def _read(self, tokens: Tensor, about: list[object]) -> Tensor:
        """The logits (B, T, V) of tokens (B, T), given the ids of their sources."""
        return self.writer(tokens, source=pad_right(about).to(tokens.device))[0]

    def attention(self, prompt: str, written: str) -> AttentionMap:
        """Cross-attention weights of each token of a translation over its source; END is shown by name."""
        source, tokens = self._sources([prompt]), [*self.tokenizer.encode(spaced(written)), self.tokenizer.end_id]
        read = torch.tensor([[self.tokenizer.end_id, *tokens[:-1]]], device=source.device)
        source_pieces, pieces = (
            [self.tokenizer.decode([i]).strip() or "END" for i in ids] for ids in (source[0].tolist(), tokens)
        )
        return AttentionMap(pieces, source_pieces, self.model.alignment(read, source)[:, 0])

    def _sources(self, prompts: Sequence[str]) -> Tensor:
        return pad_right([self.encode_source(prompt) for prompt in prompts]).to(self.model.embed.weight.device)
