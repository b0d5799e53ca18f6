"""One conversation, labelled: window after window, each answer checked, a bad one asked for again with the error told.

Also the probe that finds which answer format the engine keeps to. No files, no clock: what asks is a `Teacher`.
"""

from collections.abc import Iterator, Sequence

from train.label.answer import Answer, read_answer
from train.label.config import ResponseFormat, TeacherConfig, WindowConfig
from train.label.errors import BadAnswer, TeacherError
from train.label.item import Failed, Item, Labelled, PromptLabel, sentences
from train.label.prompt import Question, Window, question
from train.label.teacher import Teacher

_FORMATS: tuple[ResponseFormat, ...] = ("schema", "json", "text")
_FORMAT_WORDS = {"schema": "a JSON schema", "json": "JSON mode", "text": "plain text"}
_PROBE_TEXT = "The user wants a recipe for bread. I will list the ingredients first."
_SHOWN_CHARS = 200


class _Unusable(Exception):
    """No answer to a question could be had; the message says why."""


async def settle_format(teacher: Teacher, config: TeacherConfig) -> list[str]:
    """Sets `teacher.format` by asking about an inert conversation. Lines for people say what was found.

    Raises TeacherError where no format yields an answer that can be read, LabelConfigError.
    """
    formats: Sequence[ResponseFormat] = _FORMATS if config.response_format == "auto" else (config.response_format,)
    found: list[str] = []
    item = Item(
        "probe", "", "", ({"role": "user", "content": "How is bread baked?"},), _PROBE_TEXT, sentences(_PROBE_TEXT)
    )
    asked = question(item, Window(0, len(item.spans)), None, "", 0, 1000)
    for format in formats:
        teacher.format = format
        reply = await teacher.ask(asked)
        try:
            if reply.refused is None:
                read_answer(reply.text, asked.numbers, None)
                return [*found, f"teacher: {config.model} answers with {_FORMAT_WORDS[format]}"]
            reason = reply.refused
        except BadAnswer as error:
            reason = f"{error} It said: {_shown(reply.text)}"
        found.append(f"teacher: {_FORMAT_WORDS[format]} does not work: {reason}")
    raise TeacherError(
        "\n".join(found) + f"\n{config.model} can't be used as a teacher: it must follow instructions and answer in "
        "JSON. See teacher.max_tokens, teacher.sends_temperature, teacher.max_tokens_field and teacher.options"
    )


async def label(
    item: Item, teacher: Teacher, config: TeacherConfig, window: WindowConfig, *, fresh: bool = False
) -> Labelled | Failed:
    """All windows of an item, in order. `fresh` asks again what is in the cache. Raises what `Teacher.ask` raises."""
    count = _count(item, window)
    verdict: PromptLabel | None = item.reviewed
    letters = ""
    for part in windows(count, window.sentences):
        asked = question(item, part, verdict, letters, window.overlap, window.max_message_chars)
        try:
            answer = await _answer(asked, verdict, teacher, config.attempts, fresh=fresh)
        except _Unusable as error:
            return Failed(f"sentences {part.start + 1} to {part.end}: {error}" if part.end else f"request: {error}")
        verdict = answer.prompt_label
        own = enumerate(answer.letters, part.start)
        letters += "".join(item.fixed.get(index, letter) for index, letter in own)
    assert verdict is not None, "there is at least one window"
    return Labelled(verdict, letters)


def settled(item: Item, window: WindowConfig) -> Labelled | None:
    """The labels of an item that reviewers have settled wholly; None where a teacher is needed."""
    count = _count(item, window)
    if item.reviewed is None or any(index not in item.fixed for index in range(count)):
        return None
    return Labelled(item.reviewed, "".join(item.fixed[index] for index in range(count)))


def windows(count: int, size: int) -> Iterator[Window]:
    """Windows of at most `size` sentences over `count`, of even sizes; one empty window where there are none."""
    parts = max(1, -(-count // size))
    for part in range(parts):
        yield Window(part * count // parts, (part + 1) * count // parts)


async def _answer(
    asked: Question, verdict: PromptLabel | None, teacher: Teacher, attempts: int, *, fresh: bool
) -> Answer:
    """An answer that keeps the rules, after at most `attempts`. Raises _Unusable."""
    told = asked
    reason = ""
    for _ in range(attempts):
        reply = await teacher.ask(told, fresh=fresh)
        if reply.refused is not None:  # the same words would be refused again
            raise _Unusable(reply.refused)
        try:
            return read_answer(reply.text, asked.numbers, verdict)
        except BadAnswer as error:
            reason = f"{error} It said: {_shown(reply.text)}"
            correction = f"That answer can't be used. {error} Answer again, with the JSON object alone."
            said = {"role": "assistant", "content": reply.text}
            told = told._replace(messages=[*told.messages, said, {"role": "user", "content": correction}])
    raise _Unusable(f"no usable answer in {attempts} attempts: {reason}")


def _count(item: Item, window: WindowConfig) -> int:
    return len(item.spans) if window.max_sentences is None else min(len(item.spans), window.max_sentences)


def _shown(text: str) -> str:
    return repr(" ".join(text.split())[:_SHOWN_CHARS])
