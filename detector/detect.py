"""`steer detect`: score every segment of finished reasoning traces, without a model or a server.

In, one JSON object a line: {"id", "prompt" or "messages", "reasoning"}. Out, in the same order:
{"id", "segments": [{"start", "end", "score"}], "first_cue": {"segment", "start", "score"} | null}
Offsets are characters of `reasoning`; `first_cue` is the first segment whose score reaches the threshold: where the
proxy would have halted. Gzip is read where the name ends in `.gz`. The output appears under its name when complete.
"""

import gzip
import json
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple, TextIO, TypedDict

from detector.artifact import load_artifact
from detector.classifier import CueClassifier
from detector.context import Context, Message
from detector.errors import InputError
from steer.segmenter import DEFAULT_MAX_SEGMENT_CHARS, segment


class Trace(NamedTuple):
    """A conversation and the reasoning that answered it."""

    id: str
    messages: tuple[Message, ...]
    reasoning: str


OnTrace = Callable[[CueClassifier, Trace, list[float]], None]
"""Told of each trace with its segments' scores, in order."""


class Detected(TypedDict):
    """One line of the output."""

    id: str
    segments: list[dict[str, float]]
    first_cue: dict[str, float] | None


class DetectSummary(NamedTuple):
    """Counts over a file."""

    traces: int
    segments: int
    halted: int


def detect_file(
    in_path: Path,
    out_path: Path,
    artifact_path: Path | None = None,
    *,
    threshold: float | None = None,
    max_segment_chars: int = DEFAULT_MAX_SEGMENT_CHARS,
    progress: TextIO | None = sys.stderr,
    on_trace: OnTrace | None = None,
) -> DetectSummary:
    """Score `in_path` into `out_path` with the artifact at `artifact_path` (None: the shipped one).

    `threshold` None means the artifact's. Raises `ArtifactError`; `InputError` naming the line that is wrong, in which
    case no output is left behind; `OSError` for files that can't be read or written.
    """
    artifact = load_artifact(artifact_path)
    classifier = CueClassifier(artifact)
    limit = artifact.threshold if threshold is None else threshold
    temporary = out_path.with_name(out_path.name + ".part")
    traces = segments = halted = 0
    try:
        with whole_text(in_path) as source, temporary.open("w", encoding="utf-8") as sink:
            bar = _Progress(in_path, progress)
            for trace in read_traces(source, in_path):
                result = detect(trace, classifier, limit, max_segment_chars)
                sink.write(json.dumps(result, ensure_ascii=False) + "\n")
                traces += 1
                segments += len(result["segments"])
                halted += result["first_cue"] is not None
                if on_trace is not None:
                    on_trace(classifier, trace, [item["score"] for item in result["segments"]])
                bar.show(traces, halted)
            bar.close(traces, halted)
        temporary.replace(out_path)
    finally:
        temporary.unlink(missing_ok=True)
    return DetectSummary(traces, segments, halted)


def detect(
    trace: Trace, classifier: CueClassifier, threshold: float, max_segment_chars: int = DEFAULT_MAX_SEGMENT_CHARS
) -> Detected:
    """What is found in one trace."""
    scored: list[dict[str, float]] = []
    first_cue: dict[str, float] | None = None
    for piece in segment(trace.reasoning, max_segment_chars):
        context = Context(trace.messages, trace.reasoning[: piece.start], trace.reasoning[piece.start : piece.end])
        (score,) = classifier.score([context])
        scored.append({"start": piece.start, "end": piece.end, "score": round(score, 6)})
        if first_cue is None and score >= threshold:
            first_cue = {"segment": piece.index, "start": piece.start, "score": round(score, 6)}
    return {"id": trace.id, "segments": scored, "first_cue": first_cue}


def open_text(path: Path) -> IO[str]:
    """`path` for reading as UTF-8, unpacked where its name ends in `.gz`."""
    return gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8")


@contextmanager
def whole_text(path: Path) -> Iterator[IO[str]]:
    """As `open_text`; raises InputError, naming the file, where it is cut short or no text, OSError else."""
    with open_text(path) as lines:
        try:
            yield lines
        except (UnicodeDecodeError, EOFError, zlib.error) as error:
            raise InputError(f"{path} is no whole UTF-8 text ({error}): make it again") from error


def read_traces(source: Iterator[str] | IO[str], path: Path) -> Iterator[Trace]:
    """Traces of JSONL text; blank lines are skipped, anything else wrong raises `InputError` with its line number."""
    for number, line in enumerate(source, 1):
        if line.strip():
            yield _trace(line, f"{path}, line {number}")


def _trace(line: str, where: str) -> Trace:
    try:
        record = json.loads(line)
        json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{where}: holds half a surrogate pair, which is no text") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not JSON ({error})") from error
    if not isinstance(record, dict):
        raise InputError(f"{where}: must be an object with id, prompt or messages, and reasoning")
    if not isinstance(record.get("id"), str | int):
        raise InputError(f"{where}: field id must be a string")
    if not isinstance(record.get("reasoning"), str):
        raise InputError(f"{where}: field reasoning must be a string")
    return Trace(str(record["id"]), _messages(record, where), record["reasoning"])


def _messages(record: dict[str, object], where: str) -> tuple[Message, ...]:
    messages, prompt = record.get("messages"), record.get("prompt")
    if isinstance(messages, list):
        if not messages or not all(isinstance(m, dict) and isinstance(m.get("role"), str) for m in messages):
            raise InputError(f"{where}: field messages must be a list of objects with role and content")
        return tuple(messages)
    if isinstance(prompt, str):
        return ({"role": "user", "content": prompt},)
    raise InputError(f"{where}: field prompt (a string) or messages (a list) is missing")


class _Progress:
    """A line on a terminal, redrawn at most ten times a second; one line at the end where there is no terminal."""

    def __init__(self, path: Path, stream: TextIO | None) -> None:
        self._stream = stream
        self._path = path
        self._is_terminal = stream is not None and stream.isatty()
        self._started = time.monotonic()
        self._shown = 0.0

    def show(self, traces: int, halted: int) -> None:
        now = time.monotonic()
        if self._is_terminal and now - self._shown > 0.1:
            self._shown = now
            self._write("\r", traces, halted, "")

    def close(self, traces: int, halted: int) -> None:
        self._write("\r" if self._is_terminal else "", traces, halted, "\n")

    def _write(self, start: str, traces: int, halted: int, end: str) -> None:
        if self._stream is not None:
            rate = traces / max(time.monotonic() - self._started, 1e-6)
            self._stream.write(f"{start}{self._path.name}: {traces} traces, {halted} with a cue, {rate:.0f}/s{end}")
            self._stream.flush()
