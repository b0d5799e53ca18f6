"""The proxy that `bench_crash` kills: `python -m benchmarks._crash_server SETTINGS_JSON`.

Starting Python takes longer than all the rest of a life. So this process imports everything once and opens nothing; for
each line on stdin it forks a child that does what a fresh process does from there: opens the log, replays, sweeps, and
serves with uvicorn on the shared socket until it is killed. Its process id goes to stdout.
"""

import gc
import json
import logging
import os
import signal
import socket
import sys

import uvicorn

from proxy.app import create_app
from proxy.server import bind
from proxy.settings import Settings
from tests.e2e.harness import TableScorer


def serve(settings: Settings, listener: socket.socket) -> None:
    """One life."""
    logging.disable(logging.WARNING)  # that the last life left something open is what this is about
    app = create_app(settings, TableScorer())
    options = {"log_config": None, "lifespan": "on", "access_log": False}
    uvicorn.Server(uvicorn.Config(app, **options)).run(sockets=[listener])  # type: ignore[arg-type]  # as in proxy.server


def main() -> None:
    settings = Settings.model_validate(json.loads(sys.argv[1]))
    listener = bind("127.0.0.1", 0)
    listener.listen(128)
    print(listener.getsockname()[1], flush=True)
    gc.freeze()
    child = 0
    for _ in sys.stdin:
        if child:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        child = os.fork()
        if child == 0:
            sys.stdin.close()
            serve(settings, listener)
            os._exit(0)
        print(child, flush=True)
    if child:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
