"""The gate: whether a candidate may take over from the incumbent."""
