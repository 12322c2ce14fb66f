"""minillm: the LLM textbook that you can run. The lessons are in `minillm/lessons/`.

For notebooks there are two functions, `load` and `train`; import everything else from its own module.

    import minillm

    model = minillm.load("runs/gpt-tiny")
    model.generate("Once", top_p=0.9, seed=1)
    model = minillm.train("gpt-tiny", corpus=["a text", "another text"], **{"train.max_steps": 200})
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minillm.runs.notebook import Model


def load(run: Any = None, device: str = "auto") -> "Model":
    """See `minillm.runs.notebook.load`."""
    from minillm.runs import notebook

    return notebook.load(run, device)


def train(config: Any, corpus: Any = None, device: str = "auto", **overrides: Any) -> "Model":
    """See `minillm.runs.notebook.train`."""
    from minillm.runs import notebook

    return notebook.train(config, corpus, device, **overrides)
