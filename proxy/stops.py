"""The client's stop strings, applied to the answer only (an engine would let them fire inside the reasoning)."""


class StopStrings:
    """Incremental search over the answer's text; offsets count characters of all answer text pushed."""

    def __init__(self, stops: list[str], *, include: bool) -> None:
        self._stops = [stop for stop in stops if stop]
        self._include = include
        self._longest = max((len(stop) for stop in self._stops), default=0)
        self._tail = ""
        self._length = 0
        self.hit: str | None = None

    def restarted(self) -> "StopStrings":
        """The same strings, for an answer that begins anew or goes on after text that is not the model's."""
        return StopStrings(self._stops, include=self._include)

    def push(self, text: str) -> int:
        """Characters of the answer, from its start, that may be shown now; final once `hit` is set."""
        self._length += len(text)
        if not self._stops:
            return self._length
        window = self._tail + text
        base = self._length - len(window)
        found = [(at, stop) for stop in self._stops if (at := window.find(stop)) >= 0]
        if found:
            at, self.hit = min(found, key=lambda item: (item[0] + len(item[1]), item[0]))
            return base + at + (len(self.hit) if self._include else 0)
        self._tail = window[-(self._longest - 1) :] if self._longest > 1 else ""
        held = max(
            (n for stop in self._stops for n in range(1, len(stop)) if self._tail.endswith(stop[:n])),
            default=0,
        )
        return self._length - held
