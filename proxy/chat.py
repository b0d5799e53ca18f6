"""`POST /v1/chat/completions`: one request, its n choices, as an event stream or as a body.

The request is checked (`proxy.guard`), every choice gets a session of its own (one upstream request each, so that a
halt aborts one choice and not its neighbours), and what the sessions show is written to the client. Errors before the
first byte are HTTP errors in OpenAI's shape, the engine's own passed on as they are; later ones are an error event and
a valid end of the stream.
"""

import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import anyio
from starlette.types import Receive, Scope, Send

from detector.context import Message
from proxy.access.gate import Admission, Gate
from proxy.adapters.router import Routed, Router, with_adapter
from proxy.bodies import BodyCollector, merged_usage
from proxy.capabilities import Capabilities, Prober
from proxy.client import Answered, StreamWriter, run_until_client_leaves, stuck_client
from proxy.errors import UpstreamError, openai_error
from proxy.frames import ChatReader, ChunkWriter, Relabel
from proxy.guard import ChatRequest
from proxy.journal import Log
from proxy.judge import Scorer
from proxy.legs import BodyLeg, ChatLeg, Target
from proxy.log import RequestCounts
from proxy.meter import Meter, StreamMeter
from proxy.metrics import Metrics
from proxy.records import Origin, Transcript
from proxy.responses import send_json
from proxy.resume import first_body
from proxy.resumer import Resumer
from proxy.review.opening import Review
from proxy.scrape import MetricsPage
from proxy.session import Session, Show
from proxy.shadow.api import AdaptersApi
from proxy.stops import StopStrings
from proxy.tally import tally
from proxy.think import ThinkMarkers, ThinkSplitter
from proxy.triggers.opening import Triggers
from proxy.triggers.selector import Selection
from proxy.upstream import UpstreamClient
from steer.engine import Engine

logger = logging.getLogger("steer.proxy")


class Copier(Protocol):
    """Shadow mode (`proxy.shadow`), as requests know it."""

    def request_is_over(self, exchange: "Exchange", size: int) -> None:
        """A request of so many bytes has been answered, or left. Returns at once, and never raises."""


