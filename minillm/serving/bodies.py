"""Bodies of requests: from the JSON of a chat or completion request to the texts that it orders.

The fields are those of OpenAI's API (2024), and our own sampling settings under their own names (top_k, min_p,
repetition_penalty and so on). A field that is absent or null takes the run's own setting. Choice i of a request is
drawn with the seed `seed + i`, so every choice can be written again alone. Penalties count the prompt too, as our
sampler does everywhere. Read before: `body_fields`, `worker`.
"""

import dataclasses
import random
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from minillm.config.fields import Between, Count, fit
from minillm.decoding.penalties import LogitBias
from minillm.decoding.sampler import SamplingConfig
from minillm.serving.body_fields import BodyFields, expected
from minillm.serving.errors import ApiError
from minillm.serving.messages import read_messages
from minillm.serving.worker import TextOrder
from minillm.text.model import Prompt, TextModel

MOST_CHOICES = 16  # of one prompt
MOST_TEXTS = 64  # of one request: prompts times choices
MOST_STOPS = 4
MOST_STOP = 256  # characters of a stop string
MOST_BIASES = 1024
MOST_UNBOUNDED = 4096  # new tokens, where the model has no context length
N_SEEDS = 10**6  # a fresh seed is below this, so that it is short to type
MAX_SEED = 2**63 - 1
DEFAULT_COMPLETION = 16  # new tokens of /v1/completions, as clients expect
NO_TEMPLATE = (
    "messages: expected a prompt, since this run has learned from no conversations and has no chat template; "
    "send it to /v1/completions"
)

# settings of the sampler that a request may change; bans are written as logit_bias
SETTINGS = {
    name: hint
    for name, hint in typing.get_type_hints(SamplingConfig, include_extras=True).items()
    if name != "banned_tokens"
} | {"frequency_penalty": Annotated[float, Between(-2, 2)], "presence_penalty": Annotated[float, Between(-2, 2)]}


@dataclass(frozen=True)
class Body:
    """A request for texts."""

    orders: Sequence[TextOrder]  # the choices of the first prompt, then those of the second, and so on
    n_prompt_tokens: int
    seed: int  # of the first choice of each prompt
    stream: bool
    include_usage: bool
    echoes: Sequence[str]  # a text before each completion; "" for none


