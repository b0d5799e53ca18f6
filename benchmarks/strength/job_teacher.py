"""A teacher of `steer train detector` as a scorer: OUT/teacher-N.safetensors with the tokenizer of OUT/artifact.

Each of the job's teachers left out one fold of the training conversations; one of them scores alone here.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from detector.context import Context, ContextEncoder, Message, request_key
from train.detector.data import LABELS
from train.detector.examples import WIDE_TOKENS
from train.detector.model import Sizes
from train.detector.teacher import Teacher, pair_tokens

_TOKENIZER = Path("artifact/tokenizer.json")


def is_job_folder(folder: Path) -> bool:
    """Whether the folder is the --out of a training job that made teachers."""
    return (folder / _TOKENIZER).is_file() and any(folder.glob("teacher-*.safetensors"))


class JobTeacher:
    """A classifier as `detector.scoring.ScoringQueue` takes one."""

    def __init__(self, folder: Path, threads: int) -> None:
        """Raises OSError or RuntimeError where the weights can't be read or are of another shape."""
        torch.set_num_threads(threads)
        weights = {name: value.float() for name, value in load_file(_first(folder)).items()}
        vocabulary, width = weights["words.weight"].shape
        inner = next(value for name, value in weights.items() if name.endswith(".up.weight")).shape[0]
        layers = len({name.split(".")[2] for name in weights if name.startswith("encoder.layers.")})
        self._model = Teacher(Sizes(width, width // 32, inner, 0, 0, 0, vocabulary, 0.0), layers)
        self._model.load_state_dict(weights)
        self._model.eval()
        self._encoder = ContextEncoder(Tokenizer.from_file(str(folder / _TOKENIZER)))

    @torch.inference_mode()
    def score(self, contexts: Sequence[Context]) -> list[float]:
        """The probability of a cue for each context, one pass each."""
        found = []
        for context in contexts:
            request = self._encoder.request(request_key(context.messages))
            wide = self._encoder.tail(context.reasoning_before, WIDE_TOKENS)
            segment = self._encoder.segment(context.reasoning_before, context.segment)
            tokens = pair_tokens(request, wide, segment)
            ids, types = (torch.from_numpy(part)[None] for part in (tokens.ids, tokens.types))
            logits = self._model(ids, types, torch.ones_like(ids, dtype=torch.bool))[0]
            found.append(float(torch.softmax(logits, dim=-1)[LABELS.index("C")]))
        return found

    def request_harm(self, messages: Sequence[Message]) -> float:
        """Nothing can be read ahead: request and segment are read together."""
        return 0.0


def _first(folder: Path) -> Path:
    return min(folder.glob("teacher-*.safetensors"))
