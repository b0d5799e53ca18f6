"""Distils the cue classifier that `detector` serves: `train.detector.run.run(config, out)`."""
