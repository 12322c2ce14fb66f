"""Listening: uvicorn with what it leaves open: a bound on the time of headers, and a stop that finishes what runs.

uvicorn waits without end for the header of a request, so a client that sends one byte a minute holds a connection (the
attack Slowloris, 2009). Here a timer closes a connection whose next header has not come in time, and one whose body
goes on after its answer. On SIGTERM or SIGINT the server takes no new requests, finishes the ones that run, and ends;
a second signal ends it at once. Read before: `app`.
"""

import asyncio
import ipaddress
import socket
import sys
from importlib.util import find_spec
from typing import Any

from minillm.serving.guard import Gate
from minillm.serving.limits import Limits

MOST_HEADER = 64 * 1024  # bytes
MOST_CONNECTIONS = 512  # beside those of texts that run or wait; with as many open, requests are answered with 503


def refuse_missing_packages() -> None:
    """Raise ValueError if the packages of the extra `serve` are not installed."""
    for name in ("starlette", "uvicorn"):
        if find_spec(name) is None:
            raise ValueError(f'the server needs {name}; install it with: pip install "minillm[serve]"')


def is_loopback(host: str) -> bool:
    """Whether only programs on this machine reach a server at this host.

    >>> is_loopback("127.0.0.1"), is_loopback("0.0.0.0")
    (True, False)
    """
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens at a host and a port; 0: a free one. Raises ValueError."""
    if not 0 <= port < 2**16:
        raise ValueError(f"--port {port}: expected a port in 0 ... 65535")
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, UnicodeError):
        raise ValueError(f"--host {host}: expected an address of this machine") from None
    held = socket.socket(family, kind)
    try:
        if sys.platform != "win32":
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(address)
        held.listen(128)
    except OSError as e:
        held.close()
        raise ValueError(
            f"--host {host} --port {port}: expected a free port of this machine; {e.strerror}; name another one"
        ) from None
    return held


def build_server(app: Any, limits: Limits, gate: Gate) -> Any:
    """A uvicorn server for an application; `server.run(sockets=[...])` serves until a signal."""
    import h11
    import uvicorn
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class BoundedProtocol(H11Protocol):
        """A connection that may not be silent while it owes a header."""

        timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def connection_lost(self, error: Exception | None) -> None:
            self._disarm()
            super().connection_lost(error)

        def _watch(self) -> None:
            """Start the timer if a header is owed, or the rest of a body that was answered; else stop it."""
            if self.conn.their_state is h11.IDLE or self.conn.our_state is h11.DONE:
                if self.timer is None:
                    self.timer = self.loop.call_later(limits.read_seconds, self.transport.abort)
            else:
                self._disarm()

        def _disarm(self) -> None:
            if self.timer is not None:
                self.timer.cancel()
                self.timer = None

    class Server(uvicorn.Server):
        """A server that closes the gate when a signal comes."""

        def handle_exit(self, sig: int, frame: Any) -> None:
            # subtle: uvicorn would raise the signal again at the end; here a stop by signal is a success
            self.force_exit = self.should_exit
            self.should_exit = gate.closed = True

    return Server(
        uvicorn.Config(
            app,
            http=BoundedProtocol,
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=MOST_CONNECTIONS + limits.most_open,
            timeout_keep_alive=limits.read_seconds,
            timeout_graceful_shutdown=limits.stop_seconds,
            h11_max_incomplete_event_size=MOST_HEADER,
        )
    )