@dataclass(frozen=True)
class Reader:
    """Reads bodies for one model."""

    name: str  # of the model, as requests name it
    text: TextModel
    defaults: SamplingConfig
    most_texts: int = MOST_TEXTS  # that fit into the queue
    adapter: str | None = None  # name of the adapter that writes
    others: Sequence[str] = ()  # names of the models that other readers are for

    @property
    def _needs_text(self) -> bool:
        """Whether an encoder reads the prompt as text; otherwise ids are enough."""
        return "source" in self.text.model.start_options

    def chat(self, body: dict[str, Any]) -> Body:
        """A body of /v1/chat/completions. Raises ApiError."""
        fields = BodyFields(body)
        if self.text.template is None:
            raise ApiError(400, NO_TEMPLATE, "messages", "no_template")
        messages = fields.needed("messages", read_messages)
        fields.take("response_format", refuse_formats)
        fields.refuse(
            **dict.fromkeys(("tools", "tool_choice", "functions", "function_call"), "this server calls no functions"),
            **dict.fromkeys(("modalities", "audio"), "this server writes only text"),
            prediction="this server takes no predicted output",
            reasoning_effort="the model has no such setting",
            logprob_token_ids="this server has no such field",
        )
        logprobs = fields.typed("logprobs", bool, False)
        n_top = fields.typed("top_logprobs", Annotated[int, Between(0, 20)], 0)
        if n_top and not logprobs:
            raise ApiError(400, "top_logprobs: expected logprobs = true beside it", "top_logprobs", "invalid_value")
        most = fields.typed("max_completion_tokens", Count)
        older = fields.typed("max_tokens", Count)
        if most is not None and older is not None:
            raise ApiError(
                400, "max_tokens: expected one of max_tokens and max_completion_tokens; leave one out", "max_tokens"
            )
        try:
            ids = self.text.converse(messages)
        except ValueError as e:
            raise ApiError(400, f"messages: {e}", "messages", "invalid_value") from None
        name = "max_tokens" if most is None else "max_completion_tokens"
        most = self._most(name, older if most is None else most, None)
        return self._body(fields, [ids], most, logprobs, n_top, "messages", [""])

    def completion(self, body: dict[str, Any]) -> Body:
        """A body of /v1/completions. Raises ApiError."""
        fields = BodyFields(body)
        prompts = fields.needed("prompt", self._prompts)
        fields.refuse(suffix="this model only continues texts")
        fields.take("best_of", lambda value: fit(value, Annotated[int, Between(1, 1)], "best_of"))
        fields.take("response_format", refuse_formats)
        n_top = fields.typed("logprobs", Annotated[int, Between(0, 5)])
        echo = fields.typed("echo", bool, False)
        if echo and n_top is not None:
            raise ApiError(
                400, "echo: expected no logprobs beside it, since those of a prompt are not computed", "echo"
            )
        most = self._most("max_tokens", fields.typed("max_tokens", Count), DEFAULT_COMPLETION)
        echoes = [self._echo(prompt) if echo else "" for prompt in prompts]
        return self._body(fields, prompts, most, n_top is not None, n_top or 0, "prompt", echoes)

    def _body(
        self,
        fields: BodyFields,
        prompts: Sequence[Prompt],
        max_new_tokens: int,
        logprobs: bool,
        n_top: int,
        param: str,
        echoes: Sequence[str],
    ) -> Body:
        """Read the fields that both kinds of request have."""
        model = fields.typed("model", str, self.name)
        n = fields.typed("n", Annotated[int, Between(1, MOST_CHOICES)], 1)
        stop = fields.take("stop", read_stops, ())
        seed = fields.typed("seed", Annotated[int, Between(0, MAX_SEED - n + 1)])
        if seed is None:
            seed = random.SystemRandom().randrange(N_SEEDS)
        stream = fields.typed("stream", bool, False)
        include_usage = fields.take("stream_options", read_stream_options)
        if include_usage is not None and not stream:
            raise ApiError(400, "stream_options: expected stream = true beside it", "stream_options")
        sampling = read_sampling(fields, self.defaults)
        bias = fields.take("logit_bias", self._biases, ())
        fields.finish()
        if model != self.name:
            raise unknown_model(model, [self.name, *self.others])
        if n * len(prompts) > self.most_texts:
            raise ApiError(400, f"{len(prompts)} prompts of n = {n}: expected at most {self.most_texts} texts", param)
        ids = [self._encoded(prompt, param) for prompt in prompts]
        prompts = prompts if self._needs_text else ids
        orders = [
            TextOrder(
                prompt,
                max_new_tokens,
                sampling,
                seed + i,
                stop,
                bias,
                logprobs,
                n_top,
                stream,
                self.adapter,
            )
            for prompt in prompts
            for i in range(n)
        ]
        each = [echo for echo in echoes for _ in range(n)]
        return Body(orders, sum(map(len, ids)), seed, stream, bool(include_usage), each)

    def _most(self, name: str, asked: int | None, default: int | None) -> int:
        """The most new tokens of each text; the default None: as many as the context has room for."""
        context = self.text.model.context_length
        most = context or MOST_UNBOUNDED
        if asked is not None and asked > most:
            what = f"the model's context of {most}" if context else f"{most}"
            raise ApiError(400, f"{name} = {asked}: expected at most {what}", name, "invalid_value")
        return asked if asked is not None else min(default or most, most)

    def _encoded(self, prompt: Prompt, param: str) -> list[int]:
        """The ids of a prompt that the model can read."""
        try:
            ids = self.text.encode(prompt)
        except ValueError as e:
            raise ApiError(400, f"{param}: {e}", param, "invalid_value") from None
        context = self.text.model.context_length
        if context is not None and len(ids) > context:
            what = f"{param} of {len(ids)} tokens: expected at most {context}, the model's context; shorten it"
            raise ApiError(400, what, param, "context_length_exceeded")
        return ids

    def _prompts(self, value: Any) -> list[Prompt]:
        """A string, an array of strings, an array of ids, or an array of arrays of ids."""
        if isinstance(value, str):
            return [value]
        what = "a string, an array of strings, or an array of token ids"
        if not isinstance(value, list) or not value:
            raise expected("prompt", value, f"{what}, and not empty")
        if all(isinstance(each, str) for each in value):
            return value
        many = value if all(isinstance(each, list) for each in value) else [value]
        return [self._ids(each, what) for each in many]

    def _ids(self, value: list[Any], what: str) -> list[int]:
        if self._needs_text:
            raise ValueError("prompt = token ids: expected text, since an encoder reads it")
        size = self.text.tokenizer.vocab_size
        if not value or not all(type(each) is int and 0 <= each < size for each in value):
            raise ValueError(f"prompt = an array: expected {what}, each id in 0 ... {size - 1}")
        return value

    def _echo(self, prompt: Prompt) -> str:
        return prompt if isinstance(prompt, str) else self.text.tokenizer.decode(prompt)

    def _biases(self, value: Any) -> tuple[LogitBias, ...]:
        """The transform for an object of ids and their biases; an empty object has none."""
        what = f"an object of at most {MOST_BIASES} token ids, each with a number from -100 to 100"
        if not isinstance(value, dict) or len(value) > MOST_BIASES:
            raise expected("logit_bias", value, what)
        size, biases = self.text.tokenizer.vocab_size, []
        for key, bias in value.items():
            i = int(key) if key.isascii() and key.isdigit() and len(key) < 10 else size
            if i >= size or str(i) != key:
                raise ValueError(f"logit_bias: {key!r}: expected a token id in 0 ... {size - 1}")
            biases.append((i, fit(bias, Annotated[float, Between(-100, 100)], f"logit_bias: {key}")))
        return (LogitBias(tuple(sorted(biases))),) if biases else ()


