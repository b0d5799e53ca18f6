"""What may train, which side is chosen, and the form that pairs are given: rules on rollouts made by hand."""

from typing import Any

import pytest

from steer.pair import Pair
from tests.train import pair_data as d
from tests.train.pair_data import CARE, CUE, END, KEPT, LONG, VOCABULARY, branch, halted, leg, rollout
from tests.upstream.tokens import decode, encode
from train.pairs.candidates import Divergence, divergences
from train.pairs.config import BenignConfig, CapsConfig, FamiliesConfig, PairsConfig, ShapeConfig
from train.pairs.families import Member, families, is_validation
from train.pairs.limits import allowances, by_family, by_tenant
from train.pairs.rules import Admitted, decide
from train.pairs.shape import shape
from train.rollout.trace import Rollout, Sample


def decided(made: Rollout, benign: BenignConfig | None = None, **options: Any) -> list[str]:
    """The kind, or the reason, of each divergence."""
    found = []
    for divergence in divergences(made, VOCABULARY):
        result = admit(divergence, benign, **options)
        found.append(result if isinstance(result, str) else f"{result.kind} by {result.by}")
    return found


def admit(divergence: Divergence, benign: BenignConfig | None = None, **options: Any) -> Admitted | str:
    first, second = d.judge([side.item(divergence.rollout) for side in (divergence.first, divergence.second)])
    return decide(divergence, first, second, benign or BenignConfig(), **options)


def shaped(made: Rollout, benign: BenignConfig | None = None, **config: Any) -> Pair | str:
    [divergence] = divergences(made, VOCABULARY)
    admitted = admit(divergence, benign)
    assert isinstance(admitted, Admitted), admitted
    return shape(admitted, "f", VOCABULARY, ShapeConfig(**config))


def based(**options: Any) -> Sample:
    """A first leg that ends with its cue, and the usual branch."""
    return Sample(base=leg(KEPT + CUE, cut_at=len(KEPT), **options), branches=halted().branches)


def followed(finish: str | None) -> Sample:
    """The usual first leg, and a branch that did not end by itself."""
    return Sample(base=halted().base, branches=[branch(" Wait.", leg(CARE, finish=finish))])


def test_a_harmful_request_with_an_unsafe_cue_and_a_safe_turn_trains() -> None:
    made = shaped(rollout("HARM", halted()), max_ratio=10)
    assert isinstance(made, Pair)
    assert decode(made.kept_token_ids) == made.kept_text == KEPT
    assert decode(made.chosen.token_ids[: made.trigger_tokens]) == " Wait, is this safe?"
    assert made.chosen.text == f" Wait, is this safe?{CARE}</think>REFUSE politely."
    assert made.rejected.text == f"{CUE} More.</think>UNSAFE answer."
    assert decode(made.rejected.token_ids[: made.cue_tokens]) == CUE
    assert (made.chosen.ended, made.chosen.token_ids[-1], made.rejected.ended) == (True, END, True)
    assert (made.trigger_id, made.attempt, made.admitted_by) == ("t-0", 0, "judge")


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (rollout("UNSURE", halted()), "unjudged"),
        (rollout("HARM", halted(cue=" I do not. More.</think>REFUSE.")), "rejected_safe"),
        (rollout("HARM", halted(care=f" UNSAFE {LONG}.</think>So.")), "chosen_unsafe"),
        (rollout("HARM", halted(care=CARE)), "chosen_no_answer"),
        (rollout("HARM", based(finish=None)), "rejected_incomplete"),
        (rollout("HARM", followed(finish="length")), "chosen_unfinished"),
        (rollout("HARM", followed(finish=None)), "chosen_incomplete"),
        (rollout("HARM", based(forced=True)), "forced_on_harmful"),
        (rollout("fine", halted(cue=" Right.</think>HELP.", care=" Right.</think>HELP, too.")), "rejected_helped"),
        (rollout("fine", halted(cue=" Right. More.</think>So.", care=" Right.</think>REFUSE.")), "chosen_unhelpful"),
    ],
)  # fmt: skip
def test_everything_else_is_dropped_for_its_own_reason(made: Rollout, reason: str) -> None:
    assert decided(made) == [reason]


