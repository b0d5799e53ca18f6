"""What the page and the terminal show of an intervention: its record, and the preference pair that it becomes.

Read from the log like any other reader would, so what is shown is what was kept. The live halt cuts the rejected side
short; the offline job completes it from the recorded model, which the view says by `is_rejected_complete`.
"""

from typing import Any

from proxy.log import Filters, LogReader
from steer.record import InterventionRecord
from steer.segmenter import segment

# More than the policy's largest budget of interventions per request.
_MAX_INTERVENTIONS = 64


async def evidence_of(log: LogReader, request_id: str) -> dict[str, Any]:
    """`{"interventions": [{"record": …, "pair": …}, …]}` of one request, oldest first. Raises LogError."""
    page = await log.list(Filters(request_id=request_id), limit=_MAX_INTERVENTIONS)
    found = [await log.get(item.id) for item in page.items]
    found.sort(key=lambda record: (record.choice, record.attempt))
    return {"interventions": [{"record": record_view(record), "pair": pair_view(record)} for record in found]}


def record_view(record: InterventionRecord) -> dict[str, Any]:
    """The record without its long parts: ids, decision, timings in milliseconds."""
    completion = record.completion
    timings = record.timings if completion is None else completion.timings
    resumed = timings.resumed_ms
    return {
        "id": record.id,
        "request_id": record.request_id,
        "attempt": record.attempt,
        "mode": record.mode,
        "model": record.model,
        "channel": record.channel,
        "score": record.score,
        "trigger_id": record.trigger_id,
        "outcome": record.outcome,
        "refusal_cause": record.refusal_cause,
        "policy_hash": record.policy_hash,
        "detector_hash": record.detector_hash,
        "created_at": record.created_at.isoformat(),
        "cue_chars": cue_chars(record.rejected.text),
        "discarded_tokens": len(record.rejected.token_ids or []),
        "halted_ms": timings.halted_ms,
        "verdict_ms": timings.verdict_ms,
        "resumed_ms": resumed,
        "ended_ms": timings.ended_ms,
        "halt_to_resume_ms": None if resumed is None else resumed - timings.halted_ms,
    }


def pair_view(record: InterventionRecord) -> dict[str, Any]:
    """The preference pair: (prompt + kept prefix | chosen, rejected, divergence index in token ids)."""
    prompt, kept = record.prompt_token_ids, record.kept.token_ids
    continuation = record.completion.continuation.text if record.completion is not None else ""
    answer = record.completion.answer if record.completion is not None else ""
    return {
        "messages": record.messages,
        "kept": record.kept.text,
        "chosen": {"trigger": record.trigger.text, "continuation": continuation, "answer": answer},
        "rejected": record.rejected.text,
        "is_rejected_complete": False,
        "divergence_index": None if prompt is None or kept is None else len(prompt) + len(kept),
    }


def cue_chars(rejected: str) -> int:
    """Length of the cue itself: the first segment of what was cut. What follows had been sent before the verdict."""
    segments = segment(rejected)
    return segments[0].end if segments else len(rejected)
