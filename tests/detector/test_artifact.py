"""An artifact is used whole or not at all. Real folders: copies of the shipped one, harmed in one way each."""

import json
import shutil
from pathlib import Path

import pytest

from detector.artifact import DEFAULT_ARTIFACT, FILES, load_artifact
from detector.errors import ArtifactError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    copy = tmp_path / "artifact"
    shutil.copytree(DEFAULT_ARTIFACT, copy)
    return copy


def test_the_shipped_artifact_loads_and_says_where_it_halts() -> None:
    artifact = load_artifact()
    assert 0 < artifact.threshold < 1
    assert artifact.labels == ("N", "C", "S")
    assert [point.name for point in artifact.operating_points] == ["strict", "balanced", "lenient"]
    assert sum(artifact.reference_histogram) == pytest.approx(1, abs=1e-3)


def test_the_shipped_artifact_stays_small() -> None:
    assert sum(DEFAULT_ARTIFACT.joinpath(name).stat().st_size for name in FILES) < 18_000_000


@pytest.mark.parametrize("name", FILES)
def test_a_changed_byte_is_refused_by_name(folder: Path, name: str) -> None:
    raw = bytearray((folder / name).read_bytes())
    raw[len(raw) // 2] ^= 1
    (folder / name).write_bytes(raw)
    with pytest.raises(ArtifactError, match=rf"{name} is altered or truncated.*train detector"):
        load_artifact(folder)


def test_a_truncated_model_is_refused(folder: Path) -> None:
    raw = (folder / "model.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(raw[: len(raw) // 2])
    with pytest.raises(ArtifactError, match=r"model\.onnx is altered or truncated"):
        load_artifact(folder)


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
def test_a_missing_file_is_refused_by_name(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ArtifactError, match=rf"{name} can't be read.*train detector"):
        load_artifact(folder)


@pytest.mark.parametrize("field", ["format", "input_format"])
def test_an_unknown_format_is_refused_with_both_versions(folder: Path, field: str) -> None:
    _edit(folder, {field: 99})
    with pytest.raises(ArtifactError, match=rf"{field} is 99, this version reads 1"):
        load_artifact(folder)


def test_a_manifest_that_is_not_json_is_refused(folder: Path) -> None:
    (folder / "manifest.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"manifest\.json is not JSON"):
        load_artifact(folder)


def test_a_manifest_without_threshold_is_refused(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["threshold"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="threshold"):
        load_artifact(folder)


def test_a_manifest_without_a_hash_is_refused(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["files"]["model.onnx"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match=r"no hash for model\.onnx"):
        load_artifact(folder)


def test_the_digest_follows_the_manifest(folder: Path) -> None:
    before = load_artifact(folder).digest
    _edit(folder, {"threshold": 0.123})
    assert load_artifact(folder).digest != before


def _edit(folder: Path, fields: dict[str, object]) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
