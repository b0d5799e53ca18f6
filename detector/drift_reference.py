"""Where a reference for drift comes from: the artifact, another folder of the same weights, or a baseline of one's own.

Scores of two detectors can't be compared, so a reference that another detector made is refused.
"""

import json
from pathlib import Path
from typing import Any

from detector.artifact import Artifact, load_artifact
from detector.drift import Reference
from detector.errors import InputError

POPULATIONS = ("ordinary", "all")


def find_reference(name: str, artifact: Artifact) -> Reference | None:
    """`name`: ordinary or all (the artifact's own), an artifact folder, or a file that `steer detect --drift` wrote.

    None where the artifact holds none. Raises InputError or ArtifactError naming what is wrong with a folder or file.
    """
    if name in POPULATIONS:
        return artifact.references.get(name)
    path = Path(name)
    if not path.is_dir():
        return _load_baseline(path, artifact.digest)
    other = load_artifact(path)
    if _weights(other) != _weights(artifact):
        raise InputError(f"{path} holds another detector than {artifact.path}: their scores can't be compared")
    return other.references.get("ordinary")


def _weights(artifact: Artifact) -> tuple[Any, ...]:
    manifest = json.loads(artifact.file("manifest.json").read_bytes())
    return manifest["files"], artifact.calibration


def _load_baseline(path: Path, detector_hash: str) -> Reference:
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        made_by, reference = str(fields["detector"]), Reference.from_json(fields["baseline"])
    except OSError as error:
        raise InputError(f"{path} can't be read ({error.strerror or error})") from error
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is no baseline of `steer detect --drift` ({error!r})") from error
    if made_by != detector_hash:
        raise InputError(
            f"{path} was made by another detector ({made_by[:12]}…, now {detector_hash[:12]}…): scores of two "
            "detectors can't be compared; make it anew with `steer detect --drift`"
        )
    return reference
