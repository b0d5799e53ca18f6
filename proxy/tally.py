"""One request in numbers, for the log: what rates are computed from, halted or not. No text."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from proxy.log import RequestCounts
from proxy.session import Session

# A request whose client went away before its end.
LEFT = "client_left"


def tally(sessions: Sequence[Session]) -> RequestCounts:
    """All choices of a request, once they are over."""
    transcripts = [session.transcript for session in sessions]
    origin, duration_ms = transcripts[0].origin, transcripts[0].now_ms()
    reasons = [session.finish_reason or LEFT for session in sessions]
    return RequestCounts(
        request_id=origin.request_id,
        tenant=origin.tenant,
        model=origin.model,
        mode=origin.mode,
        created_at=datetime.now(UTC) - timedelta(milliseconds=duration_ms),
        outcome=reasons[0] if len(set(reasons)) == 1 else "mixed",
        segments=sum(len(transcript.verdict_ms) for transcript in transcripts),
        # A refused or merely observed halt is no intervention of the engine, but has a record.
        interventions=sum(transcript.num_records for transcript in transcripts),
        completion_tokens=sum(session.generated_tokens for session in sessions),
        discarded_tokens=sum(transcript.discarded_tokens for transcript in transcripts),
        duration_ms=duration_ms,
    )
