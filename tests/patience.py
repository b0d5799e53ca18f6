"""How long a test waits for what must happen: one figure, far beyond what a quiet machine needs.

A wait ends when the thing happens, so that a long limit costs nothing; a busy machine must not look like a fault.
pytest's own limit (`timeout` in pyproject.toml) is longer, so that a test's own words come first.
"""

PATIENCE_S = 120.0
