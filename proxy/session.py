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

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, assert_never

import anyio

from proxy.errors import UpstreamError
from proxy.frames import ChunkWriter, Delta
from proxy.journal import Journal, Log
from proxy.judge import MAX_UNDECIDED, Judge
from proxy.leg_state import LegEnd, LegState
from proxy.legs import Leg
from proxy.log.errors import LogError
from proxy.meter import Meter
from proxy.records import Transcript
from proxy.resumer import Resumer
from proxy.review.sampling import SampledChoice
from proxy.shown import Outbox
from proxy.stops import StopStrings
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

_INBOX_ITEMS = 8

Show = Callable[[bytes], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class _Batch:
    leg: int
    deltas: list[Delta]


@dataclass(frozen=True, slots=True)
class _End:
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
        meter: Meter,
        log: Log,
        show: Show,
        stops: StopStrings,
        shows_interventions: bool,
        reveals_rejected: bool,
        hides_reasoning: bool,
        forwards_end: bool,
        forwards_usage: bool,
        sample: SampledChoice | None = None,
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
        self._meter = meter
        self._judge = Judge(meter, transcript.context_messages, transcript.request_id)
        self._log = log
        self._show = show
        self._shows_interventions = shows_interventions
        self._reveals = reveals_rejected
        self._forwards_end = forwards_end
        self._forwards_usage = forwards_usage
        self._sample = sample
        self._outbox = Outbox(hides_reasoning=hides_reasoning)
        self._hides_reasoning = hides_reasoning
        self._leg = LegState(0, first_leg, resumer.marker_ids, stops)
        self._is_refused = False
        self._is_resume_lost = False
        self.num_first_shown: int | None = None  # ids of the first leg that are shown, where not all are
        self._send, self._inbox = anyio.create_memory_object_stream[_Batch | _End | Verdict](_INBOX_ITEMS)
        self._room = anyio.Event()
        self._reader_scope = anyio.CancelScope()

    async def run(self) -> None:
        """To the end. Returns normally however the upstream, detector or log behave; cancellation closes everything."""
        with self._send, self._inbox:
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                self._journal = Journal(self._log, tasks)
                try:
                    tasks.start_soon(self._judge.prepare)
                    self._start_reader()
                    await self._loop()
                    if self._journal.record is not None:  # monitor mode, which made no client wait for it
                        self._journal.close(
                            self.transcript.completion("observed", self.finish_reason, self._leg.tokens)
                        )
                    await self._settle()
                    self._offer_sample()
                finally:
                    self._leg.leg.close()
                    self._close_records()
                    self._meter.ended(upstream_failed=self.error is not None)
                tasks.cancel_scope.cancel()

    def _close_records(self) -> None:
        """The stream ended before its time: what was halted is recorded all the same, as far as it got."""
        if self.transcript.pending_halt is not None:
            self._close_superseded()
            self._journal.open(self.transcript.abandoned(self._leg.uncut_tokens))
        if self._journal.record is not None:
            outcome: Outcome = "observed" if self.engine.policy.mode == "monitor" else "client_left"
            self._journal.close(self.transcript.completion(outcome, self.finish_reason, self._leg.uncut_tokens))

    def _offer_sample(self) -> None:
        """Of a choice that nothing halted, and that ended by itself."""
        is_untouched = self.transcript.record is None and not self._is_refused
        if self._sample is not None and is_untouched and self.finish_reason not in (None, "error"):
            self._sample.ended(self.transcript, self._leg.tokens, self.finish_reason)

    async def _loop(self) -> None:
        while not self.engine.is_closed or self.engine.num_undecided:
            if self._leg.backlog and self.engine.num_undecided < MAX_UNDECIDED:
                await self._take_next()
                continue
            self._room.set()  # the reader looks for itself whether there is any
            match await self._inbox.receive():
                case Verdict() as verdict:
                    await self._act(self.engine.feed(verdict))
                case _Batch(number, deltas) if number == self._leg.number and self._takes_text:
                    self._leg.receive(deltas)
                case _End(number, error) if number == self._leg.number and self._takes_text:
                    self._leg.backlog.append(LegEnd(error))
                case _:
                    pass  # of a leg that has been cut

    @property
    def _takes_text(self) -> bool:
        return not self.engine.is_closed and self._leg.stops.hit is None and not self._leg.is_ended

    @property
    def is_rewritten(self) -> bool:
        """Whether the client gets something else than the engine sent."""
        return self.engine.interventions > 0 or self._is_refused or self._leg.stops.hit is not None

    @property
    def was_halted(self) -> bool:
        """Whether a cue was found."""
        return self.transcript.record is not None or self.transcript.pending_halt is not None

    @property
    def has_shown_usage(self) -> bool:
        """Whether the engine's own usage frame went to the client."""
        return self._forwards_usage and self.usage_seen is not None and not self.is_rewritten

    @property
    def generated_tokens(self) -> int:
        """Tokens that the engine generated over all legs, discarded ones included."""
        current = 0 if self._leg.is_cut else self._leg.tokens.num_tokens
        return self.transcript.generated_tokens + current

    @property
    def shown_ids(self) -> list[int]:
        """Ids behind what the client was shown, triggers included."""
        return self.transcript.ids + self._leg.client_ids

    # -- a leg --------------------------------------------------------------------------------------------------------

    def _start_reader(self) -> None:
        self._reader_scope = anyio.CancelScope()
        self._tasks.start_soon(self._read, self._leg, self._reader_scope)

    async def _read(self, state: LegState, scope: anyio.CancelScope) -> None:
        """Reader task: deltas of one leg into the inbox, no faster than segments are decided."""
        leg, error = state.leg, None
        with scope:
            try:
                if state.number > 0:  # the first leg was opened by the request handler, which needed its status
                    await leg.open()
                async for deltas in leg.batches():
                    if any(delta.text for delta in deltas):
                        self._meter.text_came()
                    await self._send.send(_Batch(state.number, deltas))
                    while state.backlog or self.engine.num_undecided >= MAX_UNDECIDED:
                        self._room = anyio.Event()
                        await self._room.wait()
            except UpstreamError as broken:
                error = broken
            except Exception:  # whatever an engine may send, the client gets a valid end
                logger.exception("request %s: the upstream's stream could not be read", self.transcript.request_id)
                error = UpstreamError("the upstream sent something that the proxy cannot read")
            finally:
                leg.close()
            await self._send.send(_End(state.number, error))

    async def _take_next(self) -> None:
        item = self._leg.backlog.popleft()
        if not self._takes_text:
            self._leg.backlog.clear()
        elif isinstance(item, LegEnd):
            await self._end_leg(item.error)
        else:
            await self._take_one(item)

    async def _take_one(self, delta: Delta) -> None:
        leg = self._leg
        if delta.prompt_token_ids is not None and leg.number == 0:
            self.transcript.prompt_ids = delta.prompt_token_ids
        if delta.finish_reason is not None and leg.end_frame is None:
            leg.end_frame = delta
        if delta.is_usage and leg.number == 0:
            self.usage_seen, self.usage_payload = delta.usage, delta.payload
            if not self._forwards_usage:
                delta.payload = None
        self._outbox.add(delta, leg.length, leg.length + len(delta.text) + delta.num_held)
        for piece in delta.pieces:
            text = leg.feed(piece)
            self.transcript.add(piece.channel, text)
            await self._act(self.engine.feed(TextDelta(piece.channel, text)))
            if leg is not self._leg or self.engine.is_closed:
                return
            if leg.stops.hit is not None:
                await self._stop_here()
                return
        await self._flush()

    async def _stop_here(self) -> None:
        """A stop string: the leg ends here as if the engine had stopped."""
        self._close_leg()
        self._leg.is_ended = True
        await self._end_shown_at(self._leg.end)
        await self._act(self.engine.feed(StreamEnd("stop")))

    async def _end_shown_at(self, at: int) -> None:
        """No text of the leg is shown from `at` on, so no id behind it is either."""
        await self._leg.end_shown_at(at, self._resumer.decode)
        if self._leg.number == 0:
            self.num_first_shown = len(self._leg.client_ids)

    def _close_leg(self) -> None:
        """Close the upstream at once, and stop reading."""
        self._leg.leg.close()
        self._reader_scope.cancel()

    async def _end_leg(self, error: UpstreamError | None) -> None:
        leg = self._leg
        leg.is_ended = True
        if error is not None:
            self.error = error
            if leg.number > 0 and not leg.has_text and leg.tokens.num_tokens == 0:
                logger.warning("request %s: cannot resume: %s", self.transcript.request_id, error)
                await self._act(self.engine.feed(CannotResume()))
                return
            await self._act(self.engine.feed(StreamEnd("error")))
            return
        reason = leg.end_frame.finish_reason if leg.end_frame is not None else None
        if reason == "error":
            self.error = UpstreamError("the upstream reports that it failed while generating")
        await self._act(self.engine.feed(StreamEnd(reason or "stop")))

    # -- orders -------------------------------------------------------------------------------------------------------

    async def _act(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Release(up_to):
                    self._leg.released = up_to
                    await self._flush()
                    if up_to:
                        self._meter.text_shown()
                case Classify():
                    self._tasks.start_soon(self._classify, action)
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

    async def _classify(self, segment: Classify) -> None:
        """Judge task: one segment through the detector."""
        leg, started = self._leg, self.transcript.now_ms()
        async with self._judge.room:
            if leg is not self._leg:
                return  # of a leg that has been cut
            score = await self._judge.score(segment)
        self.transcript.verdict_ms[segment.segment_id] = self.transcript.now_ms() - started
        if self._sample is not None:
            self._sample.scored(segment, score)
        await self._send.send(Verdict(segment.segment_id, score))

    async def _observe(self, observe: Observe) -> None:
        """Between events is exact enough for a stream, which is not made to wait; a body is one event alone."""
        cut = None if self._forwards_end else await self._leg.tokens.cut(observe.start, self._resumer.decode)
        self._journal.open(self.transcript.observed(observe, self._leg.tokens, cut))

    async def _halt(self, halt: Halt) -> None:
        leg = self._leg
        self._close_leg()
        self.transcript.halted(halt)
        cut = await leg.tokens.cut(halt.at, self._resumer.decode)
        await self._show_all(self._outbox.cut(cut.kept_chars, leg.tokens.num_inside(len(cut.kept_ids)), self.writer))
        if leg.number == 0:
            self.num_first_shown = len(cut.kept_ids)
        if leg.call_start is not None and cut.kept_chars > leg.call_start:
            self._is_resume_lost = True  # a trigger would stand in the middle of a tool call
        self.transcript.cut(cut, leg.tokens)
        leg.is_cut = True
        await self._act(self.engine.feed(Halted(cut.kept_chars)))

    def _close_superseded(self) -> None:
        """Another halt: the leg that the open record waited for has ended in it."""
        if self._journal.record is not None:
            self._journal.close(self.transcript.completion("halted_again", None))

    async def _splice(self, splice: Splice) -> None:
        trigger_ids: list[int] | None = []
        try:
            if not self._is_resume_lost:
                trigger_ids = await self._resumer.encode(splice.text)
        except UpstreamError as error:
            logger.warning("request %s: the trigger could not be encoded: %s", self.transcript.request_id, error)
            self._is_resume_lost = True
        self._close_superseded()
        self._journal.open(self.transcript.spliced(splice, trigger_ids))

    async def _resume(self, resume: Resume) -> None:
        """A new leg; one that can't be had leaves the old one behind all the same, for the engine counts from 0."""
        old = self._leg
        try:
            if self._is_resume_lost:
                raise UpstreamError("there is no prefix of ids to resume from")
            leg = self._resumer.leg(self.transcript, resume.channel)
        except UpstreamError as error:
            self.error = error
            self._leg = LegState(old.number + 1, old.leg, self._resumer.marker_ids, old.stops.restarted())
            await self._act(self.engine.feed(CannotResume()))
            return
        self._leg = LegState(old.number + 1, leg or old.leg, self._resumer.marker_ids, old.stops.restarted())
        if leg is not None:
            self._start_reader()
        else:
            self._leg.is_ended = True  # the client's token budget is spent
        await self._show_trigger(resume)
        if leg is None and not self.engine.is_closed:
            await self._act(self.engine.feed(StreamEnd("length")))

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
        self._meter.text_shown()

    async def _refuse(self, refuse: Refuse) -> None:
        self._is_refused = True
        self._meter.refused(refuse.cause)
        self._close_leg()
        logger.warning("request %s: refused: %s", self.transcript.request_id, refuse.cause)
        in_reasoning = self._is_reasoning_at(refuse.at)
        if not self._leg.is_cut:
            await self._end_shown_at(refuse.at)
        if self.transcript.pending_halt is not None:
            self._close_superseded()
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
        self._meter.text_shown()

    def _is_reasoning_at(self, at: int) -> bool:
        """Whether the client, shown the leg up to `at`, is left inside the reasoning."""
        if self._leg.length == 0:  # nothing of this leg: the trigger was the last that was shown
            return self.transcript.in_reasoning
        return self._leg.is_reasoning_at(at)

    async def _finish(self, reason: str) -> None:
        """Complete the record, then let the end be seen."""
        self.finish_reason = reason
        if self.engine.policy.mode != "monitor":
            if self._journal.record is not None:
                self._journal.close(self.transcript.completion(self._outcome(reason), reason, self._leg.uncut_tokens))
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
        end_frame = self._leg.end_frame
        stop_reason = self._leg.stops.hit or (end_frame.stop_reason if end_frame else None)
        if not self._is_refused:
            await self._show_all(self._outbox.cut(self._leg.end, 0, self.writer))
            if end_frame is not None and end_frame.tool_calls:
                await self._show(self.writer.delta({"tool_calls": end_frame.tool_calls}))
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
        if self._writer is None or self._leg.number == 0:
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
        await self._show_all(self._outbox.take(self._leg.show_limit, self.writer))

    async def _show_all(self, payloads: list[bytes]) -> None:
        for payload in payloads:
            await self._show(payload)