def test_a_tenant_that_opted_out_is_not_trained_on_whatever_a_judge_says() -> None:
    made = rollout("HARM", halted(), tenant="acme")
    assert decided(made, opt_out=frozenset({"acme"})) == ["opted_out"]
    assert decided(made, opt_out=frozenset({"other"})) == ["safety by judge"]


@pytest.mark.parametrize("config", [{}, {"max_ratio": 1.0, "min_tokens": 12}], ids=["defaults", "strict"])
def test_of_a_side_that_went_on_to_help_only_the_needless_trigger_is_rejected(config: dict[str, Any]) -> None:
    """Its steps are right: trained against, they would be unlearned."""
    helped = f" Right, {LONG}.</think>HELP."
    made = shaped(rollout("fine", halted(cue=helped, care=helped)), BenignConfig(needless_triggers=True), **config)
    assert isinstance(made, Pair)
    assert (made.rejected.text, made.rejected.ended) == (" Wait, is this safe?", False)
    assert decode(made.rejected.token_ids) == made.rejected.text
    assert (made.chosen.text, made.chosen.ended) == (helped, True)


def test_over_refusals_and_false_halts_become_benign_pairs() -> None:
    over_refusal = rollout("fine", halted(cue=" Right. More.</think>HELP.", care=f"{CARE}</think>REFUSE."))
    assert decided(over_refusal) == ["benign by judge"]
    made = shaped(over_refusal, max_ratio=10, min_tokens=2)
    assert isinstance(made, Pair)
    assert (made.chosen.text, made.trigger_id, made.trigger_tokens) == (" Right. More.</think>HELP.", None, 0)
    assert made.rejected.text.endswith("REFUSE.")
    detour = rollout("fine", halted(cue=" Right. More.</think>HELP.", care=" Right.</think>HELP."))
    assert decided(detour, BenignConfig(needless_triggers=True)) == ["benign by judge"]
    assert decided(detour, BenignConfig(enabled=False)) == ["benign_disabled"]
    reviewed = detour.model_copy(update={"review_state": "false_halt", "record_id": "r"})
    assert decided(reviewed) == ["benign by review"]


def test_a_review_admits_what_the_judge_cannot_tell_but_not_an_unsafe_choice() -> None:
    confirmed = {"review_state": "confirmed", "record_id": "r"}
    assert decided(rollout("UNSURE", halted(), **confirmed)) == ["safety by review"]
    unsafe = halted(care=f" UNSAFE {LONG}.</think>So.")
    assert decided(rollout("HARM", unsafe, **confirmed)) == ["chosen_unsafe"]


def test_each_step_of_a_relapse_is_a_divergence_with_its_own_prefix() -> None:
    relapse = leg(f" Hmm.{CUE}</think>UNSAFE.", cut_at=len(" Hmm."))
    steps = branch(" Wait, is this safe?", relapse, leg(f"{CARE}</think>REFUSE."))
    made = rollout("HARM", Sample(base=halted().base, branches=[steps]))
    assert decided(made) == ["chosen_unsafe", "safety by judge"]
    second = list(divergences(made, VOCABULARY))[1]
    assert second.attempt == 1
    assert decode(second.kept) == f"{KEPT} Wait, is this safe? Hmm."
    assert decode(second.first.token_ids[:-1]) == f"{CUE}</think>UNSAFE."


def test_two_samples_of_a_benign_prompt_make_a_pair_where_one_refuses() -> None:
    helps, refuses = (
        Sample(base=leg(f"I see.{text}")) for text in (f" {LONG}.</think>HELP.", f"{CARE}</think>REFUSE.")
    )
    assert decided(rollout("fine", helps, refuses, label="benign")) == ["benign by judge"]
    assert decided(rollout("fine", helps, helps, label="benign")) == ["no_contrast"]
    assert decided(rollout("fine", helps, refuses, label="harmful")) == []
    made = shaped(rollout("fine", refuses, helps, label="benign"), max_ratio=10)
    assert isinstance(made, Pair)
    assert made.kept_text == "I see.", "shared ids are the prefix"
    assert made.chosen.text.endswith("HELP.")


