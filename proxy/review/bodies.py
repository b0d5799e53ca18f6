"""What the review API takes and gives: JSON bodies, checked at the border."""

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from proxy.review.queue import QueuePage
from steer.review import SecondVerdict
from steer.triggers import Kind


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SayingBody(_Body):
    """POST /steer/v1/review/items/{id}. `version` may stand in `If-Match` instead."""

    version: int | None = Field(None, ge=0)
    decision: Literal["confirmed", "false_halt", "dismissed", "unreviewed"] | None = None
    final: bool = False
    segment: int | None = Field(None, ge=0)
    note: str | None = None
    trigger: str | None = None
    trigger_kind: Kind | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.decision is None and self.note is None and self.trigger is None:
            raise ValueError("say a decision, a note or a trigger")
        if self.trigger_kind is not None and self.trigger is None:
            raise ValueError("trigger_kind belongs to a trigger")
        return self


class SettlingBody(_Body):
    """POST /steer/v1/review/triggers/{id}"""

    state: Literal["approved", "rejected"]
    trigger_id: str | None = None
    kind: Kind | None = None


class VerdictsBody(_Body):
    """POST /steer/v1/review/verdicts"""

    verdicts: list[SecondVerdict] = Field(min_length=1, max_length=500)


def page_json(page: QueuePage) -> dict[str, Any]:
    """A page of the queue."""
    items = []
    for item in page.items:
        candidate = item.candidate
        items.append(
            {
                "id": candidate.id,
                "kind": "miss" if candidate.kind == "sample" else "intervention",
                "usefulness": item.usefulness.score,
                "reason": item.usefulness.reason,
                "score": round(candidate.score, 4),
                "tenant": candidate.tenant,
                "model": candidate.model,
                "mode": candidate.mode,
                "category": candidate.category,
                "request_id": candidate.request_id,
                "created_at": candidate.created_at.isoformat(),
                "version": candidate.version,
                "is_disputed": candidate.is_disputed,
                "second_disagrees": candidate.second_disagrees,
            }
        )
    return {"items": items, "next_cursor": page.next_cursor}
