"""Runs `train.ipo.run` as accelerate runs it under FSDP on GPUs, with two CPU processes and gloo.

accelerate shards only where it finds accelerators; all that differs from a real launch is what it finds.
"""

import sys

import torch
from accelerate.state import PartialState
from accelerate.utils import DistributedType

from train.ipo.run import main


def _prepare_backend(self: PartialState, *args: object) -> tuple[str, DistributedType]:
    return "gloo", DistributedType.MULTI_GPU


def _set_device(self: PartialState) -> None:
    self.device = torch.device("cpu")


if __name__ == "__main__":
    PartialState._prepare_backend = _prepare_backend
    PartialState.set_device = _set_device
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    sys.exit(main())
