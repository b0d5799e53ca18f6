"""Server-sent events on bytes, by the WHATWG rules: CR, LF and CRLF, comments, several data lines.

Bytes, not text lines: text iterators split on U+2028 and U+0085, which JSON may hold unescaped. The decoder is a push
decoder without I/O; its buffer is bounded.
"""

from proxy.errors import UpstreamError

# A frame with logprobs for a few tokens is some kB; 4 MiB leaves room for a non-streamed tool call and bounds memory.
MAX_EVENT_BYTES = 4 << 20

DONE = b"[DONE]"


class SSEDecoder:
    """Feed bytes, get the data payload of every finished event, in order."""

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max_event_bytes = max_event_bytes
        self._buffer = b""
        self._scanned = 0
        self._data: list[bytes] = []
        self._data_bytes = 0
        self._after_cr = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """Payloads of the events that `chunk` completes. Raises UpstreamError when an event is too large."""
        if self._after_cr and chunk:
            chunk = chunk.removeprefix(b"\n")
            self._after_cr = False
        if not self._buffer and b"\r" not in chunk:
            *lines, self._buffer = chunk.split(b"\n")  # the ordinary case, at C speed
            self._scanned = len(self._buffer)
        else:
            lines = self._split(chunk)
        events = [event for line in lines if (event := self._line(line)) is not None]
        if len(self._buffer) + self._data_bytes > self._max_event_bytes:
            raise UpstreamError(f"the upstream sent a stream event of more than {self._max_event_bytes} bytes")
        return events

    @property
    def is_mid_event(self) -> bool:
        """Whether bytes of an unfinished event are held: at the end of a stream they are a broken frame."""
        return bool(self._buffer or self._data)

    def _split(self, chunk: bytes) -> list[bytes]:
        buffer = self._buffer + chunk
        lines: list[bytes] = []
        start, at = 0, self._scanned
        while (end := _line_end(buffer, at)) >= 0:
            lines.append(buffer[start:end])
            start = end + (2 if buffer[end : end + 2] == b"\r\n" else 1)
            at = start
        self._after_cr = buffer.endswith(b"\r") and start == len(buffer)
        self._buffer = buffer[start:]
        self._scanned = len(self._buffer)
        return lines

    def _line(self, line: bytes) -> bytes | None:
        if not line:
            data, self._data, self._data_bytes = self._data, [], 0
            return b"\n".join(data) if data else None
        if line.startswith(b"data:"):
            value = line[5:]
            self._data.append(value[1:] if value[:1] == b" " else value)
            self._data_bytes += len(line)
        return None  # comments and the fields event, id and retry carry nothing for us


def _line_end(buffer: bytes, start: int) -> int:
    cr, lf = buffer.find(b"\r", start), buffer.find(b"\n", start)
    return max(cr, lf) if min(cr, lf) < 0 else min(cr, lf)


def encode(payload: bytes) -> bytes:
    """One event with this payload; a payload of several lines becomes several data lines."""
    if b"\n" not in payload and b"\r" not in payload:
        return b"data: " + payload + b"\n\n"
    lines = payload.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    return b"".join(b"data: " + line + b"\n" for line in lines) + b"\n"
