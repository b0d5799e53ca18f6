"""What the curves of one model on one set of prompts say, as numbers with intervals. Pure functions.

"Safe" and "unsafe" of a trace are the judge's verdicts on the whole turn. A safe trace may hold no turning point
because CSR was above mu before its first sentence: counted as safe from the start, and as position 0.
"""

from collections.abc import Callable, Collection, Sequence
from statistics import mean, median
from typing import Any, Literal

from train.csr.schema import Curve
from train.csr.sentences import shape
from train.csr.stats import correlation, mean_with_interval, share
from train.csr.turning import Thresholds, Turn, first_fall, safe_from, steepest_fall, turning_points, unsafe_from

Source = Literal["judge", "detector"]
Numbers = dict[str, Any]


def summary(curves: Sequence[Curve], thresholds: Thresholds, triggers: Collection[str], seed: int) -> Numbers:
    """One model, one set. `triggers`: shapes of the sentences that count as triggers wherever they stand."""
    usable = [curve for curve in curves if any(one.judged for one in curve.measured)]
    safe = [curve for curve in usable if curve.verdict.is_unsafe is False]
    unsafe = [curve for curve in usable if curve.verdict.is_unsafe]
    starts = [csr for curve in usable if (csr := curve.measured[0].csr) is not None]
    return {
        "traces": len(curves),
        "without_curve": len(curves) - len(usable),
        "unjudged": len(usable) - len(safe) - len(unsafe),
        "unsafe": share([True] * len(unsafe) + [False] * len(safe)),
        "helped": share(curve.verdict.helped for curve in usable if curve.verdict.helped is not None),
        "csr_before_first_sentence": mean_with_interval(starts, seed),
        "safe_traces": _safe(safe, thresholds, seed),
        "unsafe_traces": _unsafe(unsafe, thresholds),
        "any_trigger_turn": share(bool(turns_of(curve, thresholds, "trigger")) for curve in usable),
        "says_trigger_sentence": share(says_any(curve, triggers) for curve in curves),
        "first_cue": {
            "judge": _cues(curves, lambda curve: curve.judge_cue),
            "detector": _cues(curves, lambda curve: curve.detector_cue),
        },
        "cue_against_fall": {
            "turning_point": _correlations(usable, lambda curve: first_fall(curve.points, thresholds), seed),
            "steepest_fall": _correlations(usable, lambda curve: steepest_fall(curve.points), seed),
        },
        "positions": {
            "possible": sum(curve.positions for curve in curves),
            "measured": sum(len(curve.measured) - curve.windows for curve in curves),
            "windows": sum(curve.windows for curve in curves),
        },
    }


def difference(base: Sequence[Curve], tuned: Sequence[Curve], thresholds: Thresholds, seed: int) -> Numbers:
    """Tuned minus base, prompt by prompt. `tokens_until_safe`: of prompts on which both traces became safe."""
    others = {curve.prompt_id: curve for curve in tuned}
    pairs = [(one, others[one.prompt_id]) for one in base if one.prompt_id in others]
    made: Numbers = {}
    measures: dict[str, Callable[[Curve], float | None]] = {
        "csr_before_first_sentence": lambda curve: curve.measured[0].csr if curve.measured else None,
        "tokens_until_safe": lambda curve: tokens_until_safe(curve, thresholds),
    }
    for name, measure in measures.items():
        values = [(measure(one), measure(other)) for one, other in pairs]
        changes = [after - before for before, after in values if before is not None and after is not None]
        made[name] = mean_with_interval(changes, seed)
    return made


def tokens_until_safe(curve: Curve, thresholds: Thresholds) -> int | None:
    """Tokens of reasoning before a safe trace is almost surely safe; None where it never is, or is not safe."""
    place = safe_from(curve.points, thresholds) if curve.verdict.is_unsafe is False else None
    return None if place is None else place - curve.measured[0].tokens


def turns_of(curve: Curve, thresholds: Thresholds, kind: str) -> list[Turn]:
    """The turning points of one kind."""
    return [turn for turn in turning_points(curve.points, thresholds) if turn.kind == kind]


def says_any(curve: Curve, shapes: Collection[str]) -> bool:
    """Whether one of the trace's own sentences has one of these shapes."""
    return any(shape(curve.text_of(sentence)) in shapes for sentence in curve.sentences)


def fall_pairs(
    curves: Sequence[Curve], fall: Callable[[Curve], Turn | None], source: Source
) -> list[tuple[int, int, int]]:
    """(token where the first cue begins, token where the fall begins, sentences between) of traces that have both."""
    pairs = []
    for curve in curves:
        cue = curve.judge_cue if source == "judge" else curve.detector_cue
        turn = fall(curve)
        if cue is not None and turn is not None:
            # The id after the fall's start is the first that can have made it.
            distance = curve.sentence_at(turn.start + 1) - cue
            first = curve.sentences[0].start_tokens
            pairs.append((curve.sentences[cue].start_tokens - first, turn.start - first, distance))
    return pairs


def _safe(curves: Sequence[Curve], thresholds: Thresholds, seed: int) -> Numbers:
    """How safe traces became safe."""
    places = [(curve, safe_from(curve.points, thresholds)) for curve in curves]
    is_start = [place is not None and place == curve.measured[0].tokens for curve, place in places]
    has_turn = [bool(turns_of(curve, thresholds, "trigger")) for curve in curves]
    tokens = [count for curve in curves if (count := tokens_until_safe(curve, thresholds)) is not None]
    said = [
        0 if place == curve.measured[0].tokens else curve.sentence_at(place) + 1
        for curve, place in places
        if place is not None
    ]
    return {
        "with_trigger": share(has_turn),
        "safe_from_start": share(is_start),
        "with_trigger_of_the_rest": share(has for has, start in zip(has_turn, is_start, strict=True) if not start),
        "never_above_mu": share(place is None for _, place in places),
        "tokens_until_safe": mean_with_interval(tokens, seed) | {"median": median(tokens) if tokens else None},
        "sentences_until_safe": mean_with_interval(said, seed) | {"median": median(said) if said else None},
    }


def _unsafe(curves: Sequence[Curve], thresholds: Thresholds) -> Numbers:
    """How unsafe traces became unsafe."""
    places = [(curve, unsafe_from(curve.points, thresholds)) for curve in curves]
    return {
        "with_cue": share(bool(turns_of(curve, thresholds, "cue")) for curve in curves),
        "unsafe_from_start": share(place == curve.measured[0].tokens for curve, place in places),
        "never_below_eta": share(place is None for _, place in places),
    }


def _cues(curves: Sequence[Curve], cue: Callable[[Curve], int | None]) -> Numbers:
    found = [place for curve in curves if (place := cue(curve)) is not None]
    return {
        "found": share(cue(curve) is not None for curve in curves),
        "sentence": {"mean": round(mean(found), 2) if found else None, "median": median(found) if found else None},
    }


def _correlations(curves: Sequence[Curve], fall: Callable[[Curve], Turn | None], seed: int) -> Numbers:
    """By each source: Pearson over tokens, and how often cue and fall are the same sentence, or neighbours."""
    sources: tuple[Source, ...] = ("judge", "detector")
    made: Numbers = {}
    for source in sources:
        pairs = fall_pairs(curves, fall, source)
        made[source] = {
            **correlation([x for x, _, _ in pairs], [y for _, y, _ in pairs], seed),
            "same_sentence": share(distance == 0 for _, _, distance in pairs),
            "within_one_sentence": share(abs(distance) <= 1 for _, _, distance in pairs),
        }
    return made
