"""`python -m steer.cli`."""

from steer.cli import main

main()
