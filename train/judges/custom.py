"""A function of one's own as a judge: "module:name", a list of JudgeItem in, a list of JudgeVerdict (or dicts) out."""

import importlib
from collections.abc import Sequence

from pydantic import ValidationError

from train.judges.base import JudgeItem, JudgeVerdict
from train.judges.errors import JudgeConfigError


class FunctionJudge:
    """Calls the function with batches. Raises JudgeConfigError for a function that can't be imported."""

    def __init__(self, spec: str) -> None:
        module, _, name = spec.partition(":")
        try:
            function = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise JudgeConfigError(f"judge {spec!r} can't be imported ({error}); give it as module:name") from error
        if not callable(function):
            raise JudgeConfigError(f"judge {spec!r} is not callable")
        self._function = function
        self.name = f"function:{spec}"

    def judge(self, items: Sequence[JudgeItem]) -> list[JudgeVerdict]:
        """Raises JudgeConfigError where the function gives something else than one verdict each."""
        given = list(self._function(list(items)))
        if len(given) != len(items):
            raise JudgeConfigError(f"judge {self.name} gave {len(given)} verdicts for {len(items)} items")
        try:
            return [v if isinstance(v, JudgeVerdict) else JudgeVerdict.model_validate(v) for v in given]
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "verdict"
            raise JudgeConfigError(f"judge {self.name} gave no verdict: {where}: {first['msg']}") from error

    def cost(self) -> dict[str, float | int]:
        """Unknown here."""
        return {}
