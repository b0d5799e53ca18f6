"""Looks for what the detector missed: an independent judge reads sampled traffic, and halts nobody has reviewed."""
