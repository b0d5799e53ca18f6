"""Ends a training run in the middle of an update, as a kill does, without the cost of a process."""

from typing import Any

import pytest

from train.ipo.loop import Guarded


class Interrupted(Exception):
    """The run ended here."""


def interrupt_at(patch: pytest.MonkeyPatch, step: int, error: type[Exception] = Interrupted) -> None:
    """The given step (1-based, counted from now on) raises; what a checkpoint holds by then is all that is left."""
    count, whole = 0, Guarded.training_step

    def training_step(self: Guarded, *args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        if count == step:
            raise error
        return whole(self, *args, **kwargs)

    patch.setattr(Guarded, "training_step", training_step)
