"""`steer eval --diff A/report.json B/report.json`: a comparison as a table and as files."""

from pathlib import Path

from train.evaluation.compare import Comparison, Difference, Side, compare, load_evaluated
from train.evaluation.errors import EvaluationConfigError
from train.evaluation.markdown import label_of, table
from train.evaluation.plots import plot_rates
from train.evaluation.report import Rate
from train.rollout.store import write_json


def diff_files(a: Path, b: Path, out: Path | None = None) -> Comparison:
    """The comparison; with `out` also OUT/diff.json, diff.md and diff.png."""
    made = compare(load_evaluated(a), load_evaluated(b))
    if out is not None:
        try:
            out.mkdir(parents=True, exist_ok=True)
            (out / "diff.md").write_text(diff_markdown(made), encoding="utf-8")
        except OSError as error:
            raise EvaluationConfigError(f"cannot write to {out}: {error.strerror}; give another --out") from error
        shares = {name: own for name, own in made.measures.items() if not name.startswith("kl.")}
        sides = {"A": {n: _rate(d.a) for n, d in shares.items()}, "B": {n: _rate(d.b) for n, d in shares.items()}}
        plot_rates(sides, f"A {made.a.name}, B {made.b.name}", out / "diff.png")
        write_json(out / "diff.json", made.model_dump(mode="json"))
    return made


def diff_markdown(made: Comparison) -> str:
    """Side by side."""
    parts = [
        "# B against A",
        "\n".join(f"- {label}: {_who(side)}" for label, side in (("A", made.a), ("B", made.b))),
        _table(made.measures),
        *(f"## {variant}\n\n{_table(own)}" for variant, own in made.variants.items()),
        *(["\n".join(f"- {note}" for note in made.notes)] if made.notes else []),
    ]
    return "\n\n".join(parts) + "\n"


def _table(measures: dict[str, Difference]) -> str:
    rows = [
        [label_of(name), _figure(name, own.a), _figure(name, own.b), _change(name, own), str(own.prompts), own.verdict]
        for name, own in measures.items()
    ]
    return table(["measure", "A", "B", "B - A", "prompts", "B is"], rows)


def _change(name: str, own: Difference) -> str:
    if own.difference is None:
        return "-"
    bounds = "" if own.low is None or own.high is None else f" [{_plain(name, own.low)}, {_plain(name, own.high)}]"
    return f"{_plain(name, own.difference)}{bounds}{'' if own.is_paired else ' (unpaired)'}"


def _figure(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if name.startswith("kl.") else f"{100 * value:.1f} %"


def _plain(name: str, value: float) -> str:
    return f"{value:+.4f}" if name.startswith("kl.") else f"{100 * value:+.1f}"


def _who(side: Side) -> str:
    adapters = ", ".join(adapter.name for adapter in side.adapters) or "no adapter"
    return f"{side.name}: `{side.model.name}`, {adapters}, judged by `{side.judge}` ({side.path})"


def _rate(share: float | None) -> Rate:
    return Rate(share=share, low=None, high=None, n=0, prompts=0)
