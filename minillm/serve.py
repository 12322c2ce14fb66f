"""Serve a run to clients of OpenAI's API (python -m minillm.serve RUN).

Chat and completions, streamed or whole, from as many clients at once as there is room for, and a page in the browser at
the same address. Only this machine can reach it, unless --host says otherwise, and then it needs a key.
"""

import argparse
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from minillm.config.flags import Parser, add_flags, override
from minillm.quantization.kernels import lighten
from minillm.quantization.pack import WEIGHTS
from minillm.runs import folder, wiring
from minillm.runs.folder import OpenRun
from minillm.serving.app import LOCAL, Served, ServedAdapter, build_app
from minillm.serving.engine_worker import EngineWorker
from minillm.serving.guard import Gate
from minillm.serving.limits import Limits
from minillm.serving.listening import bind, build_server, is_loopback, refuse_missing_packages
from minillm.serving.single_worker import SingleWorker
from minillm.serving.worker import Worker
from minillm.system.os_errors import exit_status
from minillm.system.out_of_memory import memory_errors_as_value_errors
from minillm.text.cloze import Cloze
from minillm.text.model import TextModel

EXAMPLES = """\
python -m minillm.serve                                  # the newest run, at http://127.0.0.1:8000
python -m minillm.serve runs/gpt-tiny --port 9000 --max-running 4
python -m minillm.serve runs/gpt-tiny --adapter runs/lora-tiny      # requests choose by "model"
python -m minillm.serve --host 0.0.0.0 --api-key "$KEY" --allow-host my-laptop.local"""
OFTEN = ["run", "host", "port", "api_key", "cors", "max_running", "max_waiting", "device"]
PAGE = 16  # tokens
FULL = 8  # full contexts for which the pages are enough, ...
MOST_TOKENS = 16_384  # ... unless that is more than this
LOWER = "serve less at once: lower --pages or --max-running"


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and serve until a signal; return the exit status."""
    args = build_parser().parse(argv)

    def work() -> None:
        with memory_errors_as_value_errors(LOWER, limited=wiring.find_device(args.device) == "cpu"):
            go(args)

    return exit_status("serve", work)


def build_parser() -> Parser:
    """The command line."""
    parser = Parser(prog="python -m minillm.serve", description=__doc__, examples=EXAMPLES, often=OFTEN)
    parser.add_argument("run", type=Path, nargs="?", help="folder of a run; default: the newest in runs/")
    parser.add_argument(
        "--adapter",
        type=Path,
        action="append",
        default=[],
        metavar="RUN",
        help="folder of an adapter of the run, served as a model of its own name; can be given several times",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at; default: 127.0.0.1, this machine")
    parser.add_argument("--port", type=int, default=8000, help="port to listen at; 0: a free one; default: 8000")
    parser.add_argument("--api-key", metavar="KEY", default="", help="clients must send Authorization: Bearer KEY")
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="another name or address by which clients reach the server; can be given several times",
    )
    parser.add_argument(
        "--cors",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="let pages of this origin (https://...) call the server; can be given several times",
    )
    parser.add_argument("--weights", choices=WEIGHTS, help="format of the weights; default: as they were saved")
    parser.add_argument("--device", default="auto", help="auto (CUDA if available, else the CPU), cpu, cuda or mps")
    parser.add_argument("--plain", action="store_true", help="run the plain modules, without their fast twins")
    add_flags(parser, Limits, dashes=True, heading="limits")
    return parser


def go(args: argparse.Namespace) -> None:
    """Open the run and serve it until a signal."""
    refuse_missing_packages()
    check_access(args)
    names = vars(args).keys() & vars(Limits()).keys()
    limits = override(Limits(), {name: vars(args)[name] for name in names}, dashes=True)
    held = bind(args.host, args.port)  # first: a port in use is found before the run is opened
    try:
        opened = folder.open_run(args.run or folder.newest_run(), wiring.find_device(args.device))
        adapters = [folder.open_beside(opened, path) for path in args.adapter]
        served = serve_run(opened, limits, args.weights, fast=not args.plain, adapters=adapters)
        gate, hosts = Gate(), [*LOCAL, named(args.host), *args.allow_host]
        app = build_app(served, key=args.api_key, hosts=hosts, origins=args.cors, limits=limits, gate=gate)
        server = build_server(app, limits, gate)
        print(announce(opened, held), flush=True)
        server.run(sockets=[held])
    finally:
        held.close()


def check_access(args: argparse.Namespace) -> None:
    """Raise ValueError for an open door: another host without a key, a key that cannot be sent, any origin."""
    key = args.api_key
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise ValueError("--api-key: expected printable ASCII characters without spaces, as a header can hold")
    if not is_loopback(args.host) and not key:
        raise ValueError(
            f"--host {args.host}: expected --api-key beside it, since others can reach this address; give a key"
        )
    for origin in args.cors:
        if not origin.startswith(("http://", "https://")) or origin.count("/") != 2:
            raise ValueError(f"--cors {origin}: expected an origin such as https://example.org, without a path")
    for name in args.allow_host:
        if "*" in name or (":" in name.strip("[]") and not name.startswith("[")):
            raise ValueError(f"--allow-host {name}: expected a name or an address, without a port and without *")


def serve_run(
    opened: OpenRun,
    limits: Limits,
    weights: str | None = None,
    fast: bool = True,
    adapters: Sequence[OpenRun] = (),
) -> Served:
    """The offer of a run: its text model and worker, or its sentence vectors; and `adapters` beside the model.

    Raises ValueError if it has neither, and for adapters that cannot be served with it.
    """
    text = opened.text
    writer = text if isinstance(text, TextModel) else None
    embedder = text if isinstance(text, Cloze) else None
    if writer is None and embedder is None:
        kind = opened.config.task.kind
        raise ValueError(
            f"{opened.path}: expected a run that writes, or offers sentence vectors; found task.kind = {kind}; "
            "use sample.py for it"
        )
    refuse_adapters(opened, adapters, weights)
    worker = None
    if writer is not None:
        for text in (writer, *(adapter.text for adapter in adapters)):
            text.fast = fast
        if remark := lighten(writer.model, weights):
            print(remark)
        worker = build_worker(writer, limits, {name_of(adapter): adapter.text for adapter in adapters})
    beside = {
        name_of(adapter): ServedAdapter(created(adapter), adapter.config.sampling, adapter.text) for adapter in adapters
    }
    return Served(name_of(opened), created(opened), opened.config.sampling, writer, worker, embedder, beside)


def refuse_adapters(opened: OpenRun, adapters: Sequence[OpenRun], weights: str | None) -> None:
    """Raise ValueError for adapters that cannot be served with a run."""
    names = [name_of(run) for run in (opened, *adapters)]
    for i, name in enumerate(names):
        if name in names[:i]:
            raise ValueError(f"--adapter {name}: expected another name, since requests choose by it; rename its folder")
    if adapters and weights is not None:
        raise ValueError(f"--weights {weights}: expected none beside --adapter, since it corrects the weights as saved")
    if adapters and not (isinstance(opened.text, TextModel) and opened.text.model.start_options == {"cache"}):
        raise ValueError(f"--adapter: expected a decoder in {opened.path}, since only those are served by the engine")


def name_of(opened: OpenRun) -> str:
    """The name by which requests ask for a run: that of its folder."""
    return opened.path.resolve().name


def created(opened: OpenRun) -> int:
    """When a run was last saved, in seconds since 1970."""
    return int((opened.path / "checkpoint").stat().st_mtime)


def build_worker(text: TextModel, limits: Limits, adapters: Mapping[str, TextModel] = MappingProxyType({})) -> Worker:
    """The engine for a decoder, and one text after the other for any other model."""
    if text.model.start_options != {"cache"}:
        return SingleWorker(text)
    context = text.model.context_length
    n_pages = limits.pages or -(-max(context, min(FULL * context, MOST_TOKENS)) // PAGE)
    return EngineWorker(text, adapters, max_running=limits.max_running, n_pages=n_pages, page_size=PAGE)


def named(host: str) -> str:
    """An address as the Host header has it: IPv6 in brackets."""
    return f"[{host}]" if ":" in host else host


def announce(opened: OpenRun, held: socket.socket) -> str:
    """The line that says where the server is."""
    host, port = held.getsockname()[:2]
    return (
        f"run {opened.path} (step {opened.step}) at http://{named(host)}:{port}; process {os.getpid()}, Ctrl-C ends it"
    )


if __name__ == "__main__":
    sys.exit(main())
