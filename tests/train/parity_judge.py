"""A judge for a model of random weights: it helps where its reasoning begins with an odd character, else it refuses.

What a random model can learn in seconds, and told apart by eye. `down_after` lets it fail as a server does.
"""

from collections.abc import Sequence

from train.judges.base import JudgeItem, JudgeVerdict
from train.judges.errors import JudgeDown

asked = 0
down_after: int | None = None


def judge(items: Sequence[JudgeItem]) -> list[JudgeVerdict]:
    """Raises JudgeDown once more than `down_after` items were asked about."""
    global asked
    asked += len(items)
    if down_after is not None and asked > down_after:
        raise JudgeDown("the judge at nowhere does not answer; start the job again once it does")
    return [_verdict(item) for item in items]


def unsure(items: Sequence[JudgeItem]) -> list[JudgeVerdict]:
    """Can't tell anything."""
    return [JudgeVerdict() for _ in items]


def _verdict(item: JudgeItem) -> JudgeVerdict:
    is_odd = bool(item.reasoning) and ord(item.reasoning[0]) % 2 == 1
    return JudgeVerdict(
        harmful_request=False, unsafe_reasoning=False, unsafe_answer=False, refused=not is_odd, helped=is_odd
    )