@dataclass(frozen=True, slots=True)
class Services:
    """What requests share, made once at start-up."""

    client: UpstreamClient
    prober: Prober
    scorer: Scorer
    log: Log
    note: Callable[[RequestCounts], None]
    gate: Gate
    markers: ThinkMarkers
    detector_hash: str
    reveals_rejected: bool
    metrics: Metrics
    metrics_page: MetricsPage | None
    router: Router
    review: Review
    triggers: Triggers
    copier: Copier
    adapters_api: AdaptersApi


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request being served. `meter` None: it counts as a client's."""

    services: Services
    admission: Admission
    request: ChatRequest
    request_id: str
    headers: Mapping[str, str]
    capabilities: Capabilities
    started: float
    seed: int
    routed: Routed
    selection: Selection
    relabel: Relabel = field(default_factory=Relabel)
    meter: Meter | None = None

    def session(self, choice: int, leg: ChatLeg | BodyLeg, show: Show) -> Session:
        """The session of one choice, on its opened first leg."""
        services, request = self.services, self.request
        resumer = Resumer(services.client, self.capabilities, services.markers, request, self.headers, choice)
        engine = Engine(
            self.admission.rules.policy,
            self.selection.pool,
            self.seed + choice,
            can_resume=resumer.can_resume,
            watch_answer=request.hide_reasoning,
        )
        source = leg.reader if isinstance(leg, ChatLeg) else leg
        session = Session(
            engine=engine,
            first_leg=leg,
            make_writer=lambda: ChunkWriter(
                source.head, choice, source.reasoning_field, with_ids=request.client_wants_token_ids
            ),
            resumer=resumer,
            transcript=Transcript(self._origin(choice), self._context_messages(), self.started),
            meter=self.meter
            or StreamMeter(
                services.scorer,
                services.metrics,
                choice=choice,
                streams=request.stream,
                threshold=self.admission.rules.policy.threshold,
            ),
            log=services.log,
            show=show,
            stops=StopStrings(request.stop, include=bool(request.body.get("include_stop_str_in_output"))),
            shows_interventions=request.show_interventions,
            reveals_rejected=services.reveals_rejected,
            hides_reasoning=request.hide_reasoning,
            forwards_end=request.stream,
            forwards_usage=request.stream and request.n == 1,
            sample=services.review.sample(self.request_id, self.admission),
        )
        self.routed.streams.append(session)
        return session

    def spend(self, sessions: list[Session]) -> None:
        """Tell the gate what the request has used, discarded tokens too: the engine has generated them."""
        prompt = len(sessions[0].transcript.prompt_ids or ())
        self.admission.spend_tokens(prompt + sum(session.generated_tokens for session in sessions))

    def leg(self, choice: int) -> ChatLeg | BodyLeg:
        """The first leg of one choice, not opened yet."""
        request, capabilities, markers = self.request, self.capabilities, self.services.markers
        body = first_body(request, capabilities, choice, stream=request.stream)
        target = Target(self.services.client, "/v1/chat/completions", body, self.headers)
        keep_ids = request.client_wants_token_ids

        def is_open(ids: list[int]) -> bool:
            return capabilities.is_thinking_open(ids) is True

        if request.stream:
            reader = ChatReader(
                markers,
                ids_as_null=capabilities.ids_as_null,
                keep_ids=keep_ids,
                is_open=is_open,
                withholds_unread=self.admission.rules.policy.mode != "monitor",
                relabel=partial(self.relabel.chunk, index=choice) if request.n > 1 else None,
            )
            return ChatLeg(target, reader)
        return BodyLeg(
            target,
            lambda ids: ThinkSplitter(markers, "reasoning" if is_open(ids) else "start"),
            ids_as_null=capabilities.ids_as_null,
            keep_ids=keep_ids,
            withholds_unread=self.admission.rules.policy.mode != "monitor",
        )

    def _origin(self, choice: int) -> Origin:
        body, policy, routed = self.request.body, self.admission.rules.policy, self.routed
        sampled = (
            "temperature",
            "top_p",
            "top_k",
            "min_p",
            "max_tokens",
            "max_completion_tokens",
            "seed",
            "n",
        )
        return Origin(
            request_id=self.request_id,
            choice=choice,
            tenant=self.admission.identity.tenant,
            model=routed.base_model,
            adapter=routed.adapter,
            category=self.selection.category,
            trigger_snapshot=self.selection.table,
            mode=policy.mode,
            policy_hash=policy.digest(),
            detector_hash=self.services.detector_hash,
            messages=self.request.messages,
            tools=body.get("tools"),
            sampling={name: body[name] for name in sampled if name in body},
        )

    def _context_messages(self) -> tuple[Message, ...]:
        return tuple(self.request.messages)


async def open_legs(exchange: Exchange) -> list[ChatLeg | BodyLeg]:
    """All first legs, opened; when one fails the others are closed. Raises UpstreamStatusError, UpstreamError."""
    legs = [exchange.leg(choice) for choice in range(exchange.request.n)]
    failures: list[UpstreamError] = []

    async def open_one(leg: ChatLeg | BodyLeg) -> None:
        try:
            await leg.open()
        except UpstreamError as error:
            failures.append(error)

    try:
        async with anyio.create_task_group() as tasks:
            for leg in legs:
                tasks.start_soon(open_one, leg)
    except BaseException:
        for leg in legs:
            leg.close()
        raise
    if failures:
        for leg in legs:
            leg.close()
        raise failures[0]
    return legs


@asynccontextmanager
async def run_all(exchange: Exchange, sessions: list[Session]) -> AsyncIterator[None]:
    """Runs the sessions of a request; the block begins once all of them have finished what their clients see."""
    try:
        async with anyio.create_task_group() as tasks:
            for session in sessions:
                tasks.start_soon(session.run)
            for session in sessions:
                await session.finished.wait()
            yield
    finally:
        exchange.spend(sessions)
        exchange.services.note(tally(sessions))


