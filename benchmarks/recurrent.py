"""The recurrent layers against torch's: python -m benchmarks.recurrent [--cells lstm gru rnn] [--repeats 15]

Forward and backward of a stack over random vectors, the two taken in turns; median tokens per second of each, lowest ... highest, and
the ratio of medians. Two layers of 256, 16 rows of 128 tokens, unless told otherwise; as many threads as torch takes by itself.
"""

import argparse
import statistics

import torch
from torch import nn

from benchmarks.kernels import alternate
from benchmarks.record import record
from minillm.models.rnn import CELLS

THEIRS = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}


def measure(cell: str, B: int, T: int, H: int, n_layers: int, repeats: int) -> list[list[float]]:
    """Milliseconds of forward and backward, ours and torch's."""
    ours, theirs = nn.ModuleList(CELLS[cell](H, H) for _ in range(n_layers)), THEIRS[cell](H, H, n_layers)
    x, pull = torch.randn(T, B, H).requires_grad_(), torch.randn(T, B, H)
    zeros = (torch.zeros(B, H),) * CELLS[cell].n_states

    def read_ours() -> None:
        ours.zero_grad()
        said = x
        for layer in ours:
            said = layer(said, zeros)[0]
        said.backward(pull)

    def read_theirs() -> None:
        theirs.zero_grad()
        theirs(x)[0].backward(pull)

    return alternate(read_ours, read_theirs, repeats)


def main() -> None:
    """Print a row for each cell."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cells", nargs="+", choices=list(CELLS), default=["lstm", "gru", "rnn"])
    for name, default in {"batch-size": 16, "length": 128, "d-hidden": 256, "n-layers": 2, "repeats": 15}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    a = parser.parse_args()
    print(f"{torch.get_num_threads()} threads; {a.n_layers} x {a.d_hidden}, {a.batch_size} rows of {a.length} tokens")
    for cell in a.cells:
        times = measure(cell, a.batch_size, a.length, a.d_hidden, a.n_layers, a.repeats)
        rates = [[a.batch_size * a.length * 1000 / ms for ms in each] for each in times]
        ours, theirs = (f"{statistics.median(x):8,.0f} tokens/s ({min(x):,.0f} ... {max(x):,.0f})" for x in rates)
        print(f"{cell:<5} ours {ours}  torch {theirs}")
        record(f"recurrent-{cell}", [{"tokens_per_second": a, "ratio": a / b} for a, b in zip(*rates, strict=True)])


if __name__ == "__main__":
    main()
