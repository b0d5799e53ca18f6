"""Rollouts with corrective interventions, offline: the second driver of `steer.Engine`, in batched rounds."""
