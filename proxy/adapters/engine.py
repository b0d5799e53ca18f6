"""The engine's side of adapters: which it holds, loading and unloading, over vLLM's own routes.

Rules kept here: a name is loaded with one set of weights for as long as it exists (`steer.adapter` gives numbers once);
"already loaded" and "not loaded" are what was wanted; an engine that is out of reach is not one that refuses. Of files
that it can't read, vLLM says status 500: from an engine that is healthy otherwise, this is a refusal.
vLLM must run with `--enable-lora` and VLLM_ALLOW_RUNTIME_LORA_UPDATING=1, and see the files under the same path.
"""

import json

from proxy.adapters.errors import EngineRefused
from proxy.errors import UpstreamError, UpstreamStatusError
from proxy.upstream import UpstreamClient

_SHOWN_CHARS = 300


class AdapterEngine:
    """One engine. Raises UpstreamError where it can't be reached, EngineRefused where it says no."""

    def __init__(self, client: UpstreamClient) -> None:
        self._client = client

    @property
    def url(self) -> str:
        """Where it is, for messages."""
        return self._client.base_url

    async def holds(self) -> frozenset[str]:
        """Every model name that it answers to, adapters among them."""
        try:
            listed = json.loads(await self._client.get("/v1/models"))["data"]
            return frozenset(str(item["id"]) for item in listed)
        except (ValueError, KeyError, TypeError) as error:
            raise UpstreamError(f"{self.url}/v1/models is not an OpenAI model list") from error

    async def load(self, id: str, path: str) -> None:
        """Load a version under its own name."""
        await self._ask("/v1/load_lora_adapter", {"lora_name": id, "lora_path": path}, id, "load", is_there=True)

    async def unload(self, id: str) -> None:
        """Unload a version."""
        await self._ask("/v1/unload_lora_adapter", {"lora_name": id}, id, "unload", is_there=False)

    async def _ask(self, route: str, body: dict[str, str], id: str, verb: str, *, is_there: bool) -> None:
        try:
            await self._client.post(route, body)
        except UpstreamStatusError as error:
            if error.status > 500:
                raise
            if error.status == 500:
                await self._client.get("/health")  # raises where the engine is dying
            if (id in await self.holds()) is is_there:
                return
            hint = ""
            if error.status in (404, 405):
                hint = "; start it with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=1"
            said = error.body[:_SHOWN_CHARS].decode("utf-8", "replace")
            raise EngineRefused(f"{self.url} will not {verb} {id}: status {error.status}, {said}{hint}") from error
