"""The process that talks to Ray: blocks in through Ray Data, results out through a pipe. Only it imports Ray.

Rules kept here: without `cluster.address` the Ray that is started listens on loopback alone, has no dashboard and
leaves no file behind; a block whose worker died is begun again `cluster.retries` times; the end of the process that
writes is the end of this one.
"""

import logging
import os
import pickle
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

import ray
import ray.data
from ray.exceptions import RayError

from train.rollout.cluster import GO_ON, Blocks
from train.rollout.cluster_worker import Worker
from train.rollout.config import ClusterConfig, RolloutConfig
from train.rollout.errors import EngineError, RolloutConfigError, RolloutError
from train.rollout.progress import Finished
from train.rollout.work import OpenTools

# Blocks in work and their rollouts: text alone. Ray's own default is a third of the memory.
_STORE_BYTES = 256 * 2**20


def run(sink: Connection, config: RolloutConfig, cluster: ClusterConfig, blocks: Blocks, opened: OpenTools) -> None:
    """Sends each Finished as it comes and None at the end, or the error that ended the work."""
    threading.Thread(target=_end_with_the_writer, args=(sink,), daemon=True).start()
    try:
        with _connected(cluster):
            for finished in _finished(config, cluster, blocks, opened):
                sink.send(finished)
                if isinstance(finished, Exception):
                    return
        sink.send(None)
    except RolloutError as error:
        sink.send(error)
    except RayError as error:
        sink.send(EngineError(f"the Ray cluster gave up: {_first_line(error)}; {GO_ON}"))


def _end_with_the_writer(sink: Connection) -> None:
    """The other end sends nothing; it is closed when the job ends, however it does."""
    try:
        sink.recv()
    except (EOFError, OSError):
        os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def _connected(cluster: ClusterConfig) -> Iterator[None]:
    logging.getLogger("ray").setLevel(logging.ERROR)
    if cluster.address is not None:
        try:
            ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise RolloutConfigError(
                f"cluster.address: no Ray cluster at {cluster.address} ({_first_line(error)})"
            ) from error
        _tell_what_is_missing(cluster)
        try:
            yield
        finally:
            ray.shutdown()
        return
    files = tempfile.mkdtemp(prefix="steer-ray-")  # short: Ray keeps its sockets there
    try:
        ray.init(
            address="local",
            num_cpus=max(1, round(cluster.workers * cluster.cpus + 0.5)),
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=_STORE_BYTES,
            _temp_dir=files,
        )
        there, wanted = ray.cluster_resources().get("GPU", 0.0), cluster.workers * cluster.gpus
        if there < wanted:
            raise RolloutConfigError(
                f"cluster.gpus: {cluster.workers} workers want {wanted:g} GPUs, here are {there:g}"
            )
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(files, ignore_errors=True)


def _tell_what_is_missing(cluster: ClusterConfig) -> None:
    """A cluster that grows by itself may have too little now, so this is no error."""
    there = ray.cluster_resources()
    for name, each in (("CPU", cluster.cpus), ("GPU", cluster.gpus)):
        if there.get(name, 0.0) < cluster.workers * each:
            print(  # noqa: T201 - beside the progress bar, which would else stand still without a word
                f"steer: {cluster.workers} workers want {cluster.workers * each:g} {name}s, the cluster has "
                f"{there.get(name, 0.0):g}: waiting for more",
                file=sys.stderr,
            )


def _finished(
    config: RolloutConfig, cluster: ClusterConfig, blocks: Blocks, opened: OpenTools
) -> Iterator[Finished | Exception]:
    """Results in the order in which they are finished."""
    lanes = config.engine.lanes
    rows = [{"block": pickle.dumps(list(block))} for block in blocks]
    results = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        Worker,
        fn_constructor_args=(config, opened),
        batch_size=1,
        batch_format="numpy",
        num_cpus=cluster.cpus,
        num_gpus=cluster.gpus,
        compute=ray.data.ActorPoolStrategy(
            size=cluster.workers,
            max_tasks_in_flight_per_actor=lanes,
            max_concurrent_calls_per_actor=lanes,
            enable_true_multi_threading=lanes > 1,
        ),
        ray_remote_args_fn=lambda: {"max_task_retries": cluster.retries},
    )
    for batch in results.iter_batches(batch_size=None, prefetch_batches=0, batch_format="numpy"):
        yield from map(pickle.loads, batch["finished"])


def _first_line(error: BaseException) -> str:
    """What happened, of an error whose text is mostly a stack."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
