"""A block of prompts to traces with their CSR curves, in rounds: all continuations of a round are one batch.

    traces -> first pass of positions -> the middles of what changed, until nothing changes -> the turns' windows
           -> first cues by detector and judge

Requests of one position stand side by side and share their prefix, which the engines compute once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from train.csr.config import CsrConfig
from train.csr.cues import detector_cues, judge_cues
from train.csr.layout import Layout, layout_of
from train.csr.positions import first_pass, refinement
from train.csr.schema import Cost, Curve, Measured
from train.csr.sets import Asked
from train.csr.tools import Tools, cost_of
from train.csr.turning import Point, unconfirmed
from train.judges.base import JudgeItem
from train.rollout.driver import seed_of
from train.rollout.generator import Generated, Request


@dataclass(slots=True)
class _Open:
    """A trace whose curve is being measured."""

    asked: Asked
    prompt_ids: list[int]
    trace: Generated
    layout: Layout
    places: list[int]
    measured: dict[int, Measured] = field(default_factory=dict)
    cost: Cost = field(default_factory=Cost)

    @property
    def points(self) -> list[Point]:
        """What is known, in order."""
        return [Point(m.tokens, m.safe, m.judged) for _, m in sorted(self.measured.items())]


def measure(rows: Sequence[Asked], tools: Tools, config: CsrConfig) -> list[Curve]:
    """One curve per prompt, in order. Raises RolloutError, DetectorError, JudgeError."""
    traces = _traces(rows, tools, config)
    positions = config.positions
    wanted = [first_pass(trace.places, positions.stride) for trace in traces]
    while any(wanted):
        _measure_at(traces, wanted, tools, config)
        margin = positions.refine
        wanted = [[] if margin is None else _middles(trace, margin) for trace in traces]
    thresholds = config.turning.thresholds
    windows = [unconfirmed(trace.points, thresholds, trace.layout.last) for trace in traces]
    if any(windows):
        _measure_at(traces, windows, tools, config)
    return _curves(traces, tools)


def _traces(rows: Sequence[Asked], tools: Tools, config: CsrConfig) -> list[_Open]:
    """What the model writes by itself."""
    prompts = [tools.vocabulary.prompt_ids(asked.prompt.messages, asked.prompt.tools) for asked in rows]
    requests = [
        Request(ids, tools.room(len(ids), 0), seed_of(config.seed, asked.prompt.id))
        for asked, ids in zip(rows, prompts, strict=True)
    ]
    traces = []
    for asked, ids, made in zip(rows, prompts, tools.generate(requests, config.sampling), strict=True):
        layout = layout_of(ids, made, tools.vocabulary)
        traces.append(_Open(asked, ids, made, layout, layout.places(config.positions.unit), cost=cost_of([made])))
    return traces


def _middles(trace: _Open, margin: float) -> list[int]:
    return refinement(trace.places, {place: m.csr for place, m in trace.measured.items()}, margin)


def _measure_at(traces: Sequence[_Open], wanted: Sequence[Sequence[int]], tools: Tools, config: CsrConfig) -> None:
    """CSR at the wanted positions of each trace."""
    spots = [(trace, place) for trace, places in zip(traces, wanted, strict=True) for place in places]
    count = config.samples
    requests = [request for trace, place in spots for request in _requests(trace, place, tools, config)]
    made = tools.generate(requests, config.sampling)
    items, finished = [], []
    for number, (request, one) in enumerate(zip(requests, made, strict=True)):
        trace, place = spots[number // count]
        said = tools.said(request.prefix, one)
        layout, is_turn = trace.layout, config.judged == "turn"
        kept = layout.before(place) if is_turn else layout.sentence_before(place)
        items.append(JudgeItem(trace.asked.prompt.messages, kept + said.reasoning, said.answer))
        finished.append(said.is_finished)
    unsafe = [verdict.is_unsafe for verdict in tools.verdicts(items)]
    for number, (trace, place) in enumerate(spots):
        own = slice(number * count, (number + 1) * count)
        found = unsafe[own]
        trace.measured[place] = Measured(
            tokens=place,
            safe=found.count(False),
            judged=len(found) - found.count(None),
            unfinished=finished[own].count(False),
        )
        trace.cost += cost_of(made[own])


def _requests(trace: _Open, place: int, tools: Tools, config: CsrConfig) -> list[Request]:
    prefix = trace.prompt_ids + trace.trace.token_ids[:place]
    room = tools.room(len(prefix), place)
    id = trace.asked.prompt.id
    return [Request(prefix, room, seed_of(config.seed, id, place, number)) for number in range(config.samples)]


def _curves(traces: Sequence[_Open], tools: Tools) -> list[Curve]:
    layouts, messages = [t.layout for t in traces], [t.asked.prompt.messages for t in traces]
    by_detector, by_judge = detector_cues(layouts, messages, tools), judge_cues(layouts, messages, tools)
    items = [JudgeItem(m, layout.reasoning, layout.answer) for m, layout in zip(messages, layouts, strict=True)]
    verdicts = tools.verdicts(items)
    return [
        Curve(
            id=f"{tools.key}/{trace.asked.prompt.id}",
            model=tools.key,
            set_name=trace.asked.set_name,
            label=trace.asked.prompt.label,
            category=trace.asked.prompt.category,
            family=trace.asked.prompt.family,
            prompt_id=trace.asked.prompt.id,
            messages=trace.asked.prompt.messages,
            prompt_token_ids=trace.prompt_ids,
            token_ids=trace.trace.token_ids,
            finish_reason=trace.trace.finish_reason if trace.trace.token_ids else None,
            reasoning=trace.layout.reasoning,
            answer=trace.layout.answer,
            sentences=trace.layout.sentences,
            positions=len(trace.places),
            windows=len(trace.measured.keys() - set(trace.places)),
            measured=[m for _, m in sorted(trace.measured.items())],
            detector_cue=detector_cue,
            judge_cue=judge_cue,
            verdict=verdict,
            cost=trace.cost,
        )
        for trace, detector_cue, judge_cue, verdict in zip(traces, by_detector, by_judge, verdicts, strict=True)
    ]
