"""Export a run for other libraries (python -m minillm.interop.export RUN --to DIR).

DIR becomes a folder that transformers' AutoModelForCausalLM and AutoTokenizer open. A path that ends in .gguf becomes a
file that llama.cpp runs. An adapter is merged, packed weights are unpacked. What cannot be expressed is refused with
its keys.
"""

import sys
from pathlib import Path

from minillm.config.flags import Parser
from minillm.runs.exported import save
from minillm.system.os_errors import exit_status


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and export; return the exit status."""
    parser = Parser(prog="python -m minillm.interop.export", description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a run")
    parser.add_argument("--to", type=Path, required=True, help="a new folder, or a new .gguf file")
    parser.add_argument("--q8_0", action="store_true", help="in a .gguf file: matrices in 8 bits instead of 32")
    args = parser.parse(argv)
    return exit_status("export", lambda: print(save(args.run, args.to, args.q8_0)))


if __name__ == "__main__":
    sys.exit(main())
