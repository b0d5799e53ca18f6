"""What a bake needs of the service, for one name and alias: records, versions, the lock, the engine. Blocks.

The other side of `train.bake.ports.Service`, which this package does not know: `steer/cli/bake.py` joins them.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, AsyncExitStack, aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import anyio
from sqlalchemy import Connection

from proxy.access.store import AccessStore
from proxy.adapters import changes
from proxy.adapters.changes import NewAdapter
from proxy.adapters.engine import AdapterEngine
from proxy.adapters.errors import NotAllowedNow, UnknownAdapter
from proxy.adapters.lock import held
from proxy.adapters.opening import open_engines
from proxy.adapters.registry import AdapterRegistry
from proxy.adapters.rows import read_adapter, read_route, read_routes
from proxy.errors import UpstreamError
from proxy.log.query import Filters
from proxy.log.setup import open_reader
from proxy.settings import Settings
from proxy.triggers.snapshots import newest_version, read_table
from proxy.upstream import UpstreamClient
from steer.adapter import passing_name

T = TypeVar("T")


class Loaded(NamedTuple):
    """One version in service."""

    id: str
    folder: Path
    is_loaded: bool


class Published(Protocol):
    """A candidate's files in their place."""

    @property
    def number(self) -> int: ...
    @property
    def folder(self) -> Path: ...
    @property
    def sha256(self) -> str: ...
    @property
    def manifest(self) -> dict[str, Any]: ...
    @property
    def gate(self) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class BakeDesk:
    """For one adapter name. Everything raises LogError, AdapterError or UpstreamError."""

    settings: Settings
    registry: AdapterRegistry
    name: str
    alias: str
    base_model: str
    actor: str

    def lock(self) -> AbstractContextManager[None]:
        """One bake at a time. Raises NotAllowedNow where another runs."""
        return held(self.registry, self.name)

    def export(self, target: Path) -> int:
        """Every finished record of the alias, oldest first, as JSONL; returns how many."""
        return anyio.run(self._export, target)

    async def _export(self, target: Path) -> int:
        names, written, part = (self.alias, self.base_model), 0, target.with_name(target.name + ".part")
        with part.open("w", encoding="utf-8") as sink:
            async with open_reader(self.settings.log) as reader, aclosing(reader.export()) as records:
                async for record in records:
                    if record.model in names and record.outcome != "open":
                        sink.write(record.model_dump_json() + "\n")
                        written += 1
        part.replace(target)
        return written

    def count(self) -> int:
        """Interventions of the base model in the log."""

        async def stats() -> int:
            async with open_reader(self.settings.log) as reader:
                return (await reader.stats(Filters(model=self.base_model))).interventions

        return anyio.run(stats)

    def triggers(self, target: Path) -> bool:
        """The newest selection table as a file, where triggers are adaptive; False: there is none."""
        if not self.settings.triggers.adaptive or not self.registry.read(newest_version):
            return False
        part = target.with_name(target.name + ".part")
        part.write_text(self.registry.read(read_table).model_dump_json(indent=2) + "\n", encoding="utf-8")
        part.replace(target)
        return True

    def opted_out(self) -> frozenset[str]:
        """Tenants whose traffic is not trained on."""
        with AccessStore.open(self.settings.log.url) as store:
            return store.opted_out()

    def champion(self) -> Loaded | None:
        """What serves the alias; None: the base model."""
        routes = {row.route.alias: row.route for row in self.registry.read(read_routes)}
        route = routes.get(self.alias)
        return None if route is None or route.champion is None else self.version(route.champion)

    def version(self, id: str) -> Loaded | None:
        """A version by its id; None where it was never registered."""
        try:
            adapter = self.registry.read(lambda c: read_adapter(c, id))
        except UnknownAdapter:
            return None
        return Loaded(id, Path(adapter.path), id in self._held())

    def _held(self) -> frozenset[str]:
        """What all engines hold; nothing where one is out of reach."""

        async def ask(engines: list[AdapterEngine]) -> frozenset[str]:
            return frozenset.intersection(*[await engine.holds() for engine in engines])

        try:
            return self._with_engines(ask)
        except UpstreamError:
            return frozenset()

    def next_number(self) -> int:
        """The number that the next version would get."""
        return self.registry.read(lambda c: changes.next_number(c, self.name))

    def register(self, made: Published) -> str:
        """A published candidate as the next version."""
        new = NewAdapter(
            self.name, self.alias, self.base_model, str(made.folder), made.sha256, made.manifest, made.gate
        )
        return self.registry.change(lambda c: changes.register(c, new, self.actor, made.number))

    def canary(self, id: str, weight: float, promote_after: int | None) -> str:
        """Give it its share of conversations; returns what was done, or why nothing was.

        One that has been given its share (a bake was killed right after) keeps it, also where a person has changed it.
        """

        def give(connection: Connection) -> bool:
            if read_route(connection, self.alias).route.candidate == id:
                return False
            changes.start_canary(connection, id, weight, self.actor, "baked", promote_after)
            return True

        try:
            is_new = self.registry.change(give)
        except NotAllowedNow as error:
            return f"no canary: {error}"
        if not is_new:
            return f"{id} is the candidate of {self.alias!r} already"
        return f"{id} takes {weight:.0%} of the conversations of {self.alias!r}"

    @contextmanager
    def lent(self, folder: Path, sha256: str) -> Iterator[str]:
        """A candidate in the engine under a passing name of its own, made of its hash: never another's weights."""
        name, place = passing_name(self.name, sha256), str(folder.resolve())

        async def load(engines: list[AdapterEngine]) -> None:
            for engine in engines:
                await engine.load(name, place)

        async def unload(engines: list[AdapterEngine]) -> None:
            for engine in engines:
                await engine.unload(name)

        self._with_engines(load)
        try:
            yield name
        finally:
            self._with_engines(unload)

    def _with_engines(self, work: Callable[[list[AdapterEngine]], Awaitable[T]]) -> T:
        async def run() -> T:
            async with _engines(self.settings) as engines:
                return await work(engines)

        return anyio.run(run)


@asynccontextmanager
async def _engines(settings: Settings) -> AsyncIterator[list[AdapterEngine]]:
    upstream = settings.upstream
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(
            UpstreamClient(
                upstream.url,
                api_key=None if upstream.api_key is None else upstream.api_key.get_secret_value(),
                connect_timeout_s=upstream.connect_timeout_s,
                read_timeout_s=upstream.read_timeout_s,
            )
        )
        yield await open_engines(settings, client, stack)
