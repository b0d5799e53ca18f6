"""A scripted upstream on real sockets: replays traces as an engine would, resumes by script, fails on demand."""

from tests.upstream.script import (
    Fault,
    Framing,
    Generation,
    Script,
    ToolCall,
    Trace,
    default_continuation,
    on_chat,
    on_resume,
    render,
)
from tests.upstream.server import Abort, Received, ScriptedUpstream, refused_url, running

__all__ = [
    "Abort",
    "Fault",
    "Framing",
    "Generation",
    "Received",
    "Script",
    "ScriptedUpstream",
    "ToolCall",
    "Trace",
    "default_continuation",
    "on_chat",
    "on_resume",
    "refused_url",
    "render",
    "running",
]
