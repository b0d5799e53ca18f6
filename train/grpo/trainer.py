"""TRL's GRPOTrainer on prompts that are ids already, with the guards that all trainers here have."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from trl.trainer.grpo_trainer import GRPOTrainer

from train.ipo.loop import Guarded


class _NoText(logging.Filter):
    """TRL logs a completion that earned no reward, in full; such turns are counted instead (`unjudged`)."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().partition("] ")[2].startswith("All reward functions returned None")


logging.getLogger(GRPOTrainer.__module__).addFilter(_NoText())


class GuardedGRPOTrainer(Guarded, GRPOTrainer):
    """A row's `prompt` is the id of a prompt: the text is rendered and encoded once, before, and is in no log."""

    def __init__(self, *args: Any, prompt_ids: Mapping[str, list[int]], **kwargs: Any) -> None:
        self._prompt_ids = prompt_ids
        super().__init__(*args, **kwargs)

    def _tokenize_prompts(self, prompts: Sequence[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return [list(self._prompt_ids[id]) for id in prompts], None, {}
