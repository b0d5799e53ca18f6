"""Training: cue classifier, model organism, rollouts, pairs, IPO, evaluation. Never imported by what serves."""
