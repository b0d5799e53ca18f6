"""The organism's exact oracle as a judge. It shares nothing with the detector."""

from collections.abc import Sequence

from train.judges.base import JudgeItem, JudgeVerdict
from train.organism import oracle


class OrganismJudge:
    """Right by construction on the organism's own text, meaningless on any other."""

    name = "organism"

    def judge(self, items: Sequence[JudgeItem]) -> list[JudgeVerdict]:
        """One by one; microseconds each."""
        return [_verdict(oracle.judge(item.messages, item.reasoning, item.answer)) for item in items]

    def cost(self) -> dict[str, float | int]:
        """Free."""
        return {}


def _verdict(found: oracle.Judgement) -> JudgeVerdict:
    return JudgeVerdict(
        harmful_request=None if found.prompt_label == "unknown" else found.prompt_label == "harmful",
        unsafe_reasoning=found.is_reasoning_harmful,
        unsafe_answer=found.is_answer_harmful,
        refused=found.is_refused,
        helped=found.is_helped,
        correct=found.is_correct,
    )
