"""`python -m proxy.embedded --port 8100`: the embedded server alone, for development and tests."""

import argparse
from pathlib import Path

from proxy.embedded.app import DEFAULT_NAME, serve
from proxy.embedded.model import DEFAULT_FOLDER


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m proxy.embedded", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8100)
    parser.add_argument(
        "--model", type=Path, default=DEFAULT_FOLDER, help="folder made by `steer train organism` (its model/)"
    )
    parser.add_argument("--name", default=DEFAULT_NAME)
    parser.add_argument("--slots", type=int, default=8)
    args = parser.parse_args()
    serve(args.host, args.port, args.model, name=args.name, slots=args.slots)


if __name__ == "__main__":
    main()
