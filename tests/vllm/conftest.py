"""Makes the session's vLLM server known to the tests here."""

from tests.vllm.fixture import vllm_server

__all__ = ["vllm_server"]
