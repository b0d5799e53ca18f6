"""Whether a real engine has stopped generating."""

import time

from tests.vllm.fixture import VllmServer

LONG = 12_000  # tokens: far more than are made before anything is stopped, on however busy a machine
_STILL = 4  # looks in a row: a busy machine may give the engine no turn between two of them


def tokens_when_still(server: VllmServer) -> int:
    """The engine's count of generated tokens once it no longer grows: an aborted request has ended by then."""
    seen, same = -1, 0
    while same < _STILL:
        now = server.generation_tokens()
        seen, same = now, same + 1 if now == seen else 0
        time.sleep(0.5)
    return seen
