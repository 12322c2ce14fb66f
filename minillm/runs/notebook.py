"""Runs in a notebook: load a run or train a new one with one call, and get a model that generates text.

`minillm.load` and `minillm.train` are these functions. Errors are ValueErrors with the same messages as on the command
line. Read before: `folder`, `training`.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from minillm.config.fields import suggest
from minillm.config.loading import literal
from minillm.datasets.corpus import corpus_of
from minillm.decoding.sampler import SamplingConfig
from minillm.quantization.kernels import lighten
from minillm.runs import folder, start, training, wiring
from minillm.runs.folder import OpenRun
from minillm.speed.allocator import keep_freed_memory
from minillm.system.atomic import write_atomically
from minillm.text.model import Prompt, TextModel
from minillm.tokenizers.chat import Message

CORPUS = "corpus.jsonl"  # the file in the run's folder for texts that were given as a list


class Model:
    """The best model of a run, with its tokenizer: text in, text out."""

    def __init__(self, opened: OpenRun):
        """Raises ValueError for a run that does not generate text."""
        if not isinstance(opened.text, TextModel):
            kind = opened.config.task.kind
            raise ValueError(
                f"{opened.path}: expected a run that writes, found task.kind = {kind}; use sample.py for it"
            )
        self.opened, self.text = opened, opened.text

    def __repr__(self) -> str:
        return f"Model({str(self.opened.path)!r}, step {self.opened.step:,})"

    def generate(
        self,
        prompt: str | Sequence[str] = "",
        *,
        max_new_tokens: int = 0,
        seed: int = 0,
        stop: Sequence[str] = (),
        show: Callable[[str], object] | None = None,
        **sampling: Any,
    ) -> Any:
        """Generate the completion of a prompt, or a list of completions for a list of prompts, without the prompts.

        `sampling` replaces single sampling settings of the run, such as `top_p=0.9` or `temperature=0`. max_new_tokens:
        0 takes the run's own. seed: the seed of the first text; text i has seed + i. `show` receives the completion of
        the first prompt piece by piece while it is generated. Raises ValueError for an unknown setting, and for a
        prompt that the model cannot read.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        found = self._generate(prompts, sampling, max_new_tokens, seed, stop, show)
        return found[0] if isinstance(prompt, str) else found

    def chat(
        self,
        messages: Sequence[Message],
        *,
        max_new_tokens: int = 0,
        seed: int = 0,
        stop: Sequence[str] = (),
        show: Callable[[str], object] | None = None,
        **sampling: Any,
    ) -> str:
        """The model's answer to a conversation, such as [{"role": "user", "content": "Hello"}].

        Parameters as `generate`. Raises ValueError for a run without a chat template, and for a conversation that the
        template cannot write or the context cannot hold: nothing is left out.
        """
        prompt = self.text.converse(messages)
        return self._generate([prompt], sampling, max_new_tokens, seed, stop, show)[0]

    def _generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Mapping[str, Any],
        max_new_tokens: int,
        seed: int,
        stop: Sequence[str],
        show: Callable[[str], object] | None,
    ) -> list[str]:
        """The completion of each prompt; parameters and errors as `generate`."""
        known = [field.name for field in dataclasses.fields(SamplingConfig)]
        for name in sampling:
            if name not in known:
                raise ValueError(f"{name}: unknown setting; expected {suggest(name, known)}")
        found = self.text.generate(
            prompts,
            dataclasses.replace(self.opened.config.sampling, **sampling),
            max_new_tokens=max_new_tokens or self.opened.config.text.max_new_tokens,
            seeds=range(seed, seed + len(prompts)),
            stop=stop,
            show=show,
        )
        return [each.text for each in found]

    def score(self, context: str | Sequence[str], continuation: str | Sequence[str]) -> Any:
        """The log-probability in nats of a continuation given its context; for two lists, a list of them."""
        if isinstance(context, str) != isinstance(continuation, str):
            raise ValueError("score: expected two texts or two lists of texts; give both in the same form")
        if isinstance(context, str):
            return self.text.score([context], [continuation])[0]
        return self.text.score(context, continuation)

    def logprobs(self, text: str) -> list[tuple[str, float]]:
        """Each token of a text, with its log-probability in nats given the tokens before it."""
        [found] = self.text.logprobs([text])
        return [(token.text, token.logprob) for token in found]


def load(run: str | Path | None = None, device: str = "auto") -> Model:
    """Load a run from its folder; None: the newest run in runs/. Packed weights are arranged for fast kernels.

    Raises ValueError.
    """
    path = folder.newest_run() if run is None else Path(run)
    opened = folder.open_run(path, wiring.find_device(device))
    lighten(opened.text.model, None)
    return Model(opened)


def train(
    config: str | Path, corpus: Sequence[str] | str | Path | None = None, device: str = "auto", **overrides: Any
) -> Model:
    """Train a config in a new run folder, and load the run.

    config: the name of a config, or a .toml file. corpus: a list of texts, a file or folder, or None for the corpus of
    the config. A list is saved in the folder of the run, so that the run can be resumed. `overrides`: keys of the
    config, as in `**{"train.max_steps": 200}`. Raises ValueError for invalid settings.
    """
    flags = {name: _flag(value) for name, value in overrides.items()}
    with ExitStack() as held:
        path = folder.new_folder(flags.get("train.run", ""), start.new_name(str(config)), held)
        if isinstance(corpus, str | Path):
            flags["data.corpus"] = str(corpus)
        elif corpus is not None:
            flags["data.corpus"] = str(_keep(corpus, path))
        begun = start.resolve(str(config), None, None, flags)
        if begun.config.train.fast and begun.config.train.keep_memory:
            keep_freed_memory()
        fitted, data = start.read_data(begun, flags)
        training.run(training.prepare(begun, fitted, data, wiring.find_device(device)), path)
    return load(path, device)


def _keep(texts: Sequence[str], path: Path) -> Path:
    """Write the texts into the folder of a run, one document a line. Raises ValueError if it is not a list of texts."""
    lines = [json.dumps({"text": text}, ensure_ascii=False) for text in corpus_of(texts).documents]
    write_atomically(path / CORPUS, ("\n".join(lines) + "\n").encode())
    return path / CORPUS


def _flag(value: Any) -> str:
    """A value in the notation of command-line flags."""
    if isinstance(value, list | tuple):
        return ",".join(map(_flag, value))
    return value if isinstance(value, str) else literal(value)
