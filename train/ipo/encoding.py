"""From pairs to rows of token ids. Boundaries come from ids; nothing is tokenised here.

A row is {prompt_ids, chosen_ids, rejected_ids}. For IPO the prompt is the pair's prompt and its kept reasoning, so the
sides begin where they diverge; for DPO on full responses (a baseline) the kept reasoning belongs to both sides. Text is
decoded only to check that the ids are of this tokenizer and that the cut falls between characters.

What would train the wrong thing is refused by name (`errors.Reason`): sides that start alike, an end of sequence inside
a thought, ids that the model does not have, a pair that would be cut to fit.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, TypedDict

from steer.pair import Pair, Side
from train.ipo.errors import IpoConfigError, IpoDataError, PairRefused, Reason

Span = Literal["divergence", "response"]

# Tokens decoded on each side of the cut to see whether it falls inside a character: longer than any character's bytes.
_CUT_WINDOW = 16


class Row(TypedDict):
    """What the trainer gets; `chosen_ids` and `rejected_ids` follow `prompt_ids` directly."""

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]


class Encoded(NamedTuple):
    rows: Sequence[Mapping[str, Any]]  # `Row`s, where they come from pairs
    skipped: dict[str, int]  # by Reason
    counted: Mapping[str, int] = MappingProxyType({})  # what else a report should say of the rows


@dataclass(frozen=True, slots=True)
class Tokens:
    """What encoding knows of a model's tokens."""

    size: int  # rows of the model's embedding
    eos_ids: frozenset[int]
    decode: Callable[[Sequence[int]], str]  # special tokens included
    decode_plain: Callable[[Sequence[int]], str]  # special tokens left out


def tokens_of(tokenizer: Any, model_size: int, eos_ids: Iterable[int], think_markers: tuple[str, str]) -> Tokens:
    """The facts of a transformers tokenizer, checked against the model's embedding of `model_size` rows.

    Raises IpoConfigError where the tokenizer is not this model's, or its chat template knows no reasoning.
    """
    if len(tokenizer) > model_size:
        raise IpoConfigError(
            f"the tokenizer has {len(tokenizer)} tokens and the model only {model_size}: it is another model's"
        )
    template = tokenizer.chat_template
    known = template if isinstance(template, str) else "".join((template or {}).values())
    if not any(marker in known for marker in think_markers):
        raise IpoConfigError(
            f"the chat template does not know {' or '.join(think_markers)}: IPO corrects reasoning, so give a "
            "reasoning model, or set data.think_markers to what this one writes"
        )
    known_eos = {*eos_ids, *([] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id])}

    def decode(ids: Sequence[int], *, is_plain: bool = False) -> str:
        text: str = tokenizer.decode(list(ids), skip_special_tokens=is_plain, clean_up_tokenization_spaces=False)
        return text

    return Tokens(model_size, frozenset(known_eos), decode, lambda ids: decode(ids, is_plain=True))


def encode(pair: Pair, tokens: Tokens, max_length: int, span: Span = "divergence") -> Row:
    """One pair as a row. Raises PairRefused."""
    _check_sides(pair)
    _check_ids(pair, tokens)
    _check_ends(pair, tokens)
    _check_length(pair, max_length)
    _check_text(pair, tokens)
    prompt, kept = pair.prompt_token_ids, pair.kept_token_ids
    if span == "response":
        return Row(
            prompt_ids=list(prompt),
            chosen_ids=[*kept, *pair.chosen.token_ids],
            rejected_ids=[*kept, *pair.rejected.token_ids],
        )
    return Row(
        prompt_ids=[*prompt, *kept],
        chosen_ids=list(pair.chosen.token_ids),
        rejected_ids=list(pair.rejected.token_ids),
    )


