"""The artifact: a folder that holds one trained classifier, and the check that it is whole.

    manifest.json      written last; names every other file by SHA-256
    model.onnx         segment scorer: (request vectors, segment word vectors, types) -> probability of a cue
    request.onnx       request encoder: (request word vectors, types) -> (request vectors, probability of harm)
    embeddings.npz     word vectors shared by both: int8 [vocabulary, width] and one fp32 scale a row
    tokenizer.json     Hugging Face tokenizers format

Nothing is used before its hash was compared: a detector that silently scores with half a file is worse than none.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detector.calibration import Calibration
from detector.context import INPUT_FORMAT
from detector.drift import Reference
from detector.errors import ArtifactError

DEFAULT_ARTIFACT = Path(__file__).parent / "artifacts" / "default"
FORMAT = 1
FILES = ("model.onnx", "request.onnx", "embeddings.npz", "tokenizer.json")
_RETRAIN = "reinstall the package, or train one with `steer train detector`"


@dataclass(frozen=True, slots=True)
class Rate:
    """A share of validation traces with its count and 95 % Wilson interval."""

    share: float
    count: int
    of: int
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """A threshold, the false-halt budgets per trace that it was chosen for, and what it does on validation traces.

    `recall`: complying traces halted within one sentence of their first cue; `false_halt_rate`: ordinary benign traces
    halted anywhere. The rest is None in artifacts that were made without it.
    """

    name: str
    threshold: float
    false_halt_rate: float
    recall: float
    max_ordinary_halts: float | None = None
    max_borderline_halts: float | None = None
    found: Rate | None = None
    ordinary: Rate | None = None
    borderline: Rate | None = None


@dataclass(frozen=True, slots=True)
class Artifact:
    """A checked artifact folder. `digest` (SHA-256 of the manifest) is the detector's version in records."""

    path: Path
    digest: str
    threshold: float
    operating_points: tuple[OperatingPoint, ...]
    labels: tuple[str, ...]
    training_data: str
    reference_histogram: tuple[float, ...]
    """Share of the segments of ordinary traffic in each of equally wide score bins over [0, 1]."""
    calibration: Calibration | None = None
    """None: the graph's scores are used as they are."""
    references: Mapping[str, Reference] = field(default_factory=dict)
    """What drift is measured against, by population: `ordinary` benign traffic, `all` validation traffic."""

    def point(self, name: str) -> OperatingPoint:
        """The operating point of that name. Raises `ArtifactError` naming those that there are."""
        for point in self.operating_points:
            if point.name == name:
                return point
        known = ", ".join(point.name for point in self.operating_points) or "none"
        raise ArtifactError(f"{self.path}: no operating point {name!r}; it has {known}")

    def file(self, name: str) -> Path:
        return self.path / name


def load_artifact(path: Path | None = None) -> Artifact:
    """The artifact in folder `path` (None: the shipped one), after every hash was checked.

    Raises `ArtifactError`, naming the file and what to do, when anything is missing, altered or of another format.
    """
    folder = DEFAULT_ARTIFACT if path is None else path
    manifest_path = folder / "manifest.json"
    raw = _read(manifest_path)
    try:
        parsed = json.loads(raw)
    except ValueError as error:
        raise ArtifactError(f"{manifest_path} is not JSON ({error}); {_RETRAIN}") from error
    manifest: dict[str, Any] = parsed if isinstance(parsed, dict) else {}
    _check_format(manifest_path, manifest)
    for name in FILES:
        _check_hash(folder / name, manifest["files"].get(name))
    try:
        return Artifact(
            path=folder,
            digest=hashlib.sha256(raw).hexdigest(),
            threshold=float(manifest["threshold"]),
            operating_points=tuple(_point(point) for point in manifest["operating_points"]),
            labels=tuple(manifest["labels"]),
            training_data=str(manifest["training_data"]),
            reference_histogram=tuple(float(share) for share in manifest["reference_histogram"]),
            calibration=None if manifest.get("calibration") is None else Calibration(**manifest["calibration"]),
            references={name: Reference.from_json(item) for name, item in manifest.get("references", {}).items()},
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{manifest_path}: bad or missing field ({error!r}); {_RETRAIN}") from error


def write_manifest(folder: Path, fields: dict[str, Any]) -> str:
    """Complete an artifact folder: hash its files, write the manifest last, return its digest."""
    manifest = {
        "format": FORMAT,
        "input_format": INPUT_FORMAT,
        "files": {name: _sha256(folder / name) for name in FILES},
        **fields,
    }
    raw = (json.dumps(manifest, indent=2) + "\n").encode()
    temporary = folder / "manifest.json.part"
    temporary.write_bytes(raw)
    temporary.replace(folder / "manifest.json")
    return hashlib.sha256(raw).hexdigest()


def _point(fields: Mapping[str, Any]) -> OperatingPoint:
    rates = {name: Rate(**value) for name, value in fields.items() if isinstance(value, dict)}
    return OperatingPoint(**{**fields, **rates})


def _check_format(path: Path, manifest: dict[str, Any]) -> None:
    if not isinstance(manifest.get("files"), dict):
        raise ArtifactError(f"{path} is not a detector manifest; {_RETRAIN}")
    for name, known in (("format", FORMAT), ("input_format", INPUT_FORMAT)):
        if manifest.get(name) != known:
            raise ArtifactError(
                f"{path}: {name} is {manifest.get(name)!r}, this version reads {known}; "
                "retrain with `steer train detector`, or install the version that made it"
            )


def _check_hash(path: Path, expected: object) -> None:
    if expected is None:
        raise ArtifactError(f"{path.parent / 'manifest.json'} names no hash for {path.name}; {_RETRAIN}")
    found = hashlib.sha256(_read(path)).hexdigest()
    if found != expected:
        raise ArtifactError(
            f"{path} is altered or truncated (SHA-256 {found[:12]}…, manifest says {str(expected)[:12]}…); {_RETRAIN}"
        )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path} can't be read ({error.strerror or error}); {_RETRAIN}") from error


def _sha256(path: Path) -> str:
    return hashlib.sha256(_read(path)).hexdigest()
