"""List the fast twins, each with its measured gain and whether it is in force (python -m minillm.speed).

`python -m minillm.speed sign` runs the tests that compare each twin with its plain class or function, and signs all
twins if they pass. Run it in a clone of the project, after an intended change to the plain source.
"""

import importlib
import json
import subprocess
import sys
import textwrap

from minillm.config.flags import Parser
from minillm.speed.signing import FILE, Twin, judge, name_of, signature
from minillm.speed.twins import TWINS as OF_MODELS
from minillm.system.atomic import write_atomically
from minillm.training.fast_step import TWINS as OF_TRAINING

ROOT = FILE.parents[2]
TESTS = ROOT / "tests" / "speed"
TWINS = OF_MODELS | OF_TRAINING


def main(argv: list[str] | None = None) -> int:
    """List the twins or sign them; returns the exit status."""
    parser = Parser(prog="python -m minillm.speed", description=__doc__)
    parser.add_argument("what", nargs="?", choices=["list", "sign"], default="list", help="default: list")
    args = parser.parse(argv)
    if args.what == "sign":
        return sign()
    print("\n\n".join(described()))
    return 0


def described() -> list[str]:
    """One paragraph per file of twins: plain classes, gain, and for each twin that is not in force the reason."""
    files: dict[str, list[tuple[object, Twin]]] = {}
    for plain, twin in TWINS.items():
        name = file_of(plain, twin)
        files.setdefault(name, []).append((plain, twin))
    return [describe(name, members) for name, members in files.items()]


def file_of(plain: object, twin: Twin) -> str:
    """The module of a twin; `low_overhead` for a class that runs its own forward."""
    module = twin.fast.__module__
    return module if module.startswith("minillm.speed.") else "minillm.speed.low_overhead"


def describe(name: str, members: list[tuple[object, Twin]]) -> str:
    """The paragraph on the twins of one file."""
    lines = (importlib.import_module(name).__doc__ or "").splitlines()
    _, _, gain = "\n".join(lines).partition("\nGain: ")
    why_not = [verdict.why_not for plain, twin in members if (verdict := judge(plain, twin)).why_not]
    standing_in = ", ".join(plain.__qualname__ for plain, _ in members)
    text = [f"{name.rpartition('.')[2]}: {lines[0]}", f"for {standing_in}", f"gain: {' '.join(gain.split())}"]
    text += [f"not in force: {why}" for why in why_not] or ["in force"]
    return "\n".join(
        [text[0], *(textwrap.fill(line, 110, initial_indent="  ", subsequent_indent="    ") for line in text[1:])]
    )


def sign() -> int:
    """Run the equality tests, and write the signatures if they pass; returns the exit status."""
    if not TESTS.is_dir():
        print(f"speed: {TESTS}: expected the tests of the twins; sign in a clone of the project", file=sys.stderr)
        return 2
    before, passed = FILE.read_bytes(), False
    try:
        write()  # subtle: written before the tests, since twins that are not in force would not be tested
        passed = subprocess.run([sys.executable, "-m", "pytest", "-q", str(TESTS)], cwd=ROOT).returncode == 0
    finally:
        if not passed:
            write_atomically(FILE, before)
    print(f"signed {len(TWINS)} twins in {FILE}" if passed else "the tests failed: the signatures are unchanged")
    return 0 if passed else 1


def write() -> None:
    """Write the signatures of the current source."""
    signatures = {name_of(plain): signature(twin) for plain, twin in TWINS.items()}
    write_atomically(FILE, (json.dumps(signatures, indent=1) + "\n").encode())


if __name__ == "__main__":
    sys.exit(main())
