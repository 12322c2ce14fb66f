"""Decoding methods of sample.py: sampling, speculative decoding, beam search, best of N, explained sampling.

Each is a function that takes an `Order`, and prints the generated text and how it was generated. `sample.py` chooses
one. Read before: `text/model.py`, `runs/folder.py`.
"""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple

import torch

from minillm.cache.build_cache import PAGE, CacheConfig, build_cache
from minillm.config.fields import AtLeast, Count, Positive
from minillm.console.attention_report import AttentionChoice, print_attention
from minillm.decoding.beam import BeamConfig
from minillm.decoding.best_of import BestOfConfig, rank
from minillm.decoding.draft_length import Tally
from minillm.decoding.explain import Choice, ExplainingSampler, show, to_json
from minillm.decoding.generate import generate
from minillm.decoding.rows import Completion
from minillm.decoding.sampler import Sampler, SamplingConfig
from minillm.decoding.speculative import speculate
from minillm.models.language_model import LanguageModel, State
from minillm.runs.drafter import build_drafter
from minillm.runs.folder import OpenRun
from minillm.text.model import Prompt, TextModel

BETWEEN = "\n---\n"  # printed between two texts
N_PLAIN = 64  # tokens generated without a draft, for the speed-up
N_SEEDS = 10**6  # a fresh seed is below this, so that it is short to type
MAX_SEED = 2**63 - 1


@dataclass(frozen=True)
class Request:
    """The numbers of a request: texts, tokens, drafted tokens, and the attention weights to show."""

    num_samples: Positive = 1  # texts to generate, each with its own seed
    max_new_tokens: Count = 0  # most tokens to generate; 0: the run's own limit
    draft_tokens: Count = 0  # with --draft: tokens to draft at once; 0: chosen by the acceptance so far
    draft_cost: Annotated[float, AtLeast(0)] = (
        0.0  # with --draft: cost of a drafted token, in calls of the model; 0: estimated
    )
    attention_layer: Count = 0  # with --attention: the layer to show, from 1; 0: the last, and a picture of all
    attention_head: Count = 0  # with --attention: the head to show, from 1; 0: the mean of all

    @property
    def attention(self) -> AttentionChoice:
        """The attention weights to show."""
        return AttentionChoice(self.attention_layer, self.attention_head)


