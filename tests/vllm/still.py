"""Whether a real engine has stopped generating."""

import time

from tests.vllm.fixture import VllmServer


def tokens_when_still(server: VllmServer) -> int:
    """The engine's count of generated tokens once it no longer grows: an aborted request has ended by then."""
    seen = -1
    while (now := server.generation_tokens()) != seen:
        seen = now
        time.sleep(0.5)
    return seen
