"""lm-eval: a run as a model of the Language Model Evaluation Harness (Gao et al. 2021), with its adapter's numbers.

On the same weights and tokens, the log-probabilities, greedy flags and texts are those of lm-eval's own adapter for
transformers. White space at the end of a context moves to the continuation, both are tokenized as one text, and what
follows the first n tokens is scored if the context alone has n; where nothing follows, since a token spans the border,
the last token is scored (the other adapter stops). A context that is too long loses its first tokens. A document is
read in disjoint windows, each after one token of the window before, so each of its tokens is scored once. The opening
tokens of the run stand for an empty context and are not scored; transformers' adapter scores a BOS of its tokenizer.

    lm = adapter()(minillm.load("runs/gpt-tiny").text, "runs/gpt-tiny", Options(batch_size="auto"))
    lm_eval.simple_evaluate(model=lm, tasks=["arc_easy"])

Read before: `continuations`, `spelling`; the command is `minillm/lm_eval.py`.
"""

import functools
import logging
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Protocol

import torch
from tqdm import tqdm

from minillm.config.fields import Between, Positive, fit
from minillm.decoding.sampler import SamplingConfig
from minillm.interop.continuations import score
from minillm.interop.lm_eval_settings import UNLIMITED, Options, Writing, row_limit, writing_of
from minillm.interop.spelling import LEFT, spell, unspell
from minillm.models.language_model import LanguageModel, device_of
from minillm.tokenizers.chat import Message, Template
from minillm.tokenizers.tokenizer import Tokenizer

say = logging.getLogger("lm_eval.models.minillm").warning  # a child of the logger that lm-eval's commands show


class Evaluated(Protocol):
    """A text model that can be evaluated, such as `minillm.text.model.TextModel`."""

    tokenizer: Tokenizer
    template: Template | None

    @property
    def writer(self) -> LanguageModel:
        """The model that computes."""
        ...

    @property
    def opening(self) -> list[int]:
        """The ids before every text."""
        ...

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingConfig,
        *,
        max_new_tokens: int,
        seeds: Sequence[int],
        stop: Sequence[str],
    ) -> Sequence[Any]:
        """A completion of each prompt, whose `text` ends before the first of the `stop` strings."""
        ...