# -- form -------------------------------------------------------------------------------------------------------------


def test_ids_that_both_sides_share_move_into_the_prefix() -> None:
    cue = f" Wait, I will do it UNSAFE, {LONG}.</think>UNSAFE."
    made = shaped(rollout("HARM", halted(cue=cue)), max_ratio=10)
    assert isinstance(made, Pair)
    assert made.kept_text == f"{KEPT} Wait,"
    assert made.chosen.token_ids[0] != made.rejected.token_ids[0]
    assert decode(made.chosen.token_ids[: made.trigger_tokens]) == " is this safe?"
    assert decode(made.rejected.token_ids[: made.cue_tokens]) == f" I will do it UNSAFE, {LONG}."


def test_the_longer_side_ends_at_a_sentence_and_does_not_claim_to_have_ended() -> None:
    long = f"{CUE}" + " It goes on and on." * 20
    made = shaped(rollout("HARM", halted(cue=f"{long}</think>UNSAFE.")), max_ratio=1.2)
    assert isinstance(made, Pair)
    chosen, rejected = len(made.chosen.token_ids), len(made.rejected.token_ids)
    assert chosen / 2 < rejected <= 1.2 * chosen
    assert made.rejected.text.endswith("on and on.")
    assert (made.rejected.ended, made.chosen.ended) == (False, True)
    assert END not in made.rejected.token_ids
    assert decode(made.rejected.token_ids) == made.rejected.text


def test_a_character_of_several_ids_is_not_cut_in_two() -> None:
    made = shaped(rollout("HARM", halted(cue=" UNSAFE" + "天" * 200 + ".</think>UNSAFE.")), max_ratio=1.0)
    assert isinstance(made, Pair)
    assert made.rejected.text == " UNSAFE" + "天" * (len(made.rejected.text) - 7)


@pytest.mark.parametrize(
    ("config", "reason"), [({"max_prefix": 5}, "prefix_too_long"), ({"min_tokens": 400}, "too_short")]
)
def test_what_does_not_fit_is_told(config: dict[str, Any], reason: str) -> None:
    assert shaped(rollout("HARM", halted()), **config) == reason


def test_sides_that_are_alike_make_no_pair() -> None:
    same = leg(f"{CUE}</think>UNSAFE.")
    sample = Sample(base=leg(f"{KEPT}{CUE}</think>UNSAFE.", cut_at=len(KEPT)), branches=[branch(" I", same)])
    [divergence] = divergences(rollout("HARM", sample), VOCABULARY)
    admitted = Admitted(divergence, "safety", divergence.first, divergence.first, "judge")
    assert shape(admitted, "f", VOCABULARY, ShapeConfig()) == "sides_alike"


# -- families and caps ------------------------------------------------------------------------------------------------


def member(id: str, text: str, family: str | None = None) -> Member:
    return Member(id, [{"role": "user", "content": text}], family)


def test_near_duplicates_are_kin_and_named_families_final() -> None:
    long = "Please tell me how to bake a loaf of bread for my friends at home on a Sunday"
    kin = families(
        [
            member("a", long),
            member("b", f"{long}!!! 17"),
            member("c", "A wholly different question about the weather in the north"),
            member("d", f"{long} morning", "bread"),
            member("e", f"{long} evening", "sunday"),
            member("f", ""),
        ],
        FamiliesConfig(),
    )
    assert kin["a"] == kin["b"]
    assert kin["a"] in ("bread", "sunday")
    assert (kin["d"], kin["e"]) == ("bread", "sunday")
    assert kin["c"] == "near-c"
    assert kin["f"] == "near-f"


def test_a_split_depends_on_the_family_alone() -> None:
    held = [name for name in map(str, range(2000)) if is_validation(name, 0.1, 1)]
    assert 140 < len(held) < 260
    assert held == [name for name in map(str, range(2000)) if is_validation(name, 0.1, 1)]
    assert not any(is_validation(name, 0, 1) for name in held)


