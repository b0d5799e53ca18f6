"""Errors of `steer`.

SteerError
├── DriverError      the driver fed the engine something impossible: our bug, never the client's or the upstream's
└── TriggerPoolError a trigger pool that cannot be used
"""


class SteerError(Exception):
    """Anything that `steer` raises on purpose."""


class DriverError(SteerError):
    """An event that can't have happened in the engine's state; the engine is closed afterwards."""


class TriggerPoolError(SteerError):
    """No usable trigger: empty pool, duplicate or unknown id."""
