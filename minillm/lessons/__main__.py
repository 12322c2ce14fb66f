"""The list of the lessons in order, one line each (python -m minillm.lessons)."""

import ast
from pathlib import Path

ORDER = (
    *("ngram", "smoothing", "cross_entropy", "backpropagation", "optimizers", "training_loop"),
    *("cleaning", "bpe", "unigram", "wordpiece", "rnn", "lstm", "gru", "attention", "positions", "normalization"),
    *("transformer_block", "gpt", "bert"),
    *("encoder_decoder", "mixture_of_experts", "generation", "sampling", "beam_search", "kv_cache", "paged_cache"),
    *("cache_quantization", "cache_eviction", "speculative_decoding", "continuous_batching", "flash_attention"),
    *("lora", "adapters", "weight_quantization", "qlora", "instruction_tuning", "distillation"),
)
FIELDS = ("Paper:", "Read before:", "Then read:", "Try:", "Change it:", "Shown:")  # of each docstring, in this order


def docstring(name: str) -> str:
    """The module docstring of a lesson, without importing it."""
    source = Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8")
    return ast.get_docstring(ast.parse(source)) or ""


def field(name: str, title: str) -> str:
    """The text of a field of that docstring, such as "Paper:", up to the next field or an empty line."""
    lines = docstring(name).splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith(title))
    last = first + 1
    while last < len(lines) and lines[last] and not lines[last].startswith(FIELDS):
        last += 1
    return "\n".join([lines[first].removeprefix(title).strip(), *lines[first + 1 : last]]).strip()


def main() -> None:
    """Print the list."""
    for i, name in enumerate(ORDER, start=1):
        print(f"{i:2}  {name:<22}{docstring(name).splitlines()[0]}")
    print("\npython -m minillm.lessons.NAME runs a lesson in seconds; its source is minillm/lessons/NAME.py")


if __name__ == "__main__":
    main()
