"""`steer demo`: a toy model, the proxy and a playground on one port of this machine. Not part of `steer serve`."""
