"""One model and one tokenizer twice: those of transformers, and the same weights and ids in classes of ours."""

from functools import cache

import torch
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import decoders, models, pre_tokenizers, processors, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from minillm.models.decoder import Decoder, DecoderConfig
from minillm.tokenizers.tokenizer import END, Tokenizer
from tests.models.test_decoder_against_transformers import copy, randomized, weights_of_gpt_2

CONTEXT = 29
TEXT = """\
The cat sat on the mat. A catfish ate the café, and then the rat ate at nine.
How many rats are there? There are 12 rats: one is red, 11 are not.

Then the then-mate met the theme, that is: the one that ate. Answer: no.
A user, a system and an assistant begin <|here|> and end there: go_on.
"""
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}"
    "{% if not (loop.last and continue_final_message) %}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@cache
def fast(begins: bool) -> PreTrainedTokenizerFast:
    """A small byte-level BPE of the `tokenizers` package; `begins`: it puts the end token before every text."""
    inner = FastTokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=113, special_tokens=SPECIAL, show_progress=False)
    inner.train_from_iterator([TEXT], trainer)
    if begins:
        inner.post_processor = processors.TemplateProcessing("<|endoftext|> $A", special_tokens=[(SPECIAL[0], 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        eos_token=SPECIAL[0],
        additional_special_tokens=SPECIAL[1:],
        chat_template=CHATML,
        clean_up_tokenization_spaces=False,
    )


def bytes_of_characters() -> dict[str, int]:
    """The characters by which GPT-2 writes the bytes in its vocabulary."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + i): byte for i, byte in enumerate(hidden)}


class Borrowed(Tokenizer):
    """The same ids as a tokenizer of ours."""

    def __init__(self, begins: bool = False):
        self.theirs, self.bytes = fast(begins), bytes_of_characters()
        self.vocab_size = len(self.theirs)
        self.special_tokens = {END: 0, "<|im_start|>": 1, "<|im_end|>": 2}
        self.opening = (0,) if begins else ()

    def encode(self, text):
        return self.theirs.encode(text, add_special_tokens=False, split_special_tokens=True)

    def decode_bytes(self, tokens):
        pieces = [piece for piece in self.theirs.convert_ids_to_tokens(tokens) if piece not in SPECIAL]
        return bytes(self.bytes[character] for piece in pieces for character in piece)

    def to_dict(self):
        raise NotImplementedError


class ChatML:
    """The template CHATML, as ids."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer

    def render(self, messages, answer=True):
        parts, names = [], self.tokenizer.special_tokens
        for message in messages:
            parts += [names["<|im_start|>"], f"{message['role']}\n{message['content']}", names["<|im_end|>"], "\n"]
        return self.tokenizer.encode_parts([*parts, names["<|im_start|>"], "assistant\n"] if answer else parts)


@cache
def theirs() -> GPT2LMHeadModel:
    """A random GPT-2 in float64."""
    vocab_size = len(fast(False))
    c = GPT2Config(
        vocab_size=vocab_size,
        n_positions=CONTEXT,
        n_embd=15,
        n_layer=2,
        n_head=3,
        n_inner=31,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = randomized(GPT2LMHeadModel(c), seed=3)
    # subtle: with weights of one size, greedy decoding would repeat one token whatever the context is
    for weight, factor in ((model.transformer.wte.weight, 3), (model.transformer.wpe.weight, 6)):
        weight.data *= factor
    model.transformer.ln_f.bias.data *= 0.1
    return model


@cache
def ours() -> Decoder:
    """The decoder with its weights."""
    gpt_2 = {"positions": "learned", "norm": "layernorm", "feedforward": "gelu", "bias": True, "tied": True}
    c = DecoderConfig(n_layers=2, d_model=15, n_heads=3, d_ff=31, context_length=CONTEXT, norm_eps=1e-5, **gpt_2)
    with torch.random.fork_rng():
        return copy(Decoder(c, len(fast(False))), weights_of_gpt_2(theirs()))
