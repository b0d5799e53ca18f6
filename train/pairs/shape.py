"""Gives admitted sides the form that the trainer needs: different from their first id on, and of like length.

Rules kept here: ids that both sides share move into the kept prefix; a side that is too long is cut at the end of a
sentence, loses its end id and its claim to have ended; the chosen side keeps its whole trigger; of a rejected side that
went on to help nothing but its trigger is left. Nothing is encoded.
"""

import hashlib
import json
from typing import Any

from steer.pair import Pair, Side
from steer.segmenter import segment
from train.pairs.config import ShapeConfig
from train.pairs.rules import Admitted, DropReason
from train.rollout.vocabulary import Vocabulary


def shape(admitted: Admitted, family: str, vocabulary: Vocabulary, config: ShapeConfig) -> Pair | DropReason:
    """The pair, or why there is none."""
    divergence, rollout = admitted.divergence, admitted.divergence.rollout
    chosen, rejected = admitted.chosen.token_ids, admitted.rejected.token_ids
    common = _num_common(chosen, rejected)
    if common == min(len(chosen), len(rejected)):
        return "sides_alike"
    kept = divergence.kept + chosen[:common]
    prefix = rollout.prompt_token_ids + kept
    if len(prefix) > config.max_prefix:
        return "prefix_too_long"
    is_safety = admitted.kind == "safety"
    trigger_tokens = max(0, divergence.trigger_tokens - common) if is_safety else 0
    cue_tokens = max(0, divergence.cue_tokens - common) if is_safety else 0
    sides = _sides(admitted, common, prefix, vocabulary, config)
    if isinstance(sides, str):
        return sides
    if len(sides[0].token_ids) < trigger_tokens + config.min_tokens:
        return "too_short"
    ids: dict[str, Any] = {"prompt_token_ids": rollout.prompt_token_ids, "kept_token_ids": kept}
    return Pair(
        id=pair_id(prefix, sides[0].token_ids, sides[1].token_ids),
        kind=admitted.kind,
        messages=rollout.messages,
        tools=rollout.tools,
        **ids,
        kept_text=vocabulary.decode(kept),
        chosen=sides[0],
        rejected=sides[1],
        trigger_id=divergence.trigger_id if is_safety else None,
        trigger_tokens=trigger_tokens,
        cue_tokens=min(cue_tokens, len(sides[1].token_ids)),
        attempt=divergence.attempt,
        family=family,
        category=rollout.category,
        tenant=rollout.tenant,
        model=rollout.model,
        adapter=rollout.adapter,
        record_ids=[] if rollout.record_id is None else [rollout.record_id],
        admitted_by=admitted.by,
    )


def _sides(
    admitted: Admitted, common: int, prefix: list[int], vocabulary: Vocabulary, config: ShapeConfig
) -> tuple[Side, Side] | DropReason:
    """Chosen and rejected after their `common` ids."""
    chosen, rejected = admitted.chosen.token_ids[common:], admitted.rejected.token_ids[common:]
    ended = [side.finish_reason == "stop" for side in (admitted.chosen, admitted.rejected)]
    if admitted.is_needless:
        # With the trigger its right steps would be unlearned, which the chosen side takes, too.
        trigger = rejected[: max(0, admitted.divergence.trigger_tokens - common)]
        if not trigger:
            return "sides_alike"
        whole = _side(chosen, config.max_tokens, prefix, is_ended=ended[0], vocabulary=vocabulary)
        return whole, Side(text=vocabulary.decode(trigger), token_ids=trigger)
    limit = min(config.max_tokens, int(config.max_ratio * min(len(chosen), len(rejected))))
    first, second = (
        _side(ids, limit, prefix, is_ended=is_ended, vocabulary=vocabulary)
        for ids, is_ended in zip((chosen, rejected), ended, strict=True)
    )
    return "too_short" if len(second.token_ids) < config.min_tokens else (first, second)


def pair_id(prefix: list[int], chosen: list[int], rejected: list[int]) -> str:
    """SHA-256 of the ids, hex."""
    return hashlib.sha256(json.dumps([prefix, chosen, rejected]).encode()).hexdigest()


def _num_common(first: list[int], second: list[int]) -> int:
    pairs = enumerate(zip(first, second, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(first), len(second)))


def _side(ids: list[int], limit: int, prefix: list[int], *, is_ended: bool, vocabulary: Vocabulary) -> Side:
    said, _ = vocabulary.split_end(ids, is_ended=is_ended)
    if len(ids) <= limit:
        return Side(text=vocabulary.decode(said), token_ids=ids, ended=is_ended)
    kept = said[: _sentence_end(said, limit, prefix, vocabulary)]
    return Side(text=vocabulary.decode(kept), token_ids=kept, ended=False)


def _sentence_end(ids: list[int], limit: int, prefix: list[int], vocabulary: Vocabulary) -> int:
    """How many of the first `limit` ids end with a sentence; all but a begun character where none does."""
    texts = vocabulary.texts(prefix, ids)
    ends = {piece.end for piece in segment("".join(texts))}
    at, best, whole = 0, 0, 1
    for count, text in enumerate(texts[:limit], 1):
        at += len(text)
        if text:
            whole = count
            best = count if at in ends else best
    return best if best >= limit // 2 else whole
