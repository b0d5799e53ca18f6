"""Drives one choice of one request: feeds the engine (`steer.engine`) and carries out its orders.

The life of a choice:
 1. Deltas of the first leg come in; their frames wait in the outbox, their text goes to the engine.
 2. `Classify`: the segment goes to the detector, its score comes back as a verdict. `Release`: frames go out.
 3. `Halt`: the upstream is closed, the surviving ids are found, what was kept goes out.
 4. `Splice` and `Resume`: the record is inserted and the resumed leg requested at the same time; nothing more is shown
    before the insert is durable; then the trigger and, as it is judged, the resumed leg.
 5. `Finish`: the record is completed, then the terminal frame goes out.
Whatever ends the stream early (client gone, shutdown) closes the upstream at once and completes the record.
All state is touched by one task only; readers and judges talk to it through a bounded inbox.
"""

import contextlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, assert_never

import anyio
from anyio.abc import TaskGroup

from detector.context import Context, Message
from detector.errors import DetectorError
from proxy.cut import LegEvent, LegTokens
from proxy.errors import UpstreamError
from proxy.frames import ChunkWriter, Delta
from proxy.journal import Journal, Log
from proxy.legs import Leg
from proxy.log.errors import LogError
from proxy.records import Transcript
from proxy.resumer import Resumer
from proxy.shown import Outbox
from proxy.stops import StopStrings
from proxy.think import Piece
from steer.engine import Engine
from steer.events import (
    Action,
    CannotResume,
    Classify,
    Finish,
    Halt,
    Halted,
    Observe,
    Refuse,
    Release,
    Resume,
    Splice,
    StreamEnd,
    TextDelta,
    Verdict,
)
from steer.record import Outcome

logger = logging.getLogger("steer.proxy")

# Undecided segments beyond which no more text is taken. A live stream has one or two; a finished body, or a slow
# detector, meets the bound, and no stream can fill the detector's queue alone.
MAX_UNDECIDED = 8
_INBOX_ITEMS = 8
# A verdict that takes longer is a failed one: a hanging detector must not hold a stream open for ever.
VERDICT_TIMEOUT_S = 30.0

Show = Callable[[bytes], Awaitable[None]]


class Scorer(Protocol):
    """The detector, as far as a session knows it."""

    async def score(self, context: Context) -> float:
        """Probability that the context's segment is a compliance cue. Raises DetectorError."""

    async def prepare(self, messages: Sequence[Message]) -> float:
        """Read a conversation ahead of its first segment. Raises DetectorError."""


@dataclass(frozen=True, slots=True)
class _Batch:
    leg: int
    deltas: list[Delta]


@dataclass(frozen=True, slots=True)
class _LegEnd:
    leg: int
    error: UpstreamError | None


