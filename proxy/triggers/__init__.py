"""Adaptive triggers: which ones may be used, and how often each is, learned from the log. See docs/triggers.md."""
