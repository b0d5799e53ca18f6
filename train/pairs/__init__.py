"""From rollouts and intervention records to a frozen snapshot of preference pairs."""
