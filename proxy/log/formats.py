"""Records in the forms that other programs read. Pure: a record in, a row out, None where the form has no use for it.

jsonl         the record, whole: what `steer log import` and `steer train` read
parquet       the same fields in columns; texts as columns, messages and tools as JSON
hf            preference pairs as TRL reads them, with the token ids and the divergence index, in a data set folder
argilla       records for `dataset.records.from_json`
label-studio  tasks with the detector's verdict as a prediction
"""

import json
from collections.abc import Mapping
from typing import Any, Literal

from detector.context import message_text
from steer.record import InterventionRecord, TextSpan

Format = Literal["jsonl", "parquet", "hf", "argilla", "label-studio"]

THINK = ("<think>", "</think>")


def parquet_row(record: InterventionRecord) -> dict[str, Any]:
    """Every field of the record; spans as a text and a list of ids."""
    completion = record.completion
    spans = {
        "kept": record.kept,
        "rejected": record.rejected,
        "trigger": record.trigger,
        "continuation": completion.continuation if completion else TextSpan(),
    }
    row = record.model_dump(exclude={*spans, "completion", "timings", "messages", "tools", "sampling"})
    for name, span in spans.items():
        row[f"{name}_text"], row[f"{name}_token_ids"] = span.text, span.token_ids
    timings = completion.timings if completion else record.timings
    return row | {
        "messages": json.dumps(record.messages, ensure_ascii=False),
        "tools": None if record.tools is None else json.dumps(record.tools, ensure_ascii=False),
        "sampling": json.dumps(record.sampling, ensure_ascii=False),
        "answer": completion.answer if completion else None,
        "finish_reason": completion.finish_reason if completion else None,
        "discarded_tokens": completion.discarded_tokens if completion else None,
        **timings.model_dump(),
    }


def preference_row(record: InterventionRecord) -> dict[str, Any] | None:
    """(prompt + kept | chosen, rejected). None for a record without both sides.

    `chosen` and `rejected` hold the whole turn, so that a trainer may render them; `divergence_chars` of them are
    equal. The ids are the engine's own: both sides start at `divergence_index`, the length of `prompt_ids`.
    """
    completion = record.completion
    if completion is None or completion.outcome != "completed" or not record.trigger.text or not record.rejected.text:
        return None
    opening, closing = THINK if record.channel == "reasoning" else ("", "")
    shared = f"{opening}{record.kept.text}"
    chosen = f"{shared}{record.trigger.text}{completion.continuation.text}{closing}{completion.answer}"
    prompt_ids = _joined(record.prompt_token_ids, record.kept.token_ids)
    return {
        "id": record.id,
        "prompt": [_turn(message) for message in record.messages],
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": f"{shared}{record.rejected.text}"}],
        "divergence_chars": len(shared),
        "prompt_ids": prompt_ids,
        "chosen_ids": _joined(record.trigger.token_ids, completion.continuation.token_ids),
        "rejected_ids": record.rejected.token_ids,
        "divergence_index": None if prompt_ids is None else len(prompt_ids),
        "model": record.model,
        "adapter": record.adapter,
        "tenant": record.tenant,
        "category": record.category,
        "trigger_id": record.trigger_id,
        "score": record.score,
        "review_state": record.review_state,
    }


def argilla_row(record: InterventionRecord) -> dict[str, Any]:
    """A record of a data set with the text fields and the question `verdict` that docs/log.md names."""
    said = {"confirmed": "cue", "false_halt": "no cue"}.get(record.review_state)
    return {
        "id": record.id,
        "fields": _fields(record),
        "metadata": _metadata(record),
        "suggestions": {
            "verdict": {"value": said or "cue", "score": record.score, "agent": f"detector {record.detector_hash[:12]}"}
        },
        "responses": {},
        "vectors": {},
    }


def label_studio_row(record: InterventionRecord) -> dict[str, Any]:
    """A task for the labelling interface in docs/log.md."""
    choice = {"from_name": "verdict", "to_name": "rejected", "type": "choices", "value": {"choices": ["cue"]}}
    prediction = {"model_version": record.detector_hash[:12], "score": record.score, "result": [choice]}
    return {"data": {"id": record.id, **_fields(record), **_metadata(record)}, "predictions": [prediction]}


def _fields(record: InterventionRecord) -> dict[str, str]:
    completion = record.completion
    continuation = f"{completion.continuation.text}{completion.answer}" if completion else ""
    return {
        "prompt": "\n\n".join(f"{message['role']}: {message_text(message)}" for message in record.messages),
        "kept": record.kept.text,
        "rejected": record.rejected.text,
        "chosen": f"{record.trigger.text}{continuation}",
    }


def _metadata(record: InterventionRecord) -> dict[str, Any]:
    names = ("request_id", "tenant", "model", "category", "trigger_id", "score", "outcome", "review_state")
    found = {name: getattr(record, name) for name in names} | {"created_at": record.created_at.isoformat()}
    return {name: value for name, value in found.items() if value is not None}


def _turn(message: Mapping[str, Any]) -> dict[str, str]:
    return {"role": str(message.get("role", "user")), "content": message_text(message)}


def _joined(first: list[int] | None, second: list[int] | None) -> list[int] | None:
    return None if first is None or second is None else first + second
