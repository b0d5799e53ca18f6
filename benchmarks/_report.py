"""What every benchmark prints last: one JSON document machine, versions and seed beside the figures."""

import json
import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PACKAGES = ("steer", "onnxruntime", "tokenizers", "starlette", "uvicorn", "aiohttp", "torch", "transformers", "trl")


def machine() -> dict[str, Any]:
    """Processor, cores, Python."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    return {"cpu": model, "cores": len(os.sched_getaffinity(0)), "python": platform.python_version()}


def versions() -> dict[str, str]:
    """Installed versions of the packages that matter to speed or results."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """The checkout's commit, with a mark where it has been changed; "unknown" outside git."""
    try:
        head = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip()


def document_of(name: str, figures: dict[str, Any], *, seed: int | None) -> dict[str, Any]:
    """The figures with everything that says where they come from."""
    return {
        "benchmark": name,
        "command": " ".join(["python", "-m", f"benchmarks.bench_{name}", *sys.argv[1:]]),
        "commit": commit(),
        "machine": machine(),
        "versions": versions(),
        "seed": seed,
        "figures": figures,
    }


def write(document: dict[str, Any], out: Path | None) -> None:
    """To `out` where given; for a benchmark that may not live to its end, after each of its parts."""
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def finish(name: str, figures: dict[str, Any], *, seed: int | None, out: Path | None = None) -> None:
    """Print the JSON as the last line, and write it to `out` where given."""
    document = document_of(name, figures, seed=seed)
    write(document, out)
    print(json.dumps(document, ensure_ascii=False))
