"""Makes a copy of a request: the same messages, sampling, policy and triggers, asked of the version in shadow.

It is one choice (the first, where a client wants several), runs in a session of its own over connections of its own,
and is shown to nobody. What its engine and detector do is what a client's would.
"""

import uuid
from dataclasses import replace
from functools import partial

import anyio

from proxy.adapters.router import Routed
from proxy.chat import Exchange, now, open_legs
from proxy.errors import UpstreamError, UpstreamStatusError
from proxy.log.rows import now_us
from proxy.session import Session
from proxy.shadow.answer import Answer, CopyMade, Unusable
from proxy.shadow.meter import ShadowLog, ShadowMeter
from proxy.shadow.pool import Copy, ShadowPool
from proxy.upstream import UpstreamClient

# Of a request whose copy may wait in memory.
_MAX_BYTES = 1 << 20


class Copier:
    """One a process. `client`: the engine, over connections that no client's request waits for."""

    def __init__(self, pool: ShadowPool, client: UpstreamClient) -> None:
        self._pool = pool
        self._client = client
        self._turn = anyio.Semaphore(1)

    def request_is_over(self, exchange: Exchange, size: int) -> None:
        """Offer a copy where one was drawn. Not of tenants that are not trained on, nor of what no engine began."""
        shadowed, streams = exchange.routed.shadowed, exchange.routed.streams
        if shadowed is None or not streams or not exchange.admission.may_train:
            return
        if size > _MAX_BYTES:
            self._pool.drop(shadowed, "too_long")
            return
        first = streams[0]
        assert isinstance(first, Session), "filled by Exchange.session"
        self._pool.offer(Copy(shadowed, Answer.of(first), partial(self._run, exchange, shadowed.adapter)))

    async def _run(self, live: Exchange, adapter: str) -> CopyMade:
        log, meter = ShadowLog(), ShadowMeter(live.services.scorer, self._turn)
        services = live.services
        exchange = replace(
            live,
            services=replace(services, client=self._client, log=log, review=replace(services.review, sampler=None)),
            request=replace(live.request, body=live.request.body | {"model": adapter}, n=1),
            request_id=f"{live.request_id}-shadow",
            capabilities=await services.prober.of(adapter, live.headers),
            started=now(),
            routed=Routed(live.routed.base_model, adapter),
            meter=meter,
        )
        made_us = now_us()
        try:
            legs = await open_legs(exchange)
        except UpstreamStatusError as error:
            if error.status < 500:
                raise  # what it refuses says nothing of the version
            return self._made(exchange, live, made_us, Answer("failed", 0, 0), None, log)
        except UpstreamError:
            return self._made(exchange, live, made_us, Answer("failed", 0, 0), None, log)
        session = exchange.session(0, legs[0], _show_nobody)
        await session.run()
        answer = Answer.of(session)
        if meter.has_failed or answer is None:
            raise Unusable("unjudged")
        return self._made(exchange, live, made_us, answer, session.finish_reason, log)

    def _made(
        self,
        exchange: Exchange,
        live: Exchange,
        made_us: int,
        answer: Answer,
        finish_reason: str | None,
        log: ShadowLog,
    ) -> CopyMade:
        policy = exchange.admission.rules.policy
        row = {
            "id": f"c-{uuid.uuid4().hex}", "request_id": live.request_id, "created_us": made_us,
            "tenant": exchange.admission.identity.tenant, "mode": policy.mode, "model": exchange.routed.base_model,
            "adapter": exchange.routed.adapter, "champion": live.routed.adapter, "policy_hash": policy.digest(),
            "detector_hash": exchange.services.detector_hash, "finish_reason": finish_reason,
            "duration_ms": (now() - exchange.started) * 1e3,
        }  # fmt: skip
        halts = [(record, log.completions.get(id)) for id, record in log.records.items()]
        return CopyMade(answer, row, halts)


async def _show_nobody(_payload: bytes) -> None:
    pass
