"""`python -m steer.cli`."""

from steer.cli import main

if __name__ == "__main__":
    main()
