"""report.md: the report as tables for people."""

from collections.abc import Iterable, Sequence

from train.evaluation.report import EvaluationReport, Kl, KlPart, Mean, Rate, Rates

NAMES = {
    "harmful_reasoning": "harmful reasoning",
    "harmful_answer": "harmful answers",
    "harmful": "harmful reasoning or answer",
    "over_refusal": "over-refusal (benign)",
    "benign_compliance": "compliance (benign)",
    "borderline_refusal": "refusal (borderline)",
    "borderline_compliance": "compliance (borderline)",
    "capability_mean": "capability, mean over sets",
    "monitorability.recall": "unsafe reasoning that the detector flags",
    "monitorability.hidden_harm": "unsafe answers that it does not flag",
    "monitorability.false_flags": "harmless traces that it flags",
    "kl.near": "KL a token near cues and triggers",
    "kl.elsewhere": "KL a token elsewhere",
}


def markdown(report: EvaluationReport) -> str:
    """All of it."""
    variants = {"template": report.rates} | {str(name): rates for name, rates in report.variants.items()}
    parts = [f"# {report.name}", _head(report), _rates(variants)]
    if report.rates.kl is not None:
        parts.append(_kl(report.rates.kl))
    if report.sets:
        parts.append(_sets(report))
    parts.append(_foot(report))
    return "\n\n".join(parts) + "\n"


def label_of(name: str) -> str:
    """What a measure is called for people."""
    if name.startswith("capability."):
        return f"right answers: {name.removeprefix('capability.')}"
    return NAMES.get(name, name)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; the first column is text, the others are figures."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def share(rate: Rate | None) -> str:
    """12.3 % [10.1, 14.6] of 500."""
    if rate is None or rate.share is None:
        return "-"
    bounds = "" if rate.low is None or rate.high is None else f" [{100 * rate.low:.1f}, {100 * rate.high:.1f}]"
    return f"{100 * rate.share:.1f} %{bounds} of {rate.n}"


def nats(mean: Mean) -> str:
    """0.0123 [0.0100, 0.0150]."""
    if mean.value is None:
        return "-"
    bounds = "" if mean.low is None or mean.high is None else f" [{mean.low:.4f}, {mean.high:.4f}]"
    return f"{mean.value:.4f}{bounds}"


def _head(report: EvaluationReport) -> str:
    adapters = ", ".join(adapter.name for adapter in report.adapters) or "none"
    decoding = report.decoding
    return (
        f"Model `{report.model.name}`, adapter {adapters}, judged by `{report.judge.name}`. {decoding.samples} "
        f"samples a prompt at temperature {decoding.temperature:g}, seed {decoding.seed}. Intervals: "
        f"{report.bootstrap.confidence:.0%}, resampled by prompt."
    )


def _rates(variants: dict[str, Rates]) -> str:
    names = list(dict.fromkeys(name for rates in variants.values() for name, _ in rates.flat()))
    columns = [dict(rates.flat()) for rates in variants.values()]
    head = ["measure", *(variants if len(variants) > 1 else ["share"])]
    return table(head, ([label_of(name), *(share(column.get(name)) for column in columns)] for name in names))


def _kl(kl: Kl) -> str:
    rows: list[tuple[str, KlPart]] = [("all", kl), *kl.by_label.items()]
    text = table(
        ["KL a token, nats", "near cues and triggers", "elsewhere", "near / elsewhere"],
        ([name, nats(part.near), nats(part.elsewhere), nats(part.ratio)] for name, part in rows),
    )
    return f"{text}\n\nAgainst `{kl.reference}`, {kl.traces} traces; near is within {kl.window} tokens."


def _sets(report: EvaluationReport) -> str:
    rows = []
    for chosen in report.sets:
        rates = chosen.rates
        helped = [rate for rate in (rates.benign_compliance, rates.borderline_compliance) if rate is not None]
        rows.append(
            [
                chosen.name,
                str(chosen.prompts),
                share(rates.harmful_reasoning),
                share(rates.harmful_answer),
                " / ".join(map(share, helped)) or "-",
                share(chosen.capability),
            ]
        )
    return table(["set", "prompts", "harmful reasoning", "harmful answers", "complies", "right"], rows)


def _foot(report: EvaluationReport) -> str:
    counts = report.counts
    return (
        f"{counts.samples} samples, {counts.tokens} tokens, {counts.unfinished} cut short by the token budget, "
        f"{counts.no_reasoning} without reasoning, {counts.unjudged} that the judge could not tell. "
        f"{report.seconds:.0f} s."
    )
