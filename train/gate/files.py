"""The gate on two report.json of `steer eval`, with limits from a TOML file: for people without a bake."""

from pathlib import Path

from train.evaluation.errors import EvaluationConfigError
from train.evaluation.report import EvaluationReport, read_report
from train.gate.decide import Decision, decide
from train.gate.figures import Limits
from train.gate.reading import UnreadableReport, figures_of
from train.rollout.config import read_config


class GateFileError(Exception):
    """A report or limits that the gate can't use. The message names the file and the fix."""


def read_limits(path: Path | None) -> Limits:
    """The limits of a TOML file; the gate's own where none is named. Raises GateFileError."""
    return Limits() if path is None else read_config(path, Limits, GateFileError)


def decide_files(incumbent: Path, candidate: Path, limits: Limits, sha256: str | None = None) -> Decision:
    """The decision on two reports, or their folders. `sha256`: weights that the candidate's report must be of.

    Raises GateFileError.
    """
    try:
        before, after = (_read(path) for path in (incumbent, candidate))
        if sha256 is not None:
            _check_weights(candidate, after, sha256)
        return decide(figures_of(before), figures_of(after), limits)
    except (EvaluationConfigError, UnreadableReport) as error:
        raise GateFileError(str(error)) from error


def _read(path: Path) -> EvaluationReport:
    return read_report(path / "report.json" if path.is_dir() else path)


def _check_weights(path: Path, report: EvaluationReport, sha256: str) -> None:
    """A served adapter may have left no hash; one that was evaluated under a hash must have had this one."""
    hashes = {adapter.sha256 for adapter in report.adapters}
    if not hashes & {sha256, None}:
        raise GateFileError(f"{path} is the report of other weights than those of this adapter: evaluate it")