def unknown_model(name: str, known: Sequence[str]) -> ApiError:
    """The refusal of a model that is not served."""
    names = " or ".join(map(repr, known))
    return ApiError(404, f"model = {name!r}: expected {names}", "model", "model_not_found")


def read_sampling(fields: BodyFields, defaults: SamplingConfig) -> SamplingConfig:
    """The sampling settings among the fields; the default of each that is absent. Raises ApiError."""
    given = {name: fields.typed(name, hint) for name, hint in SETTINGS.items()}
    return dataclasses.replace(defaults, **{name: value for name, value in given.items() if value is not None})


def read_stops(value: Any) -> tuple[str, ...]:
    """Stop strings: one, or an array of at most four. Raises ValueError."""
    stops = [value] if isinstance(value, str) else value
    what = f"a string, or an array of at most {MOST_STOPS} strings, each of 1 to {MOST_STOP} characters"
    if not isinstance(stops, list) or len(stops) > MOST_STOPS:
        raise expected("stop", value, what)
    if not all(isinstance(stop, str) and 0 < len(stop) <= MOST_STOP for stop in stops):
        raise ValueError(f"stop: expected {what}")
    return tuple(stops)


def read_stream_options(value: Any) -> bool:
    """Whether the stream ends with a chunk of usage. Raises ValueError."""
    if not isinstance(value, dict):
        raise expected("stream_options", value, "an object with include_usage")
    for name in value:
        if name != "include_usage":
            raise ValueError(f"stream_options.{name}: unknown field; expected include_usage")
    wanted = value.get("include_usage")
    return False if wanted is None else fit(wanted, bool, "stream_options.include_usage")


def refuse_formats(value: Any) -> None:
    """Raise ValueError for a format of the answer other than text."""
    if value != {"type": "text"}:
        raise ValueError(
            'response_format: expected {"type": "text"}, since no grammar guides what this model writes; leave it out'
        )
