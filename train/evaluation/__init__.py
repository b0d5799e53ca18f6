"""Evaluations: what a model thinks and says on harmful, harmless and checkable prompts, with intervals."""