async def stream_chat(exchange: Exchange, receive: Receive, send: Send) -> None:
    """Serve a streamed request whose body has been checked. Raises before the first byte only."""
    headers = [
        (b"content-type", b"text/event-stream; charset=utf-8"),
        (b"cache-control", b"no-cache"),
        (b"x-accel-buffering", b"no"),
        (b"x-request-id", exchange.request_id.encode()),
    ]
    writer = StreamWriter(send, with_adapter(headers, exchange.routed))

    async def work(answered: Answered) -> None:
        legs = await open_legs(exchange)
        sessions = [exchange.session(choice, leg, writer.event) for choice, leg in enumerate(legs)]
        async with run_all(exchange, sessions):
            answered.is_complete = True
            await _end_stream(exchange, sessions, writer)

    try:
        await run_until_client_leaves(receive, work)
    except Exception as failure:
        if not writer.has_started:
            raise
        if (stuck := stuck_client(failure)) is not None:
            logger.warning("request %s: %s", exchange.request_id, stuck)
            return
        logger.exception("request %s failed", exchange.request_id)
        error = openai_error(500, "the proxy failed to finish this stream; its log says why", code="internal_error")
        await writer.event(json.dumps(error).encode())
        await writer.end()


async def _end_stream(exchange: Exchange, sessions: list[Session], writer: StreamWriter) -> None:
    failed = next((session.error for session in sessions if session.finish_reason == "error"), None)
    if failed is not None:
        await writer.event(json.dumps(failed.to_openai(), ensure_ascii=False).encode())
    elif exchange.request.include_usage and not sessions[0].has_shown_usage:
        await writer.event(_usage_chunk(sessions))
    await writer.end()


def _usage_chunk(sessions: list[Session]) -> bytes:
    """The engine's own usage chunk with the usage of all legs and choices in it; one of ours where it sent none."""
    usage = merged_usage(sessions)
    own = sessions[0].usage_payload
    if own is None:
        return sessions[0].writer.usage(usage)
    return json.dumps(json.loads(own) | {"usage": usage}, ensure_ascii=False, separators=(",", ":")).encode()


async def complete_chat(exchange: Exchange, receive: Receive, send: Send) -> None:
    """Serve a request that is not streamed. Raises UpstreamError before the first byte."""

    async def work(answered: Answered) -> None:
        legs = await open_legs(exchange)
        collectors = [BodyCollector(choice) for choice in range(len(legs))]
        sessions = [
            exchange.session(choice, leg, collector.add)
            for choice, (leg, collector) in enumerate(zip(legs, collectors, strict=True))
        ]
        async with run_all(exchange, sessions):
            headers: MutableMapping[str, str] = {"x-request-id": exchange.request_id}
            if exchange.routed.adapter is not None:
                headers["x-steer-adapter"] = exchange.routed.adapter
            failed = next((session.error for session in sessions if session.finish_reason == "error"), None)
            if failed is not None:
                raise failed
            raw = [leg.raw for leg in legs if isinstance(leg, BodyLeg)]
            body = raw[0] if len(raw) == 1 else b""
            hides = exchange.request.hide_reasoning
            if hides or len(sessions) > 1 or sessions[0].is_rewritten:
                body = BodyCollector.assemble(collectors, sessions, raw, hides_reasoning=hides)
            if exchange.request.show_interventions:
                headers["x-steer-interventions"] = str(sum(session.engine.interventions for session in sessions))
            answered.is_complete = True
            await send_json(send, 200, body, headers)

    await run_until_client_leaves(receive, work)


def now() -> float:
    """The clock of timings: monotonic seconds."""
    return time.monotonic()


def parse_scope(scope: Scope) -> dict[str, str]:
    """Headers that go on to the upstream: the client's own authorization, and nothing else."""
    keys = [value for name, value in scope["headers"] if name.lower() == b"authorization"]
    return {"Authorization": keys[-1].decode("latin-1")} if keys else {}
