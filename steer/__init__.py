"""Decisions of steer: what to release, where to halt, what to splice. No I/O, clock, thread or model."""
