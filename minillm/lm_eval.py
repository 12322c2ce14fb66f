"""Evaluate a run with lm-eval, the Language Model Evaluation Harness (python -m minillm.lm_eval run ...).

The command is lm-eval's own, with all its flags and tasks, and one more model, `minillm`:

    python -m minillm.lm_eval run --model minillm --model_args run=runs/gpt-tiny --tasks arc_easy --batch_size auto
    python -m minillm.lm_eval run --model minillm --model_args run=runs/chat --tasks gsm8k --apply_chat_template
    python -m minillm.lm_eval ls tasks

`--model_args` takes run (default: the newest in runs/), max_length, max_gen_toks and prefix_token_id. In a notebook:

    minillm.lm_eval.register()
    lm_eval.simple_evaluate(model="minillm", model_args={"run": "runs/gpt-tiny"}, tasks=["arc_easy"])

Tasks and data come from lm-eval and its data sets' hub; a local task is a YAML file in a folder that --include_path
names. Read before: `interop/lm_eval.py`.
"""

import dataclasses
import functools
import sys
from typing import Any

from minillm.config.fields import suggest
from minillm.interop.lm_eval import Options, adapter
from minillm.runs.notebook import load
from minillm.system.os_errors import exit_status

DEFAULT_DEVICE = "cuda:0"  # what lm-eval passes on if --device was not given


@functools.cache
def register() -> type:
    """Add the model `minillm` to lm-eval in this process; return its class. Raises ValueError without lm-eval."""
    base = adapter()
    from lm_eval.api.registry import register_model

    @register_model("minillm")
    class RunLM(base):
        """A run as a language model of lm-eval."""

        def __init__(self, run: str | None = None, device: str | None = None, **options: Any):
            """Raises ValueError for a folder without a run that writes, and for an unknown option."""
            known = ["run", "device", *(field.name for field in dataclasses.fields(Options))]
            for name in options:
                if name not in known:
                    raise ValueError(f"model_args.{name}: expected {suggest(name, known)}")
            model = load(run, "auto" if device in (None, DEFAULT_DEVICE) else device)
            super().__init__(model.text, str(model.opened.path), Options(**options))

    return RunLM


def main() -> int:
    """Run lm-eval's command; return the exit status."""
    return exit_status("lm_eval", evaluate)


def evaluate() -> None:
    """Run lm-eval's own command line, with our model among its models."""
    register()
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()


if __name__ == "__main__":
    sys.exit(main())