@functools.cache
def adapter() -> type:
    """The class of the adapter, a `TemplateLM` of lm-eval. Raises ValueError if lm-eval is not installed."""
    try:
        from lm_eval.api.model import TemplateLM
        from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
    except ImportError as error:
        raise ValueError(f"lm_eval: expected the package lm-eval, {error}; pip install lm-eval") from error

    class MinillmLM(TemplateLM):
        """A model and its tokenizer as a language model of lm-eval; see the module."""

        def __init__(self, text: Evaluated, name: str, options: Options):
            """`name` is that of the run. Raises ValueError for options that do not fit, and for a translator."""
            super().__init__()
            model, tokenizer = text.writer, text.tokenizer
            if "source" in model.start_options:
                raise ValueError(f"{name}: expected a run that continues a text, found one that translates")
            self.text, self.name = text, name
            self._device = device_of(model)
            self._rows = row_limit(options, model.vocab_size)
            most = model.context_length or UNLIMITED
            self.max_length = most if options.max_length is None else options.max_length
            fit(self.max_length, Annotated[int, Between(1, most)], "max_length")
            given = options.max_gen_toks
            self.max_gen_toks = max(1, min(256, self.max_length // 2)) if given is None else given
            fit(self.max_gen_toks, Positive, "max_gen_toks")
            self.opening = text.opening
            self.before_all = self.opening or [tokenizer.end_id]  # read before a text without a context
            if options.prefix_token_id is not None:
                ids = Annotated[int, Between(0, model.vocab_size - 1)]
                self.before_all = [fit(options.prefix_token_id, ids, "prefix_token_id")]

        @property
        def eot_token_id(self) -> int:
            return self.text.tokenizer.end_id

        @property
        def prefix_token_id(self) -> int:
            return self.before_all[-1]

        @property
        def tokenizer_name(self) -> str:
            return self.name.replace("/", "__")

        def tok_encode(self, string: str, add_special_tokens: bool | None = None) -> list[int]:
            """The ids of a text after the opening tokens, or, with False, of the text alone.

            The ids of a conversation, as `apply_chat_template` writes it, are exactly those of the run's template.
            """
            parts = unspell(self.text.tokenizer, string)
            opening = [] if len(parts) > 1 or add_special_tokens is False else self.opening
            return [*opening, *self.text.tokenizer.encode_parts(parts)]

        def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
            """The ids of a context, at least one, and those to score after it, at least one; see the module."""
            if not continuation:
                raise ValueError(f"continuation = '' of context {context[-40:]!r}: expected a character to score")
            if not context:
                return self.before_all, self.tok_encode(continuation, add_special_tokens=False)
            before, scored = super()._encode_pair(context, continuation)
            if not scored:
                *before, last = self.tok_encode(context + continuation)
                scored = [last]
            return before or self.before_all, scored

        def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
            """For each (context, continuation): ln p(continuation | context) in nats, and whether greedy writes it."""
            pairs = [(request.args, *self._encode_pair(*request.args)) for request in requests]
            lengths = [len(before) + len(scored) - 1 for _, before, scored in pairs]
            say_what_is_cut(lengths, self.max_length, "context and continuation")
            return self._loglikelihood_tokens(pairs, disable_tqdm)

        def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
            """For each (document,): ln p(document) in nats, 0 for an empty one."""
            windows, owners = [], []
            for i, request in enumerate(requests):
                tokens = self.tok_encode(request.args[0], add_special_tokens=False)
                cut = [
                    make_disjoint_window(window)
                    for window in get_rolling_token_windows(
                        tokens, prefix_token=self.prefix_token_id, max_seq_len=self.max_length, context_len=1
                    )
                ]
                cut[:1] = [(self.before_all, scored) for _, scored in cut[:1]]
                windows += [(None, *window) for window in cut]
                owners += [i] * len(cut)
            sums = [0.0] * len(requests)
            for i, (logprob, _) in zip(owners, self._loglikelihood_tokens(windows, disable_tqdm), strict=True):
                sums[i] += logprob
            for request, logprob in zip(requests, sums, strict=True):
                self.cache_hook.add_partial("loglikelihood_rolling", request.args, logprob)
            return sums

        def _loglikelihood_tokens(
            self, requests: Sequence[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False
        ) -> list[tuple[float, bool]]:
            """The answers to (key of lm-eval's cache or None, context, continuation).

            Requests whose tokens to read are equal, such as choices of one token, share one row.
            """
            readers: dict[tuple[int, ...], list[int]] = {}  # tokens to read -> indices of requests
            for i, (_, before, scored) in enumerate(requests):
                if len(scored) > self.max_length:
                    raise ValueError(
                        f"continuation of {len(scored)} tokens: expected at most max_length = {self.max_length}"
                    )
                whole = (*before, *scored)[-self.max_length - 1 :]
                readers.setdefault(whole[:-1], []).append(i)
            answers = [(0.0, True)] * len(requests)
            rows = list(readers)
            for chosen in self._batches(list(map(len, rows)), "loglikelihood", disable_tqdm):
                asked = [(b, i) for b, row in enumerate(chosen) for i in readers[rows[row]]]
                questions = [(b, requests[i][2]) for b, i in asked]
                found = score(self.text.writer, [rows[row] for row in chosen], questions)
                for (_, i), answer in zip(asked, found, strict=True):
                    answers[i] = answer
                    if requests[i][0] is not None:
                        self.cache_hook.add_partial("loglikelihood", requests[i][0], answer)
            return answers

        def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
            """The completion of each (context, generation_kwargs), up to the first of the strings `until`.

            Sampling is seeded by torch's seed, which lm-eval's --seed sets, and by the number of the request.
            """
            groups: dict[Writing, list[int]] = {}
            prompts = []
            for i, request in enumerate(requests):
                context, given = request.args
                writing = writing_of(given, self.max_gen_toks, self.max_length)
                groups.setdefault(writing, []).append(i)
                prompts.append(self.tok_encode(context) or self.before_all)
            texts = [""] * len(requests)
            for writing, members in groups.items():
                room = self.max_length - writing.max_new_tokens
                lengths = [len(prompts[i]) for i in members]
                say_what_is_cut(lengths, room, f"context before max_gen_toks = {writing.max_new_tokens}")
                for chosen in self._batches(lengths, "generate_until", disable_tqdm):
                    numbers = [members[k] for k in chosen]
                    written = self.text.generate(
                        [prompts[i][-room:] for i in numbers],
                        writing.sampling,
                        max_new_tokens=writing.max_new_tokens,
                        seeds=[(torch.initial_seed() + i) % 2**63 for i in numbers],
                        stop=writing.stop,
                    )
                    for i, completion in zip(numbers, written, strict=True):
                        texts[i] = completion.text
                        self.cache_hook.add_partial("generate_until", requests[i].args, completion.text)
            return texts

        def apply_chat_template(self, chat_history: list[Message], add_generation_prompt: bool = True) -> str:
            """A conversation in the notation of the run's template, as a string that `tok_encode` reads back.

            Without `add_generation_prompt`, its last message is the beginning of the answer. Raises ValueError for a
            run without a template, and for a conversation that the template, or a string, cannot express.
            """
            if self.text.template is None:
                raise ValueError(
                    f"{self.name}: expected a run with a chat template, found none; leave out --apply_chat_template"
                )
            if any(LEFT in message["content"] for message in chat_history):
                raise ValueError(f"a message contains U+{ord(LEFT):X}: expected Unicode text; remove this noncharacter")
            messages = chat_history if add_generation_prompt else chat_history[:-1]
            tokens = self.text.template.render(messages)
            string = spell(self.text.tokenizer, tokens)
            if self.tok_encode(string) != tokens:
                raise ValueError(f"the conversation {string[:80]!r}...: expected tokens that can be read from its text")
            return string if add_generation_prompt else string + chat_history[-1]["content"]

        def chat_template(self, chat_template: bool | str = False) -> str | None:
            """An example of the run's notation, which lm-eval logs; None if no template is asked for."""
            if isinstance(chat_template, str):
                raise ValueError(
                    f"--apply_chat_template {chat_template}: expected no name, since a run has one template"
                )
            return self.apply_chat_template([Message(role="user", content="...")]) if chat_template else None

        def _batches(self, lengths: Sequence[int], name: str, disable_tqdm: bool) -> Iterator[list[int]]:
            """The indices of texts of these lengths in batches, the longest first, with a progress bar."""
            waiting = sorted(range(len(lengths)), key=lambda i: -lengths[i])
            with tqdm(total=len(lengths), desc=name, disable=disable_tqdm) as bar:
                while waiting:
                    n = self._rows(lengths[waiting[0]])
                    yield waiting[:n]
                    bar.update(len(waiting[:n]))
                    waiting = waiting[n:]

    return MinillmLM


def say_what_is_cut(lengths: Sequence[int], most: int, what: str) -> None:
    """Warn once about the texts of which only the last `most` tokens are read."""
    n_cut = sum(length > most for length in lengths)
    if n_cut:
        say(
            f"{n_cut} of {len(lengths)} requests are longer than the model reads ({what}: at most {most} tokens, "
            f"the longest has {max(lengths)}): their first tokens are left out"
        )
