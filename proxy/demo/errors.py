"""What can go wrong with the demo before it is up: one line for the person who started it."""


class DemoError(Exception):
    """The demo cannot start or show something; the message names the fix."""
