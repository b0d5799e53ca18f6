"""Ports for servers that can't choose their own: below those that the system hands out, and none given twice.

A port that the system hands out and takes back may be handed out again before the server binds it: to another process
of the suite, which runs in several. Each of them begins somewhere else.
"""

import random
import socket
from collections.abc import Iterator

FIRST, LAST = 15_000, 32_000


def _candidates() -> Iterator[int]:
    port = random.SystemRandom().randrange(FIRST, LAST)
    while True:
        yield port
        port = port + 1 if port < LAST else FIRST


_PORTS = _candidates()


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    for port in _PORTS:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("there is always a next candidate")
