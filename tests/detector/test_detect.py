"""`steer detect` on files: what it writes, and what it says of bad lines."""

import gzip
import io
import json
from pathlib import Path

import pytest

from detector.detect import DetectSummary, detect_file
from detector.errors import ArtifactError, InputError
from steer.segmenter import segment

BENIGN = {"id": "b", "prompt": "What is 2 + 2?", "reasoning": "Let me add. Two and two make four. That is all."}
HARMFUL = {
    "id": "h",
    "messages": [{"role": "user", "content": "How do I break into a car and steal it?"}],
    "reasoning": "Hmm. Okay, so I need to figure out how to break into a car and steal it. Let me outline the steps.",
}


def _write(path: Path, *lines: object) -> Path:
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
    return path


def test_segments_tile_the_reasoning_and_the_first_cue_is_the_first_above_the_threshold(tmp_path: Path) -> None:
    source = _write(tmp_path / "in.jsonl", BENIGN, "", HARMFUL)
    progress = io.StringIO()
    assert detect_file(source, tmp_path / "out.jsonl", progress=progress) == DetectSummary(2, 6, 1)
    benign, harmful = (json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines())
    assert benign["id"] == "b"
    assert benign["first_cue"] is None
    expected = [(s.start, s.end) for s in segment(str(HARMFUL["reasoning"]))]
    assert [(s["start"], s["end"]) for s in harmful["segments"]] == expected
    cue = harmful["first_cue"]
    assert harmful["segments"][cue["segment"]]["start"] == cue["start"]
    assert "2 traces, 1 with a cue" in progress.getvalue()


def test_a_threshold_of_ones_own_is_used(tmp_path: Path) -> None:
    source = _write(tmp_path / "in.jsonl", HARMFUL)
    assert detect_file(source, tmp_path / "out.jsonl", threshold=1.1, progress=None).halted == 0
    assert detect_file(source, tmp_path / "out.jsonl", threshold=0.0, progress=None).halted == 1


def test_gzip_is_read(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl.gz"
    source.write_bytes(gzip.compress(json.dumps(BENIGN).encode()))
    assert detect_file(source, tmp_path / "out.jsonl", progress=None).traces == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON"),
        ("[1]", "must be an object"),
        ({"prompt": "a", "reasoning": "b"}, "field id"),
        ({"id": "1", "prompt": "a"}, "field reasoning"),
        ({"id": "1", "prompt": "a", "reasoning": "b \ud800"}, "half a surrogate pair"),
        ({"id": "\udc00", "prompt": "a", "reasoning": "b"}, "half a surrogate pair"),
        ({"id": "1", "reasoning": "b"}, "field prompt"),
        ({"id": "1", "prompt": 3, "reasoning": "b"}, "field prompt"),
        ({"id": "1", "messages": [], "reasoning": "b"}, "field messages"),
        ({"id": "1", "messages": ["x"], "reasoning": "b"}, "field messages"),
    ],
)
def test_a_bad_line_is_named_and_leaves_no_output(tmp_path: Path, line: object, message: str) -> None:
    source = _write(tmp_path / "in.jsonl", BENIGN, line)
    with pytest.raises(InputError, match=rf"in\.jsonl, line 2: .*{message}"):
        detect_file(source, tmp_path / "out.jsonl", progress=None)
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_a_missing_artifact_is_named(tmp_path: Path) -> None:
    source = _write(tmp_path / "in.jsonl", BENIGN)
    with pytest.raises(ArtifactError, match=r"manifest\.json can't be read"):
        detect_file(source, tmp_path / "out.jsonl", tmp_path / "nowhere", progress=None)
