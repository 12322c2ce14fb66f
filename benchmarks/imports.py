"""The cost of importing minillm beyond torch: python -m benchmarks.imports

Seconds of `python -c "import minillm.runs.wiring"` and of `python -c "import torch"`, in turns, with cached bytecode;
the difference is recorded.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.record import ROOT, record
from benchmarks.timing import in_turns, with_bytecode
from minillm.config.flags import Parser


def main() -> None:
    """Measure both in turns."""
    parser = Parser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=15, help="processes of each kind")
    args = parser.parse()

    with tempfile.TemporaryDirectory() as folder:

        def start(module: str) -> None:
            subprocess.run(
                [sys.executable, "-c", f"import {module}"], check=True, cwd=ROOT, env=with_bytecode(Path(folder))
            )

        times = in_turns(
            {module: lambda module=module: start(module) for module in ("minillm.runs.wiring", "torch")}, args.repeats
        )
    rows = zip(*times.values(), strict=True)
    record("imports", [{"seconds": a, "torch_seconds": b, "more_seconds": a - b} for a, b in rows])


if __name__ == "__main__":
    main()