def encode_all(
    pairs: Iterable[Pair], tokens: Tokens, max_length: int, *, skip_long: bool = False, span: Span = "divergence"
) -> Encoded:
    """All pairs, in order. Raises PairRefused; with `skip_long` pairs that are too long are left out and counted.

    Raises IpoDataError where no pair is left.
    """
    rows: list[Row] = []
    skipped: Counter[str] = Counter()
    for pair in pairs:
        try:
            rows.append(encode(pair, tokens, max_length, span))
        except PairRefused as error:
            if error.reason != Reason.TOO_LONG or not skip_long:
                raise
            skipped[error.reason] += 1
    if not rows:
        left_out = f": all {sum(skipped.values())} are longer than data.max_length = {max_length}" if skipped else ""
        raise IpoDataError(f"there are no pairs to train on{left_out}")
    return Encoded(rows, dict(skipped))


def _sides(pair: Pair) -> tuple[tuple[str, Side], tuple[str, Side]]:
    return ("chosen", pair.chosen), ("rejected", pair.rejected)


def _check_sides(pair: Pair) -> None:
    for name, side in _sides(pair):
        if not side.token_ids:
            raise PairRefused(Reason.ONE_SIDED, pair.id, f"the {name} side has no tokens")
    if not pair.prompt_token_ids:
        raise PairRefused(Reason.ONE_SIDED, pair.id, "the prompt has no tokens")
    if pair.chosen.token_ids[0] == pair.rejected.token_ids[0]:
        first = pair.chosen.token_ids[0]
        raise PairRefused(Reason.STARTS_ALIKE, pair.id, f"both sides start with token {first}; move the cut behind it")


def _check_ids(pair: Pair, tokens: Tokens) -> None:
    for ids in (pair.prompt_token_ids, pair.kept_token_ids, pair.chosen.token_ids, pair.rejected.token_ids):
        if wrong := next((i for i in ids if not 0 <= i < tokens.size), None):
            raise PairRefused(
                Reason.OUTSIDE_VOCABULARY,
                pair.id,
                f"token {wrong} is outside the model's vocabulary of {tokens.size}; the pair is another model's",
            )


def _check_ends(pair: Pair, tokens: Tokens) -> None:
    spans = [("the kept reasoning", pair.kept_token_ids, False)]
    spans += [(f"the {name} side", side.token_ids, side.ended) for name, side in _sides(pair)]
    for name, ids, may_end in spans:
        inside = ids[:-1] if may_end else ids
        if tokens.eos_ids.intersection(inside):
            raise PairRefused(
                Reason.EOS_INSIDE,
                pair.id,
                f"{name} holds an end of sequence where the model did not end; it would learn to stop mid-thought",
            )


def _check_length(pair: Pair, max_length: int) -> None:
    for name, side in _sides(pair):
        length = pair.divergence_index + len(side.token_ids)
        if length > max_length:
            raise PairRefused(
                Reason.TOO_LONG,
                pair.id,
                f"{length} tokens with its {name} side, more than data.max_length = {max_length}; raise it, or set "
                'data.too_long = "skip"',
            )


def _check_text(pair: Pair, tokens: Tokens) -> None:
    before = [*pair.prompt_token_ids, *pair.kept_token_ids][-_CUT_WINDOW:]
    for name, side in _sides(pair):
        after = side.token_ids[:_CUT_WINDOW]
        if tokens.decode(before) + tokens.decode(after) != tokens.decode([*before, *after]):
            raise PairRefused(
                Reason.CUT_INSIDE_CHARACTER,
                pair.id,
                f"the cut before the {name} side falls inside a character, or this tokenizer merges text across it",
            )
        ids = side.token_ids
        bare = ids[:-1] if side.ended and ids[-1] in tokens.eos_ids else ids
        if side.text not in {tokens.decode(ids), tokens.decode(bare), tokens.decode_plain(ids)}:
            raise PairRefused(
                Reason.OTHER_TOKENIZER,
                pair.id,
                f"the text of its {name} side is not what its ids decode to; the pair is of another tokenizer",
            )
