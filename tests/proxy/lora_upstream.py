"""A scripted upstream that takes adapters at run time, as vLLM does; its scripts see which one is asked for."""

from collections import Counter
from typing import Any

import anyio

from tests.upstream import Generation, Script, ScriptedUpstream
from tests.upstream.wire import Connection, dump

FREE_WRITES = 16  # head, role and some tokens: enough for a first sentence

ADAPTER = "served_as"  # the key under which a generation's body tells the adapter


def adapter_of(generation: Generation) -> str | None:
    """The adapter that a generation was asked of; None: the base model."""
    return generation.body.get(ADAPTER)


class _Gated(Connection):
    """A connection whose writes stand still after the first few until the gate opens."""

    def __init__(self, inner: Connection, gate: anyio.Event) -> None:
        self.__dict__.update(inner.__dict__)  # the same stream and buffers
        self._gate = gate
        self._writes = 0

    async def write(self, data: bytes, size: int | None = None) -> None:
        self._writes += 1
        if self._writes > FREE_WRITES:
            await self._gate.wait()
        await super().write(data, size)


class LoraUpstream(ScriptedUpstream):
    """`adapters`: loaded names and their paths; `loads`: loads and unloads in order; `refuses`: paths it won't load;
    `breaks_on`: paths whose files it can't read, which vLLM calls an error of its own; `is_dying`: its engine is dead.

    `gate`: while it is set, streams stand still in the middle until it opens. `open`: generations in work by adapter;
    `unloaded_under`: adapters that were unloaded with one in work.
    """

    def __init__(self, script: Script | None = None, port: int = 0) -> None:
        super().__init__(script, port)
        self.adapters: dict[str, str] = {}
        self.loads: list[tuple[str, str]] = []
        self.refuses: set[str] = set()
        self.breaks_on: set[str] = set()
        self.is_dying = False
        self.gate: anyio.Event | None = None
        self.open: Counter[str] = Counter()
        self.unloaded_under: set[str] = set()

    def restart(self) -> None:
        """What a restart leaves of adapters."""
        self.adapters.clear()

    async def _generate(self, connection: Connection, generation: Generation) -> None:
        name, gate = adapter_of(generation) or "", None if generation.is_probe else self.gate
        self.open[name] += 1
        try:
            await super()._generate(connection if gate is None else _Gated(connection, gate), generation)
        finally:
            self.open[name] -= 1

    async def _get(self, connection: Connection, path: str) -> None:
        if path == "/health" and self.is_dying:
            await connection.answer(503, b"")
            return
        if path != "/v1/models":
            await super()._get(connection, path)
            return
        base = {"id": self.script.model, "object": "model", "max_model_len": self.script.max_model_len, "parent": None}
        cards = [
            {"id": name, "object": "model", "max_model_len": None, "parent": self.script.model, "root": where}
            for name, where in self.adapters.items()
        ]
        await connection.answer(200, dump({"object": "list", "data": [base, *cards]}))

    async def _post(self, connection: Connection, path: str, body: dict[str, Any]) -> None:
        name = str(body.get("lora_name"))
        match path:
            case "/v1/load_lora_adapter" if name in self.adapters or body["lora_path"] in self.refuses:
                said = f"The lora adapter '{name}' can not be loaded."
                await connection.answer(400, dump({"error": {"message": said, "type": "BadRequestError", "code": 400}}))
            case "/v1/load_lora_adapter" if self.is_dying or body["lora_path"] in self.breaks_on:
                self.loads.append(("break", name))
                said = "Call to add_lora method failed: Error while deserializing header"
                await connection.answer(500, dump({"error": {"message": said, "type": "InternalServerError"}}))
            case "/v1/load_lora_adapter":
                self.adapters[name] = str(body["lora_path"])
                self.loads.append(("load", name))
                await connection.answer(200, f"Success: LoRA adapter '{name}' added successfully.".encode())
            case "/v1/unload_lora_adapter" if self.adapters.pop(name, None) is not None:
                self.loads.append(("unload", name))
                self.unloaded_under |= {name} if self.open[name] else set()
                await connection.answer(200, f"Success: LoRA adapter '{name}' removed successfully.".encode())
            case _ if body.get("model") in self.adapters:
                await super()._post(connection, path, body | {"model": self.script.model, ADAPTER: body["model"]})
            case _:
                await super()._post(connection, path, body)
