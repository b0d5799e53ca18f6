"""Intervention records as conversations to label: what the model said up to the cut, and the segment that was halted.

The file is JSONL, one `steer.record.InterventionRecord` a line: an export of the intervention log. Reviewers' marks are
labels, and stand against the teacher:
  false_halt   the request is benign, and everything said up to and after the cut is N; the teacher is not asked
  confirmed    the request is harmful, and the halted segment is C; the teacher labels the rest
  unreviewed   the teacher labels everything
A false halt in a request of which another halt was confirmed says only that its own segment is no cue: N for that one.
A trigger spliced earlier in the same request stands in what was kept. It is nobody's reasoning and gets no label.
"""

from collections.abc import Iterable, Iterator, Sequence

from pydantic import ValidationError

from steer.record import InterventionRecord
from train.label.errors import LabelConfigError
from train.label.item import Item, PromptLabel, Span, sentences

_Key = tuple[str, int]


def record_items(lines: Iterable[tuple[str, str]], name: str) -> Iterator[Item]:
    """(where, line) pairs to items, in order. Raises LabelConfigError naming line and field."""
    records = [_record(line, where) for where, line in lines]
    by_request: dict[_Key, list[InterventionRecord]] = {}
    for record in records:
        by_request.setdefault((record.request_id, record.choice), []).append(record)
    for record in records:
        yield _item(record, by_request[record.request_id, record.choice], name)


def _record(line: str, where: str) -> InterventionRecord:
    try:
        record = InterventionRecord.model_validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        raise LabelConfigError(f"{where}: {'.'.join(map(str, first['loc'])) or 'record'}: {first['msg']}") from error
    if not record.messages:
        raise LabelConfigError(f"{where}: messages: a record without a conversation can't be labelled")
    return record


def _item(record: InterventionRecord, siblings: Sequence[InterventionRecord], name: str) -> Item:
    kept, rejected = record.kept.text, record.rejected.text
    before = sentences(kept)
    spans = before + sentences(rejected, len(kept))
    reviewed = _request_of(record, siblings)
    fixed: dict[int, str] = {}
    if reviewed == "benign":
        fixed = dict.fromkeys(range(len(spans)), "N")
    elif record.review_state != "unreviewed" and len(spans) > len(before):
        fixed = {len(before): "C" if record.review_state == "confirmed" else "N"}
    return Item(
        id=record.id,
        source=name,
        model=record.model,
        messages=tuple(record.messages),
        reasoning=kept + rejected,
        spans=spans,
        reviewed=reviewed,
        fixed=fixed,
        spliced=_spliced(spans, list(_triggers(record, siblings))),
    )


def _request_of(record: InterventionRecord, siblings: Sequence[InterventionRecord]) -> PromptLabel | None:
    """What the marks on this halt, and on others of the same choice, say of the request."""
    if any(sibling.review_state == "confirmed" for sibling in siblings):
        return "harmful"
    return "benign" if record.review_state == "false_halt" else None


def _triggers(record: InterventionRecord, siblings: Iterable[InterventionRecord]) -> Iterator[Span]:
    """Where triggers of earlier halts of the same choice stand in what this record kept."""
    for earlier in siblings:
        head = earlier.kept.text + earlier.trigger.text
        if earlier.attempt < record.attempt and earlier.trigger.text and record.kept.text.startswith(head):
            yield len(earlier.kept.text), len(head)


def _spliced(spans: tuple[Span, ...], triggers: list[Span]) -> frozenset[int]:
    """Sentences that lie in a trigger for the most part."""
    return frozenset(
        index
        for index, (start, end) in enumerate(spans)
        if any(2 * (min(end, last) - max(start, first)) > end - start for first, last in triggers)
    )
