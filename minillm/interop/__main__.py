"""Import a model of another project as a run (python -m minillm.interop FOLDER_OR_FILE --out runs/NAME).

The folder is one of Hugging Face transformers, with config.json, safetensors and tokenizer.json; the file is a GGUF
file. What minillm would not compute exactly is refused by name.
"""

import sys
from pathlib import Path

from minillm.config.flags import Parser
from minillm.quantization.pack import WEIGHTS
from minillm.runs.imported import STORED, UNPACKED, save
from minillm.system.os_errors import exit_status


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and import; return the exit status."""
    parser = Parser(prog="python -m minillm.interop", description=__doc__)
    parser.add_argument("source", type=Path, help="folder with config.json, or a .gguf file")
    parser.add_argument("--out", type=Path, required=True, help="folder of the new run")
    how = f"{STORED}: four bits stay packed, beside bf16; {UNPACKED}: unpacked; others: rounded to this format"
    parser.add_argument("--weights", choices=[STORED, UNPACKED, *WEIGHTS], default=STORED, help=how)
    parser.add_argument("--group", type=int, default=64, help="inputs that share a scale, in int4 and nf4; default: 64")
    args = parser.parse(argv)
    return exit_status("interop", lambda: print(*save(args.source, args.out, args.weights, args.group), sep="\n"))


if __name__ == "__main__":
    sys.exit(main())
