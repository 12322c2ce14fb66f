"""Save a run with quantized weights (python -m minillm.quantize RUN --weights int4 --out DIR).

The new folder is a run that sample.py can use (sample.py --run DIR) but that cannot be trained further. Its checkpoint
is as small as its weights. An adapter is merged into its base first. --calibrate runs the model on some training text
and scales the weights before they are rounded.
"""

import sys
from pathlib import Path

from minillm.config.flags import Parser
from minillm.quantization.pack import WEIGHTS
from minillm.runs.quantized import save
from minillm.system.os_errors import exit_status


def main(argv: list[str] | None = None) -> int:
    """Parse the command line, quantize and save; return the exit status."""
    parser = Parser(prog="python -m minillm.quantize", description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a trained run")
    parser.add_argument("--weights", choices=WEIGHTS, required=True, help="the format of the weights")
    parser.add_argument("--group", type=int, help="number of inputs that share a scale, in int4 and nf4; default: 64")
    parser.add_argument(
        "--calibrate", type=int, default=0, metavar="N", help="batches of training text to calibrate on; 0: none"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the new run")
    args = parser.parse(argv)
    return exit_status("quantize", lambda: print(save(args.run, args.weights, args.out, args.group, args.calibrate)))


if __name__ == "__main__":
    sys.exit(main())
