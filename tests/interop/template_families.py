"""Chat templates in the notations of known families, and a small byte-level BPE that knows their special tokens."""

import functools
from collections.abc import Sequence

import pytest

from minillm.tokenizers.tokenizer import END, Tokenizer

CHATML = """\
{%- for message in messages -%}
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""
CHATML_WITH_A_SYSTEM_MESSAGE = """\
{% if messages[0].role != 'system' %}
{{ '<|im_start|>system\\nYou help.<|im_end|>\\n' }}
{% endif %}
{% for message in messages %}
{{ '<|im_start|>' ~ message.role ~ '\\n' ~ message.content ~ '<|im_end|>\\n' }}
{%- if not loop.last %}{{ '' }}{% endif %}
{% endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
"""
LLAMA_3 = """\
{% for m in messages %}
{%- set said = '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n' + m['content'] | trim + '<|eot_id|>' %}
{%- if loop.first %}{% set said = bos_token + said %}{% endif %}
{{- said }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"""
LLAMA_2 = """\
{%- if messages[0]['role'] == 'system' -%}
    {%- set rest = messages[1:] -%}
    {%- set before = '<<SYS>>\\n' + messages[0]['content'] | trim + '\\n<</SYS>>\\n\\n' -%}
{%- else -%}
    {%- set rest = messages -%}
    {%- set before = '' -%}
{%- endif -%}
{{- bos_token -}}
{%- for m in rest -%}
    {%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{- raise_exception('roles must alternate: user, assistant, user, ...') -}}
    {%- endif -%}
    {%- if m['role'] == 'user' -%}
        {{- '[INST] ' + (before if loop.first else '') + m['content'].strip() + ' [/INST]' -}}
    {%- else -%}
        {{- ' ' + m['content'].strip() + ' ' + eos_token -}}
    {%- endif -%}
{%- endfor -%}
"""
GEMMA = """\
{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- set first = messages[0]['content'] + '\\n\\n' -%}
    {%- set turns = messages[1:] -%}
{%- else -%}
    {%- set first = '' -%}
    {%- set turns = messages -%}
{%- endif -%}
{%- for turn in turns -%}
    {%- set role = 'model' if turn['role'] == 'assistant' else turn['role'] -%}
{{ '<start_of_turn>' + role + '\\n' + (first if loop.first else '') }}
    {%- generation -%}
{{ turn['content'] | trim }}
    {%- endgeneration -%}
{{ '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '<start_of_turn>model\\n' }}
{%- endif -%}
"""
ZEPHYR = """\
{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\\n'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}"""
# of models that reason: the notation of Qwen 3, of DeepSeek R1 and of SmolLM 3
QWEN_3 = """\
{%- set found = namespace(last=messages|length - 1, searching=true) -%}
{%- for m in messages | reverse -%}
    {%- set is_result = m.content.startswith('<tool_response>') and m.content.endswith('</tool_response>') -%}
    {%- if found.searching and m.role == 'user' and not is_result -%}
        {%- set found.last = loop.revindex0 -%}
        {%- set found.searching = false -%}
    {%- endif -%}
{%- endfor -%}
{%- for m in messages -%}
    {%- set said = m.content -%}
    {%- set steps = '' -%}
    {%- if m.role == 'assistant' -%}
        {%- if m.reasoning_content is string -%}
            {%- set steps = m.reasoning_content -%}
        {%- elif '</think>' in said -%}
            {%- set steps = said.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') -%}
            {%- set said = said.split('</think>')[-1].lstrip('\n') -%}
        {%- endif -%}
        {%- if loop.index0 > found.last and (loop.last or steps) -%}
            {%- set said = '<think>\n' + steps.strip('\n') + '\n</think>\n\n' + said.lstrip('\n') -%}
        {%- endif -%}
    {%- endif -%}
    {{- '<|im_start|>' + m.role + '\n' + said + '<|im_end|>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\n' -}}
{%- endif -%}
"""
R1 = """\
{{- bos_token -}}
{%- for m in messages -%}
    {%- set text = m['content'] -%}
    {%- if m['role'] == 'assistant' and '</think>' in text -%}
        {%- set text = text.split('</think>')[-1] -%}
    {%- endif -%}
    {{- '<|' + m['role'] + '|>' + text + (eos_token if m['role'] == 'assistant' else '') -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|assistant|>' -}}
{%- endif -%}
"""
SMOLLM_3 = """\
{%- set system_message = messages[0].content if messages[0].role == "system" else "" -%}
{%- set mode = "/no_think" if "/no_think" in system_message else "/think" -%}
{{- "<|im_start|>system\nMode: " + mode + "\n" -}}
{{- system_message.replace("/no_think", "").replace("/think", "").rstrip() + "<|im_end|>\n" -}}
{%- for m in messages -%}
    {%- if m.role == "assistant" and mode == "/think" -%}
        {{- "<|im_start|>assistant\n" + m.content.lstrip("\n") + "<|im_end|>\n" -}}
    {%- elif m.role == "assistant" -%}
        {{- "<|im_start|>assistant\n<think>\n\n</think>\n" + m.content.lstrip("\n") + "<|im_end|>\n" -}}
    {%- elif m.role == "user" -%}
        {{- "<|im_start|>user\n" + m.content + "<|im_end|>\n" -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- "<|im_start|>assistant\n" -}}
{%- endif -%}
"""
REASONING = {"qwen 3": QWEN_3, "r1": R1, "smollm 3": SMOLLM_3}
FAMILIES = {
    "chatml": CHATML,
    "chatml with a system message": CHATML_WITH_A_SYSTEM_MESSAGE,
    "llama 3": LLAMA_3,
    "llama 2": LLAMA_2,
    "gemma": GEMMA,
    "zephyr": ZEPHYR,
}
VARIABLES = {"bos_token": "<s>", "eos_token": "</s>"}
SPECIALS = [
    *("<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|im_end|>!", "<|start_header_id|>", "<|end_header_id|>"),
    *("<|eot_id|>", "<start_of_turn>", "<end_of_turn>", "<|user|>", "<|system|>", "<|assistant|>"),
]
LEARNED = "user assistant system model\n\n[INST] Hello hello, how are you? [/INST] I am well.\n <<SYS>>\n <|x|> " * 9


@functools.cache
def small_bpe():
    """A byte-level BPE of the package `tokenizers`."""
    from tokenizers import Tokenizer as Theirs
    from tokenizers import decoders, models, pre_tokenizers, trainers

    theirs = Theirs(models.BPE())
    theirs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    theirs.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=SPECIALS, initial_alphabet=alphabet, show_progress=False
    )
    theirs.train_from_iterator([LEARNED], trainer)
    return theirs


def transformers_bpe():
    """`small_bpe` as a tokenizer of transformers; skips the test where that is not installed."""
    transformers = pytest.importorskip("transformers")
    how = {"bos_token": "<s>", "eos_token": "</s>", "additional_special_tokens": SPECIALS[2:]}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=small_bpe(), **how)


class SmallBPE(Tokenizer):
    """The same as one of our tokenizers."""

    def __init__(self):
        self.theirs = type(small_bpe()).from_str(small_bpe().to_str())
        self.theirs.encode_special_tokens = True  # names of special tokens are text
        self.vocab_size = self.theirs.get_vocab_size()
        self.special_tokens = {END: self.theirs.token_to_id("</s>")}
        self.special_tokens |= {name: self.theirs.token_to_id(name) for name in SPECIALS}
        self.opening = (self.special_tokens["<s>"],)

    def encode(self, text: str) -> list[int]:
        return self.theirs.encode(text, add_special_tokens=False).ids

    def decode_bytes(self, tokens: Sequence[int]) -> bytes:
        return self.theirs.decode(list(tokens), skip_special_tokens=True).encode()

    def to_dict(self) -> dict:
        return {"kind": "small"}
