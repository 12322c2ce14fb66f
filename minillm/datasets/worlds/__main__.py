"""Print the dataset card of a world of exercises (python -m minillm.datasets.worlds NAME).

The card says what kinds of exercises there are and how long they are, how the parts of the data differ, and shows one
exercise of each kind.
"""

import sys

from minillm.config.flags import Parser
from minillm.datasets.worlds.catalog import EXERCISES
from minillm.system.os_errors import exit_status


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and print the card; return the exit status."""
    parser = Parser(prog="python -m minillm.datasets.worlds", description=__doc__)
    parser.add_argument("world", choices=EXERCISES, help="name of the world")
    parser.add_argument("--exercises", type=int, default=1000, help="exercises of each part to count; default: 1000")
    parser.add_argument("--seed", type=int, default=0, help="of the exercises; default: 0")
    args = parser.parse(argv)
    return exit_status("worlds", lambda: print(EXERCISES[args.world]().card(args.exercises, args.seed)))


if __name__ == "__main__":
    sys.exit(main())
