"""Recurrent layers compared with torch's: python -m benchmarks.recurrent [--cells lstm gru rnn] [--repeats 15]

Forward and backward of an accelerated stack over random vectors, the two in turns: tokens per second of each, and their
ratio. By default two layers of 256 and 16 rows of 128 tokens, with torch's default number of threads.
"""

import torch
from torch import nn

from benchmarks.record import record
from benchmarks.timing import in_turns, rates
from minillm.config.flags import Parser
from minillm.models.rnn import CELLS
from minillm.speed.accelerate import accelerate

THEIRS = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}


def measure(cell: str, B: int, T: int, H: int, n_layers: int, repeats: int) -> dict[str, list[float]]:
    """Seconds of forward and backward, ours and torch's."""
    ours, theirs = nn.ModuleList(CELLS[cell](H, H) for _ in range(n_layers)), THEIRS[cell](H, H, n_layers)
    layers = accelerate(ours, training=True)
    x, pull = torch.randn(T, B, H).requires_grad_(), torch.randn(T, B, H)
    zeros = (torch.zeros(B, H),) * CELLS[cell].n_states

    def read_ours() -> None:
        ours.zero_grad()
        said = x
        for layer in layers:
            said = layer(said, zeros)[0]
        said.backward(pull)

    def read_theirs() -> None:
        theirs.zero_grad()
        theirs(x)[0].backward(pull)

    return in_turns({"ours": read_ours, "torch": read_theirs}, repeats)


def main() -> None:
    """Measure each cell and record it."""
    parser = Parser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cells", nargs="+", choices=list(CELLS), default=["lstm", "gru", "rnn"])
    for name, default in {"batch-size": 16, "length": 128, "d-hidden": 256, "n-layers": 2, "repeats": 15}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    a = parser.parse()
    print(f"{torch.get_num_threads()} threads; {a.n_layers} x {a.d_hidden}, {a.batch_size} rows of {a.length} tokens")
    for cell in a.cells:
        times = measure(cell, a.batch_size, a.length, a.d_hidden, a.n_layers, a.repeats)
        ours, theirs = (rates(a.batch_size * a.length, seconds) for seconds in times.values())
        rows = [
            {"tokens_per_second": x, "torch_tokens_per_second": y, "ratio": x / y}
            for x, y in zip(ours, theirs, strict=True)
        ]
        record(f"recurrent-{cell}", rows)


if __name__ == "__main__":
    main()