def test_caps_and_duplicates_are_counted_by_prompt_family_and_tenant() -> None:
    base = shaped(rollout("HARM", halted()), max_ratio=10)
    assert isinstance(base, Pair)

    def pair(id: str, **changes: Any) -> Pair:
        return base.model_copy(update={"id": id, **changes})

    config = limited(per_prompt=2, per_family=3, per_tenant=1, tenant_share=1)
    own = [pair("1"), pair("1"), pair("2"), pair("3"), pair("8", kind="benign")]
    acme = [pair("6", tenant="acme"), pair("7", tenant="acme")]
    asked = [*((one, "p") for one in own), (pair("4"), "q"), (acme[0], "r"), (acme[1], "s")]
    expected = [None, "duplicate", None, "prompt_cap", None, None, None, "tenant_cap"]
    assert by_tenant(asked, config) == expected, "benign pairs have a cap of their own"
    kept = [one for one, reason in zip(asked, expected, strict=True) if reason is None]
    assert by_family(kept, config) == [None, None, None, "family_cap", "family_cap"]
    same = [(pair("1"), "p"), (pair("1", tenant="acme"), "p"), (pair("2"), "p"), (pair("5", tenant="acme"), "p")]
    assert by_family(same, config) == [None, "duplicate", None, "prompt_cap"]


def limited(**caps: Any) -> PairsConfig:
    values = {"rollouts": ["x"], "tokenizer": "t", "judge": {"spec": "organism"}, "caps": caps}
    return PairsConfig.model_validate(values)


@pytest.mark.parametrize(
    ("counts", "allowed"),
    [
        ({"default": 90, "flood": 5000}, {"default": 90, "flood": 30}),
        ({"a": 100, "b": 100, "c": 100, "flood": 600}, {"a": 100, "b": 100, "c": 100, "flood": 100}),
        ({"a": 100, "b": 100}, {"a": 33, "b": 33}),
        ({"only": 500}, {"only": 500}),
        ({"default": 0, "only": 500}, {"default": 0, "only": 500}),
        ({}, {}),
    ],
)
def test_a_tenant_brings_at_most_its_share_of_the_union(counts: dict[str, int], allowed: dict[str, int]) -> None:
    """A quarter of all is a third of what others bring; the operator's own, and who is alone, are not bounded."""
    found = allowances(counts, CapsConfig(tenant_share=0.25))
    assert {tenant: min(count, counts[tenant]) for tenant, count in found.items()} == allowed


def test_a_flood_neither_exceeds_its_share_nor_takes_the_place_of_others() -> None:
    base = shaped(rollout("HARM", halted()), max_ratio=10)
    assert isinstance(base, Pair)
    others = [(base.model_copy(update={"id": f"a{n}"}), f"p{n}") for n in range(9)]
    flood = [(base.model_copy(update={"id": f"f{n}", "tenant": "flood"}), f"q{n}") for n in range(500)]
    reasons = by_tenant([*flood, *others], limited())
    assert reasons[500:] == [None] * 9
    assert reasons[:500].count(None) == 3
    assert set(reasons[:500]) == {None, "tenant_share"}


def test_a_tenants_halt_is_benign_by_review_alone() -> None:
    """Whoever floods the log with harmless prompts that are halted does not choose what is taught of them."""
    flood = {"tenant": "flood", "record_id": "r"}
    made = rollout("fine", halted(cue=" Right. More.</think>HELP.", care=f"{CARE}</think>REFUSE."), **flood)
    assert decided(made) == ["unreviewed"]
    assert decided(made.model_copy(update={"review_state": "false_halt"})) == ["benign by review"]
    assert decided(made.model_copy(update={"tenant": "default"})) == ["benign by judge"]
    assert decided(made, BenignConfig(unreviewed_tenants=True)) == ["benign by judge"]
    complies = rollout("HARM", halted(care=f" UNSAFE {LONG}.</think>So."), **flood)
    assert decided(complies) == ["chosen_unsafe"], "the judge sees both sides of it"


def test_the_scripted_prompts_open_their_think_block() -> None:
    assert decode(rollout("HARM").prompt_token_ids).endswith("<think>\n")
    assert encode("<think>")[0] in rollout("HARM").prompt_token_ids
