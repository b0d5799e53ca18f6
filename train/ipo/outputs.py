"""The output folder of a job: claimed by one config, files written whole or not at all."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from train.ipo.errors import IpoConfigError

CONFIG = "config.json"
REPORT = "report.json"


def digest(*parts: str) -> str:
    """SHA-256, hex, of texts one after the other."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256, hex, of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def claim(out: Path, key: str, config: dict[str, Any]) -> None:
    """Make the folder this job's own. Raises IpoConfigError when it holds another's or cannot be written."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        saved = out / CONFIG
        if saved.exists() and read_json(saved)["key"] != key:
            raise IpoConfigError(
                f"{out} holds a run with another config, model or pairs; give another --out, or remove the folder"
            )
        write_json(saved, {"key": key, "config": config})
    except OSError as error:
        raise IpoConfigError(f"cannot write to {out}: {error.strerror}; give another --out") from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file."""
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return value


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a file whole: beside its place first, then moved."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(part, path)
