"""A worker of a cluster: an engine and a detector of its own, block after block. Knows nothing of Ray."""

import os
import pickle
import socket
import threading
import time
from collections.abc import Sequence
from typing import Any

from detector.errors import DetectorError
from train.rollout.config import RolloutConfig
from train.rollout.errors import RolloutError
from train.rollout.progress import Finished
from train.rollout.work import OpenTools, Row, Work, made_of, work_of


class Worker:
    """Called with columns, by several threads at once. What the job itself may raise comes back as a result."""

    def __init__(self, config: RolloutConfig, opened: OpenTools) -> None:
        self._config, self._opened = config, opened
        self._name = f"{socket.gethostname()}:{os.getpid()}"
        self._opening = threading.Lock()
        self._work: Work | None = None
        self._began = 0.0

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """`block`: pickled rows; `finished`: a pickled Finished, or the error."""
        return {"finished": [pickle.dumps(self._finished(pickle.loads(block))) for block in batch["block"]]}

    def _finished(self, rows: Sequence[Row]) -> Finished | Exception:
        try:
            made = made_of(self._open()(rows))
        except (RolloutError, DetectorError) as error:
            return error
        return Finished(made, self._name, time.monotonic() - self._began)

    def _open(self) -> Work:
        with self._opening:
            if self._work is None:
                self._work = work_of(self._config, self._opened(self._config))
                self._began = time.monotonic()
            return self._work
