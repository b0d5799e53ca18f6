"""Blocks of prompts on the workers of a Ray cluster: this process writes, a process of its own talks to Ray.

Rules kept here: Ray decides where a block is worked, never what comes of it; every block goes to disk as it comes; Ray
may end the process that talks to it (it does when the head node is gone), so that process holds nothing, and its end is
an error that says how to go on.
"""

import os
import secrets
import signal
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from train.rollout.config import ClusterConfig, RolloutConfig
from train.rollout.errors import EngineError, RolloutConfigError
from train.rollout.progress import Finished, Keep
from train.rollout.work import OpenTools, Row

GO_ON = "what is finished is kept: start the job again to go on"
# Ray takes about a second to end what it started on this machine.
_END_S = 30.0

Blocks = Sequence[Sequence[Row]]


def drive(sink: Connection, config: RolloutConfig, cluster: ClusterConfig, blocks: Blocks, opened: OpenTools) -> None:
    """The other process: sends each Finished, then None; or the error that ended the work."""
    _settle(cluster)
    from train.rollout.cluster_driver import run  # noqa: PLC0415 - Ray is seconds to import, and belongs there alone

    run(sink, config, cluster, blocks, opened)


def _settle(cluster: ClusterConfig) -> None:
    """What Ray reads when it is imported, and its workers inherit: nothing is reported to its makers, no chatter."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_DATA_DISABLE_PROGRESS_BARS"] = "1"
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    if cluster.address is None:
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # Ray's own way to bind every port to loopback
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)  # else Ray writes one into the home directory
        os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)


def work_on_cluster(
    config: RolloutConfig, cluster: ClusterConfig, blocks: Blocks, keep: Keep, opened: OpenTools
) -> None:
    """Everything, in whatever order it is finished. Raises RolloutError, DetectorError."""
    if find_spec("ray") is None:
        raise RolloutConfigError("cluster: Ray is not installed here: install the extra `ray`, or leave [cluster] out")
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=drive, args=(theirs, config, cluster, blocks, opened), name="steer-ray")
    process.start()
    theirs.close()
    try:
        while (finished := _next(ours, process)) is not None:
            if isinstance(finished, Exception):
                raise finished
            keep(finished)
        process.join(_END_S)
    finally:
        ours.close()
        _end(process)


def _next(ours: Connection, process: BaseProcess) -> Finished | Exception | None:
    wait([ours, process.sentinel])
    try:
        if ours.poll():
            return ours.recv()
    except (EOFError, ConnectionResetError):
        pass
    process.join(_END_S)
    raise EngineError(f"the Ray cluster is lost ({_end_of(process)}; is its head node up?); {GO_ON}")


def _end_of(process: BaseProcess) -> str:
    code = process.exitcode or 0
    return f"the process that talked to it ended with {signal.Signals(-code).name if code < 0 else f'code {code}'}"


def _end(process: BaseProcess) -> None:
    """Ends what is left after a failure, Ray's own processes with it."""
    if process.is_alive():
        process.terminate()
        process.join(_END_S)
    if process.is_alive():
        process.kill()
        process.join()
