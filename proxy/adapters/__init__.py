"""Adapters in service: which versions there are, who gets which, and what the engine holds."""