class Session:
    """One choice. `show` sends one payload to the client; `finished` is set when the terminal frame is out."""

    def __init__(
        self,
        *,
        engine: Engine,
        first_leg: Leg,
        make_writer: Callable[[], ChunkWriter],
        resumer: Resumer,
        transcript: Transcript,
        scorer: Scorer,
        log: Log,
        show: Show,
        stops: StopStrings,
        shows_interventions: bool,
        reveals_rejected: bool,
        hides_reasoning: bool,
        forwards_end: bool,
        forwards_usage: bool,
    ) -> None:
        self.engine = engine
        self.finished = anyio.Event()
        self.finish_reason: str | None = None
        self.error: UpstreamError | None = None
        self.usage_seen: dict[str, Any] | None = None
        self.usage_payload: bytes | None = None
        self._make_writer = make_writer
        self._writer: ChunkWriter | None = None
        self._resumer = resumer
        self.transcript = transcript
        self._scorer = scorer
        self._log = log
        self._show = show
        self._stops = stops
        self._shows_interventions = shows_interventions
        self._reveals = reveals_rejected
        self._forwards_end = forwards_end
        self._forwards_usage = forwards_usage
        self._outbox = Outbox(hides_reasoning=hides_reasoning)
        self._hides_reasoning = hides_reasoning
        self._leg: Leg = first_leg
        self._leg_number = 0
        self._length = 0  # text of the leg fed to the engine
        self._released = 0
        self._answer_start: int | None = None  # offset in the leg where the answer begins
        self._answer_limit: int | None = None  # offset in the leg that stop strings allow
        self._stop_base = 0  # offset in the leg that the stop strings count from
        self._began_in_reasoning = True
        self._has_text = False  # the engine has been given some of the leg, if only a change of channel
        self._call_start: int | None = None  # offset in the leg where its first tool call begins
        self._tokens = LegTokens(resumer.marker_ids)
        self._end_frame: Delta | None = None
        self._is_refused = False
        self._is_resume_lost = False
        self._is_cut = False  # the current leg has been cut, and its tokens counted
        self._shown_of_leg: list[int] | None = None  # ids of the current leg that are shown, where not all are
        self.num_first_shown: int | None = None  # ids of the first leg that are shown, where not all are
        self._judging = anyio.Semaphore(MAX_UNDECIDED)
        self._send, self._inbox = anyio.create_memory_object_stream[_Batch | _LegEnd | Verdict](_INBOX_ITEMS)
        self._backlog: deque[Delta | _LegEnd] = deque()  # of the current leg, received and not yet fed
        self._room = anyio.Event()
        self._reader_scope = anyio.CancelScope()

    async def run(self) -> None:
        """To the end. Returns normally however the upstream, detector or log behave; cancellation closes everything."""
        with self._send, self._inbox:
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                self._journal = Journal(self._log, tasks)
                try:
                    tasks.start_soon(self._prepare)
                    self._start_reader(tasks)
                    await self._loop()
                    if self._journal.record is not None:  # monitor mode: the client has not been kept waiting for this
                        self._journal.close(self.transcript.completion("observed", self.finish_reason, self._tokens))
                    await self._settle()
                finally:
                    self._leg.close()
                    self._close_records()
                tasks.cancel_scope.cancel()

    def _close_records(self) -> None:
        """The stream ended before its time: what was halted is recorded all the same, as far as it got."""
        if self.transcript.pending_halt is not None:
            if self._journal.record is not None:
                self._journal.close(self.transcript.completion("halted_again", None))
            self._journal.open(self.transcript.abandoned(None if self._is_cut else self._tokens))
        if self._journal.record is not None:
            outcome: Outcome = "observed" if self.engine.policy.mode == "monitor" else "client_left"
            self._journal.close(self.transcript.completion(outcome, self.finish_reason, self._uncut_tokens))

    async def _loop(self) -> None:
        while not self.engine.is_closed or self.engine.num_undecided:
            if self._backlog and self.engine.num_undecided < MAX_UNDECIDED:
                await self._take_next()
                continue
            self._room.set()  # the reader looks for itself whether there is any
            match await self._inbox.receive():
                case Verdict() as verdict:
                    await self._act(self.engine.feed(verdict))
                case _Batch(leg, deltas) if leg == self._leg_number and self._takes_text:
                    self._keep_account(deltas)
                    self._backlog += deltas
                case _LegEnd(leg) as end if leg == self._leg_number and self._takes_text:
                    self._backlog.append(end)
                case _:
                    pass  # of a leg that has been cut

    @property
    def _takes_text(self) -> bool:
        return not self.engine.is_closed and self._stops.hit is None and not self._leg_ended

    @property
    def is_rewritten(self) -> bool:
        """Whether the client gets something else than the engine sent."""
        return self.engine.interventions > 0 or self._is_refused or self._stops.hit is not None

    @property
    def has_shown_usage(self) -> bool:
        """Whether the engine's own usage frame went to the client."""
        return self._forwards_usage and self.usage_seen is not None and not self.is_rewritten

    @property
    def generated_tokens(self) -> int:
        """Tokens that the engine generated over all legs, discarded ones included."""
        current = 0 if self._is_cut else self._tokens.num_tokens
        return self.transcript.generated_tokens + current

    @property
    def shown_ids(self) -> list[int]:
        """Ids behind what the client was shown, triggers included."""
        if self._is_cut:
            return self.transcript.ids
        return self.transcript.ids + (self._tokens.token_ids if self._shown_of_leg is None else self._shown_of_leg)

    @property
    def _uncut_tokens(self) -> LegTokens | None:
        """The current leg's, unless a cut has settled what is kept of it."""
        return None if self._is_cut else self._tokens

    # -- a leg --------------------------------------------------------------------------------------------------------

    def _start_reader(self, tasks: TaskGroup) -> None:
        self._leg_ended = False
        self._reader_scope = anyio.CancelScope()
        tasks.start_soon(self._read, self._leg, self._leg_number, self._reader_scope)

    async def _read(self, leg: Leg, number: int, scope: anyio.CancelScope) -> None:
        """Reader task: deltas of one leg into the inbox, no faster than segments are decided."""
        error: UpstreamError | None = None
        with scope:
            try:
                if number > 0:  # the first leg was opened by the request handler, which needed its status
                    await leg.open()
                async for deltas in leg.batches():
                    await self._send.send(_Batch(number, deltas))
                    while self._backlog or self.engine.num_undecided >= MAX_UNDECIDED:
                        self._room = anyio.Event()
                        await self._room.wait()
            except UpstreamError as broken:
                error = broken
            except Exception:  # whatever an engine may send, the client gets a valid end
                logger.exception("request %s: the upstream's stream could not be read", self.transcript.request_id)
                error = UpstreamError("the upstream sent something that the proxy cannot read")
            finally:
                leg.close()
            await self._send.send(_LegEnd(number, error))

    def _keep_account(self, deltas: list[Delta]) -> None:
        """All ids of a batch are on the books before any of its text can lead to a cut."""
        for delta in deltas:
            event = delta.leg_event or LegEvent(delta.text, delta.token_ids)
            if not delta.is_slice:
                self._tokens.add(event.text, event.token_ids)

    async def _take_next(self) -> None:
        item = self._backlog.popleft()
        if not self._takes_text:
            self._backlog.clear()
        elif isinstance(item, _LegEnd):
            await self._end_leg(item.error)
        else:
            await self._take_one(item)

    async def _take_one(self, delta: Delta) -> None:
        if delta.prompt_token_ids is not None and self._leg_number == 0:
            self.transcript.prompt_ids = delta.prompt_token_ids
        if delta.finish_reason is not None and self._end_frame is None:
            self._end_frame = delta
        if delta.is_usage and self._leg_number == 0:
            self.usage_seen, self.usage_payload = delta.usage, delta.payload
            if not self._forwards_usage:
                delta.payload = None
        start, end = self._length, self._length + len(delta.text) + delta.num_held
        self._outbox.add(delta, start, end)
        for piece in delta.pieces:
            text = self._until_stop(piece)
            if not self._has_text:
                self._began_in_reasoning = piece.channel == "reasoning"
            if piece.is_call and self._call_start is None:
                self._call_start = self._length
            self._has_text = True
            self._length += len(text)
            self.transcript.add(piece.channel, text)
            actions = self.engine.feed(TextDelta(piece.channel, text))
            number = self._leg_number
            await self._act(actions)
            if number != self._leg_number or self.engine.is_closed:
                return
            if self._stops.hit is not None:
                await self._stop_here()
                return
        await self._flush()

    def _until_stop(self, piece: Piece) -> str:
        """The piece's text as far as the client's stop strings let it be said: what follows is never judged."""
        if piece.channel == "reasoning":
            return piece.text
        if self._answer_start is None:
            self._answer_start = self._stop_base = self._length
        if piece.is_call:
            self._stop_base += len(piece.text)  # stop strings are looked for in text alone
            self._answer_limit = self._length + len(piece.text)
            return piece.text
        self._answer_limit = self._stop_base + self._stops.push(piece.text)
        return piece.text if self._stops.hit is None else piece.text[: max(0, self._answer_limit - self._length)]

    async def _stop_here(self) -> None:
        """A stop string: the leg ends here as if the engine had stopped."""
        self._leg.close()
        self._reader_scope.cancel()
        self._leg_ended = True
        await self._end_shown_at(self._length if self._answer_limit is None else self._answer_limit)
        await self._act(self.engine.feed(StreamEnd("stop")))

    async def _end_shown_at(self, at: int) -> None:
        """No text of the leg is shown from `at` on, so no id behind it is either."""
        self._shown_of_leg = (await self._tokens.cut(at, self._resumer.decode)).kept_ids
        if self._leg_number == 0:
            self.num_first_shown = len(self._shown_of_leg)

    async def _end_leg(self, error: UpstreamError | None) -> None:
        self._leg_ended = True
        if error is not None:
            self.error = error
            if self._leg_number > 0 and not self._has_text and self._tokens.num_tokens == 0:
                logger.warning("request %s: cannot resume: %s", self.transcript.request_id, error)
                await self._act(self.engine.feed(CannotResume()))
                return
            await self._act(self.engine.feed(StreamEnd("error")))
            return
        reason = self._end_frame.finish_reason if self._end_frame is not None else None
        if reason == "error":
            self.error = UpstreamError("the upstream reports that it failed while generating")
        await self._act(self.engine.feed(StreamEnd(reason or "stop")))

    # -- orders -------------------------------------------------------------------------------------------------------

    async def _act(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Release(up_to):
                    self._released = up_to
                    await self._flush()
                case Classify():
                    self._tasks.start_soon(self._judge, action)
                case Observe():
                    await self._observe(action)
                case Halt():
                    await self._halt(action)
                case Splice():
                    await self._splice(action)
                case Resume():
                    await self._resume(action)
                case Refuse():
                    await self._refuse(action)
                case Finish(reason):
                    await self._finish(reason)
                case _:
                    assert_never(action)

    async def _prepare(self) -> None:
        """The detector reads the conversation while the engine does: the first verdict comes sooner."""
        with contextlib.suppress(Exception):  # the first segment's own scoring will tell
            await self._scorer.prepare(self.transcript.context_messages)

    async def _judge(self, segment: Classify) -> None:
        """Judge task: one segment through the detector."""
        context = Context(
            messages=self.transcript.context_messages,
            reasoning_before=segment.before,
            segment=segment.text,
            channel=segment.channel,
        )
        number, started = self._leg_number, self.transcript.now_ms()
        async with self._judging:
            if number != self._leg_number:
                return  # of a leg that has been cut
            score = await self._score(context)
        self.transcript.verdict_ms[segment.segment_id] = self.transcript.now_ms() - started
        await self._send.send(Verdict(segment.segment_id, score))

    async def _score(self, context: Context) -> float | None:
        """The detector's score; None for whatever is none, so that the policy decides and no accident does."""
        try:
            with anyio.fail_after(VERDICT_TIMEOUT_S):
                score = await self._scorer.score(context)
        except (DetectorError, TimeoutError) as error:
            reason = str(error) or f"no verdict within {VERDICT_TIMEOUT_S:.0f} s"
            logger.warning("request %s: a segment could not be judged: %s", self.transcript.request_id, reason)
            return None
        except Exception as error:  # noqa: BLE001 - of the type alone: the message might quote the text
            logger.error("request %s: the detector failed: %s", self.transcript.request_id, type(error).__name__)
            return None
        if not 0 <= score <= 1:
            logger.error("request %s: the detector's score %r is no probability", self.transcript.request_id, score)
            return None
        return score

    async def _observe(self, observe: Observe) -> None:
        """Between events is exact enough for a stream, which is not made to wait; a body is one event alone."""
        cut = None if self._forwards_end else await self._tokens.cut(observe.start, self._resumer.decode)
        self._journal.open(self.transcript.observed(observe, self._tokens, cut))

    async def _halt(self, halt: Halt) -> None:
        self._leg.close()
        self._reader_scope.cancel()
        self.transcript.halted(halt)
        cut = await self._tokens.cut(halt.at, self._resumer.decode)
        inside = self._tokens.num_inside(len(cut.kept_ids))
        await self._show_all(self._outbox.cut(cut.kept_chars, inside, self.writer))
        if self._leg_number == 0:
            self.num_first_shown = len(cut.kept_ids)
        if self._call_start is not None and cut.kept_chars > self._call_start:
            self._is_resume_lost = True  # a trigger would stand in the middle of a tool call
        self.transcript.cut(cut, self._tokens)
        self._is_cut = True
        await self._act(self.engine.feed(Halted(cut.kept_chars)))

    async def _splice(self, splice: Splice) -> None:
        trigger_ids: list[int] | None = []
        try:
            if not self._is_resume_lost:
                trigger_ids = await self._resumer.encode(splice.text)
        except UpstreamError as error:
            logger.warning("request %s: the trigger could not be encoded: %s", self.transcript.request_id, error)
            self._is_resume_lost = True
        if self._journal.record is not None:
            self._journal.close(self.transcript.completion("halted_again", None))
        self._journal.open(self.transcript.spliced(splice, trigger_ids))

    async def _resume(self, resume: Resume) -> None:
        self._start_new_leg()
        try:
            if self._is_resume_lost:
                raise UpstreamError("there is no prefix of ids to resume from")
            leg = self._resumer.leg(self.transcript, resume.channel)
        except UpstreamError as error:
            self.error = error
            await self._act(self.engine.feed(CannotResume()))
            return
        if leg is None:  # the client's token budget is spent
            self._leg_ended = True
            await self._show_trigger(resume)
            if not self.engine.is_closed:
                await self._act(self.engine.feed(StreamEnd("length")))
            return
        self._leg = leg
        self._start_reader(self._tasks)
        await self._show_trigger(resume)

    def _start_new_leg(self) -> None:
        self._leg_number += 1
        self._length = self._released = 0
        self._answer_start = self._answer_limit = self._call_start = self._shown_of_leg = None
        self._stops = self._stops.restarted()
        self._has_text = False
        self._tokens = LegTokens(self._resumer.marker_ids)
        self._backlog.clear()
        self._end_frame = None
        self._is_cut = False

    async def _show_trigger(self, resume: Resume) -> None:
        record = self.transcript.record
        assert record is not None, "a resume follows a splice"
        if resume.channel == "reasoning" and self._hides_reasoning:
            await self._show_durable([])
            return
        extension = self.transcript.extension(rejected=self._reveals) if self._shows_interventions else None
        ids = record.trigger.token_ids
        await self._show_durable(
            [self.writer.text(resume.channel, record.trigger.text, token_ids=ids, extension=extension)]
        )

    async def _refuse(self, refuse: Refuse) -> None:
        self._is_refused = True
        self._leg.close()
        self._reader_scope.cancel()
        logger.warning("request %s: refused: %s", self.transcript.request_id, refuse.cause)
        in_reasoning = self._is_reasoning_at(refuse.at)
        if not self._is_cut:
            await self._end_shown_at(refuse.at)
        if self.transcript.pending_halt is not None:
            if self._journal.record is not None:
                self._journal.close(self.transcript.completion("halted_again", None))
            self._journal.open(self.transcript.refused(refuse.cause))
        self.transcript.refusal_cause = refuse.cause
        payloads = self._outbox.cut(refuse.at, 0, self.writer)
        marker = self.writer.marker(self._resumer.end_marker)
        if marker is not None and in_reasoning and not self._hides_reasoning:
            payloads.append(marker)
        text = self.engine.policy.refusal
        extension = {"event": "refusal", "cause": refuse.cause} if self._shows_interventions else None
        payloads.append(self.writer.text("answer", text, extension=extension))
        await self._show_durable(payloads)

    def _is_reasoning_at(self, at: int) -> bool:
        """Whether the client, shown the leg up to `at`, is left inside the reasoning."""
        if self._length == 0:  # nothing of this leg: the trigger was the last that was shown
            return self.transcript.in_reasoning
        return self._began_in_reasoning and (self._answer_start is None or at < self._answer_start)

    async def _finish(self, reason: str) -> None:
        """Complete the record, then let the end be seen."""
        self.finish_reason = reason
        if self.engine.policy.mode != "monitor":
            if self._journal.record is not None:
                self._journal.close(self.transcript.completion(self._outcome(reason), reason, self._uncut_tokens))
            await self._settle()
        if reason == "error":
            self.finished.set()
            return
        if self._forwards_end and not self.is_rewritten:
            await self._show_all(self._outbox.take_rest(self.writer))
        else:
            await self._end_rewritten(reason)
        self.finished.set()

    async def _end_rewritten(self, reason: str) -> None:
        stop_reason = self._stops.hit or (self._end_frame.stop_reason if self._end_frame else None)
        limit = self._answer_limit if self._stops.hit is not None and self._answer_limit is not None else self._length
        if not self._is_refused:
            await self._show_all(self._outbox.cut(limit, 0, self.writer))
        calls = self._end_frame.tool_calls if self._end_frame is not None else None
        if calls and not self._is_refused:
            await self._show(self.writer.delta({"tool_calls": calls}))
        await self._show(self.writer.delta({}, finish_reason=reason, stop_reason=stop_reason))

    def _outcome(self, reason: str) -> Outcome:
        if self._is_refused:
            return "refused"
        return "upstream_failed" if reason == "error" else "completed"

    async def _settle(self) -> None:
        """Wait for the records. The engine has closed: a log that fails now can only be told to the operator."""
        try:
            await self._journal.settled()
        except LogError as error:
            logger.error("request %s: a record was not completed: %s", self.transcript.request_id, error)

    # -- showing ------------------------------------------------------------------------------------------------------

    @property
    def writer(self) -> ChunkWriter:
        """Made anew while the first leg's own chunks may still tell how they look."""
        if self._writer is None or self._leg_number == 0:
            self._writer = self._make_writer()
        return self._writer

    async def _show_durable(self, payloads: list[bytes]) -> None:
        """Show what comes after a cut: only once its record is on disk, or the policy says to go on without."""
        try:
            await self._journal.settled()
        except LogError as error:
            logger.error("request %s: the intervention log failed: %s", self.transcript.request_id, error)
            if self.engine.policy.on_failure == "fail_closed" and not self._is_refused:
                await self._act(self.engine.abort("log_failure"))
                return
        await self._show_all(payloads)

    async def _flush(self) -> None:
        limit = self._released if self._answer_limit is None else min(self._released, self._answer_limit)
        await self._show_all(self._outbox.take(limit, self.writer))

    async def _show_all(self, payloads: list[bytes]) -> None:
        for payload in payloads:
            await self._show(payload)