class Memory:
    """Makes the initial states of generation, with the chosen KV cache; `str` gives the bytes of the last state."""

    def __init__(self, text: TextModel, config: CacheConfig | None, n_rows: int = 1):
        """`config`: the cache; None: the model's own. `n_rows`: the most rows that a batch can have.

        Raises ValueError for an invalid cache, and for a model that cannot use it.
        """
        self.text, self.config = text, config
        room = -(-(text.model.context_length or 1) // PAGE) * PAGE  # slots of a row, in whole pages
        self.cache = config and build_cache(config, n_rows * room)
        self.states: list[State] = []
        self.prompt: Prompt = ""

    def __call__(self, prompts: Sequence[Prompt]) -> Callable[[int], State]:
        make, self.prompt = self.text.start(prompts, self.cache) or self.text.model.start, prompts[0]

        def start(batch_size: int) -> State:
            self.states.append(make(batch_size))
            return self.states[-1]

        return start

    def nbytes(self) -> int:
        """Bytes of the latest state."""
        return self.states[-1].nbytes()

    @torch.inference_mode()
    def plain_nbytes(self) -> int:
        """Bytes that the plain cache needs for the same rows and tokens (at most the model's context)."""
        lengths, model = self.states[-1].lengths, self.text.model
        make = self.text.start([self.prompt] * len(lengths)) or model.start
        _, state = model(
            lengths.new_zeros(len(lengths), min(int(lengths.max()), model.context_length)), make(len(lengths))
        )
        return state.nbytes()

    def __str__(self) -> str:
        if self.config is None or not self.states:
            return ""
        lengths, plain = self.states[-1].lengths, ""
        if self.config.cache != "contiguous":
            n_bytes = self.plain_nbytes()
            plain = f", {self.nbytes() / n_bytes:.0%} of the {n_bytes:,} of the plain cache"
        held = f"{self.nbytes():,} bytes held at the end{plain}"
        read = f"{len(lengths)} x {int(lengths.sum()) // len(lengths)} tokens"
        return f"\n{self.config.cache} cache: {held}, after reading {read}\n"


class Order(NamedTuple):
    """A request to generate: the run, the prompt, the sampling settings, seeds and limits."""

    opened: OpenRun
    prompt: Prompt
    sampling: SamplingConfig
    max_new_tokens: int
    seeds: Sequence[int]  # one for each text
    stop: Sequence[str]
    memory: Memory
    check: Callable[[str], str] | None = None  # text -> a verdict, printed below the text

    @property
    def text(self) -> TextModel:
        """The model and its tokenizer."""
        return self.opened.text

    def how(self, n_texts: int) -> dict:
        """Keyword arguments of `TextModel.generate` for `n_texts` completions of the prompt."""
        start = self.memory([self.prompt] * n_texts)
        return {"sampling": self.sampling, "max_new_tokens": self.max_new_tokens, "stop": self.stop, "start": start}

    def whole(self, written: str) -> str:
        """The prompt and the generated text; the text alone after a conversation."""
        return self.prompt + self.text.joint + written if isinstance(self.prompt, str) else written

    def below(self, written: str) -> str:
        """The verdict on a text, to be printed below it; "" without a check."""
        return f"\n{self.check(self.whole(written))}" if self.check else ""


def choose_seed(text: str | None, n_texts: int) -> int:
    """The seed of the first of `n_texts` texts: the given one, else a random one. Raises ValueError if invalid."""
    if text is None:
        return random.SystemRandom().randrange(N_SEEDS)
    most = MAX_SEED - n_texts + 1
    if not (text.isascii() and text.isdigit()) or int(text) > most:
        raise ValueError(f"--seed = {text!r}: expected int 0 ... {most}; leave it out for a fresh one")
    return int(text)


def plainly(
    order: Order,
    stream: bool,
    attention: AttentionChoice | None = None,
    write: Callable[..., list[Completion]] = generate,
) -> None:
    """Sample texts token by token, one after the other if `stream`, else in one batch; print the attention if asked."""
    if stream:
        for i, seed in enumerate(order.seeds):
            print((BETWEEN if i else "") + order.whole(""), end="", flush=True)
            how = {"show": partial(print, end="", flush=True), "write": write, **order.how(1)}
            [completion] = order.text.generate([order.prompt], seeds=[seed], **how)
            print(order.below(completion.text))
    else:
        n = len(order.seeds)
        completions = order.text.generate([order.prompt] * n, seeds=order.seeds, write=write, **order.how(n))
        print(BETWEEN.join(order.whole(completion.text) + order.below(completion.text) for completion in completions))
    print(order.memory, end="")
    if attention:
        print_attention(order.opened, order.text.attention(order.prompt, completions[0].text), attention)


def with_draft(order: Order, stream: bool, draft: str, n_draft: int, cost: float = 0.0) -> None:
    """Speculative decoding: the same greedy texts, or samples of the same distribution; then print the speed-up.

    `draft` and `cost` are arguments of `build_drafter`.
    """
    n_rows = 1 if stream else len(order.seeds)
    drafter = build_drafter(draft, order.opened, [order.prompt] * n_rows, cost)
    tallies: list[Tally] = []
    seconds = 0.0  # of decoding, without the story check

    def write(*args: object, **how: object) -> list[Completion]:
        nonlocal seconds
        new = [Tally() for _ in how["generators"]]
        tallies.extend(new)
        began = time.perf_counter()
        completions = speculate(*args, **how, drafter=drafter, n_draft=n_draft, tallies=new)
        seconds += time.perf_counter() - began
        return completions

    # subtle: the first calls in a process load kernels; without a warm-up, that would count against what is timed first
    how = order.how(n_rows) | {"max_new_tokens": 3, "seeds": order.seeds[:n_rows]}
    for warm_up in (generate, partial(speculate, drafter=drafter, n_draft=1)):
        order.text.generate([order.prompt] * n_rows, **how, write=warm_up)
    plainly(order, stream, write=write)
    tally = sum(tallies, Tally())
    # subtle: when some of several texts have ended, the batch is smaller, so whole texts are compared
    n_plain = min(order.max_new_tokens, N_PLAIN) if n_rows == 1 else order.max_new_tokens
    began = time.perf_counter()
    how = order.how(n_rows) | {"max_new_tokens": n_plain, "seeds": order.seeds[:n_rows]}
    written = order.text.generate([order.prompt] * n_rows, **how)
    plain = (time.perf_counter() - began) / max(sum(completion.n_tokens for completion in written), 1)
    n_drafted = tally.n_calls - tally.n_plain
    without = f"; nothing was drafted for {tally.n_plain} of {tally.n_calls} calls"
    print(
        f"\nper call of the target with a draft: {tally.n_drafted / max(n_drafted, 1):.1f} tokens drafted, "
        f"{(tally.n_tokens - tally.n_plain) / max(n_drafted, 1):.2f} written; "
        f"{tally.acceptance:.0%} of those tested were accepted{without}"
        f"\nspeed-up: {plain * tally.n_tokens / seconds:.2f} x, measured against {n_plain} tokens a text "
        "without a draft"
    )


def by_beams(order: Order, config: BeamConfig) -> None:
    """Beam search: print the most probable texts that it finds, with their scores."""
    how = {"max_new_tokens": order.max_new_tokens, "start": order.memory([order.prompt])}
    found = order.text.search(order.prompt, config, order.sampling, **how)
    scores = [f"[{each.score:.3f} = {each.logprob:.3f} / {each.length}^{config.length_penalty:g}]" for each in found]
    print(
        BETWEEN.join(
            f"{order.whole(each.text)}{order.below(each.text)}\n{score}"
            for each, score in zip(found, scores, strict=True)
        )
    )
    print(order.memory, end="")


def best_of(order: Order, config: BestOfConfig) -> None:
    """Best of N: sample N texts, and print those with the highest scores."""
    seeds = range(order.seeds[0], order.seeds[0] + config.best_of)
    drawn: list[Completion] = []

    def write(*args: object, **how: object) -> list[Completion]:
        drawn.extend(generate(*args, **how))
        return drawn

    texts = order.text.generate([order.prompt] * len(seeds), seeds=seeds, write=write, **order.how(len(seeds)))
    ranked = rank(drawn, config)
    best = ranked[: len(order.seeds)]
    shown = {r: order.whole(texts[r.index].text) + order.below(texts[r.index].text) for r in best}
    print(BETWEEN.join(f"{shown[r]}\n[{r.score:.3f} nats a token, seed {seeds[r.index]}]" for r in best))
    print(f"\n{len(best)} of {len(ranked)} different texts, out of {len(seeds)}{order.memory}")


def explained(order: Order, path: Path | None, draft: str | None, n_draft: int, cost: float = 0.0) -> None:
    """Sample one text and explain each token by its distributions; save them as JSON in `path`, if given.

    With a `draft`, decode as `with_draft` does, and tell whether each drafted token was accepted.
    """
    choices: list[Choice] = []
    drafter = draft and build_drafter(draft, order.opened, [order.prompt], cost)

    def write(
        model: LanguageModel, prompts: Sequence[Sequence[int]], sampler: Sampler, **how: object
    ) -> list[Completion]:
        explaining = ExplainingSampler(sampler.pipeline, order.memory.nbytes, choices)
        if drafter is None:
            return generate(model, prompts, explaining, **how)
        completions = speculate(
            model, prompts, sampler, **how, drafter=drafter, n_draft=n_draft, watch=explaining.watch
        )
        del choices[len(completions[0].logprobs) :]  # tokens accepted after the end of the text are not in it
        return completions

    [completion] = order.text.generate([order.prompt], seeds=order.seeds, write=write, **order.how(1))
    print(order.whole(completion.text) + order.below(completion.text))
    print(f"\n{show(choices, lambda token: order.text.tokenizer.decode([token]))}")
    print(order.memory, end="")
    if path is not None:
        path.write_text(
            to_json(choices, prompt=order.prompt, seed=order.seeds[0], text=completion.text), encoding="utf-8"
        )
        print(
            f"\nthe explanation is saved in {path}; "
            f"draw the same tokens again with: python -m minillm.decoding.explain replay {path}"
        )
