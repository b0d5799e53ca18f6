"""Shadow mode: a version answers copies of a share of the traffic; it is scored, counted recorded, never shown."""
