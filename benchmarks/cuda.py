"""Every measurement that needs an NVIDIA card: bash benchmarks/cuda.sh [--out FILE]

    tests         pytest -m cuda
    gpt-tiny      train.py --config gpt-tiny, from command to prompt
    training      tokens/s of training steps of gpt-tiny and gpt-target on random tokens, in float32 and in bfloat16
    decoding      tokens/s of one greedy text, token by token and by the captured CUDA graph, of the same shapes
    speculation   gpt-target and gpt-draft, trained on the card: tokens/s by the token, by the graph and with the draft

Each part runs in its own process with a limit of seconds, so that a failure or a hang affects that part only; its
result is then the error. FILE is JSON, rewritten after each part: name of the card -> figures. `--device cpu --small`
runs the same parts with tiny models on a CPU, to test this script.
"""

import argparse
import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from benchmarks.cuda_parts import Figures, Job, decoding, speculation, tests, train, training
from benchmarks.record import ROOT
from benchmarks.timing import timed
from minillm.config.flags import Parser
from minillm.runs import wiring

PARTS: dict[str, tuple[Callable[[Job], Figures], float]] = {  # name -> (function, limit in seconds)
    "tests": (tests, 120),
    "gpt-tiny": (partial(train, name="gpt-tiny"), 100),
    "training": (training, 50),
    "decoding": (decoding, 50),
    "speculation": (speculation, 160),
}


def apart(name: str, job: Job, limit: float) -> Figures:
    """The figures of a part, computed in its own process; "error" if it fails or takes more than `limit` seconds."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.cuda",
        "--part",
        name,
        "--device",
        job.device,
        "--folder",
        str(job.folder),
    ]
    command += ["--small"] if job.small else []
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True, stdout=subprocess.DEVNULL)
    try:
        process.wait(limit)
    except subprocess.TimeoutExpired:
        return {"error": f"took more than {limit:.0f} s"}
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # and its children
        process.wait()
    result = job.folder / f"{name}.json"
    return (
        json.loads(result.read_text(encoding="utf-8"))
        if result.exists()
        else {"error": f"ended with status {process.returncode}"}
    )


def failed(figures: Figures) -> bool:
    """Whether a part has no figures, or one of its tests failed."""
    return "error" in figures or bool(figures.get("failed"))


def card(device: str) -> str:
    """The name of the measured device."""
    return (
        torch.cuda.get_device_name(device)
        if torch.device(device).type == "cuda"
        else f"{device} ({platform.machine()})"
    )


def measure(job: Job, names: list[str], out: Path, seconds: float) -> bool:
    """Run the parts and record their figures; return whether all succeeded. Other cards' figures stay in the file."""
    began, version = (
        time.monotonic(),
        {"torch": torch.__version__, "cuda": torch.version.cuda, "python": platform.python_version()},
    )
    kept = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    mine: dict[str, object] = version | {"small": job.small}
    well = True
    for name in names:
        left = seconds - (time.monotonic() - began)
        print(f"{name} ...", flush=True)
        found, taken = timed(lambda name=name, left=left: apart(name, job, min(PARTS[name][1], left)))
        mine[name], well = found | {"seconds": round(taken, 1)}, well and not failed(found)
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(kept | {card(job.device): mine}, indent=2) + "\n", encoding="utf-8")
        print(json.dumps(mine[name], indent=2), flush=True)
    return well


def main(argv: list[str] | None = None) -> int:
    """Measure all parts, or compute the figures of one; return 1 after a failure."""
    parser = Parser(description=__doc__)
    parser.add_argument("--device", default="cuda", help="cuda, or another device to test the script")
    parser.add_argument(
        "--small", action="store_true", help="tiny models and few repeats: meaningless figures in a minute"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "cuda.json", help="file of the figures")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="NAME", help=", ".join(PARTS))
    parser.add_argument("--seconds", type=float, default=460, help="greatest time of all parts together")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse(argv)
    try:
        device = wiring.find_device(args.device)
    except ValueError as e:
        parser.error(str(e))
    if args.part:
        job = Job(device, args.small, args.folder)
        try:
            figures = PARTS[args.part][0](job)
        except Exception as e:  # any error is this part's result; the others still run
            traceback.print_exc()
            figures = {"error": f"{type(e).__name__}: {e}"}
        (args.folder / f"{args.part}.json").write_text(json.dumps(figures), encoding="utf-8")
        return int(failed(figures))
    with tempfile.TemporaryDirectory() as folder:
        return int(not measure(Job(device, args.small, Path(folder)), args.only, args.out.resolve(), args.seconds))


if __name__ == "__main__":
    sys.exit(main())
