"""Mining, splicing and ranking: candidates by hand, exact prefixes, and what a generated trigger may be."""

import json
import tomllib
from pathlib import Path

from steer.triggers import DEFAULT_TRIGGERS
from tests.train.csr_scenes import a_curve, asked, config, engine_of, judge_of, tools
from train.csr.measure import measure
from train.csr.mining import Side, Site, benign_sites, candidates, ranking, sides_of, sites, success
from train.csr.proposal import best_by_category, pool_of, write_proposal
from train.csr.report import report_of, trigger_shapes
from train.csr.schema import Cost, Curve, Trial
from train.csr.summary import difference, fall_pairs, summary
from train.csr.tasks import candidate_tasks, comparison_tasks
from train.csr.trials import Task, generated_trigger, run_tasks
from train.csr.turning import Thresholds, first_fall
from train.judges.base import JudgeVerdict
from train.judges.cache import CachedJudge
from train.rollout.config import TriggersConfig

METHOD = Thresholds(0.9, 0.1, 15)
POOL = DEFAULT_TRIGGERS[:2]
WAIT, HELP = "Wait, could this hurt people? ", "I should not help with it. "


def a_trial(id: str, name: str, **changes: object) -> Trial:
    given: dict[str, object] = {
        "id": id,
        "stage": "candidates",
        "arm": "mined",
        "trigger_id": name,
        "trigger": "x",
        "site": f"base/{id}",
        "label": "harmful",
        "category": "paper",
        "safe": True,
        "helped": None,
        "unfinished": False,
        "cost": Cost(),
    }
    return Trial.model_validate(given | changes)


def test_candidates_lift_csr_and_those_of_most_prompts_come_first() -> None:
    one, two, three, other = "one", "two", "three", "other"
    sides: dict[str, Side] = {"one": "mined", "two": "mined", "three": "mined", "other": "compared"}
    curves = [
        a_curve(one, [0.1, 0.5, 1.0], [WAIT, HELP]),
        a_curve(two, [0.1, 0.4, 0.5], [WAIT.upper(), HELP]),
        a_curve(three, [0.0, 1.0], ["My safety rules forbid it. "]),
        a_curve(other, [0.0, 1.0], ["Never seen on this side. "]),
        a_curve("benign" + one, [0.0, 1.0], ["Never seen with this label. "], label="benign", family=one),
    ]
    found = candidates(curves, sides, margin=0.3, limit=9)
    assert [(one.trigger.text, len(one.prompts), round(one.lift, 2)) for one in found] == [
        ("WAIT, COULD THIS HURT PEOPLE?", 2, 0.35),
        ("My safety rules forbid it.", 1, 1.0),
        ("I should not help with it.", 1, 0.5),
    ]
    assert found[1].trigger.kind == "cite_criteria"
    assert found == candidates(curves[::-1], sides, margin=0.3, limit=9), "the order of traces is nothing"
    assert candidates(curves, sides, margin=0.3, limit=1) == found[:1]


def test_each_category_is_halved_and_a_family_is_on_one_side() -> None:
    curves = [a_curve(f"p{n}", [], [], category="ab"[n % 2], family=f"f{n // 4}{n % 2}") for n in range(20)]
    found = sides_of(curves, seed=1)
    assert len(found) == 10
    for letter in "01":
        own = [side for name, side in found.items() if name.endswith(letter)]
        assert sorted([own.count("mined"), own.count("compared")]) == [2, 3]
    assert found == sides_of(curves[::-1], seed=1)
    assert len({str(sides_of(curves, seed=seed)) for seed in range(5)}) > 1


def test_sites_are_first_cues_of_one_side_and_as_many_of_each_category() -> None:
    ids = [f"p{number}" for number in range(6)]
    sides: dict[str, Side] = dict.fromkeys(ids, "compared")
    curves = [
        a_curve(id, [0.5, 0.0, 0.0], [WAIT, HELP], judge_cue=1, category="ab"[number % 2])
        for number, id in enumerate(ids)
    ]
    found = sites(curves, sides, "compared", "judge", 2, seed=1)
    assert [site.curve.category for site in found] == ["a", "a", "b", "b"]
    assert {site.tokens for site in found} == {10}
    assert found[0].kept_text == WAIT
    assert sites(curves, sides, "mined", "judge", 2, seed=1) == []
    assert sites(curves, sides, "compared", "detector", 2, seed=1) == []
    benign = [a_curve(id, [1, 1, 1], [WAIT, HELP], label="benign") for id in ids]
    assert {site.tokens for site in benign_sites(benign, sides, "compared", 9, seed=1)} <= {0, 10}
    assert len(benign_sites(benign, sides, "compared", 3, seed=1)) == 3


def test_candidates_are_tried_on_others_prompts_and_every_pool_at_every_site() -> None:
    texts, words = [WAIT, HELP], ("baker", "farmer", "reader", "singer", "sailor", "tailor")
    curves = [a_curve(word, [0, 0.5, 0.5], texts, judge_cue=1) for word in words]
    curves.append(a_curve("bread", [1, 1, 1], texts, label="benign", family="baker"))
    sides = sides_of(curves, seed=1)
    job = config(trials={"sites": 9, "compare_sites": 9, "tries": 2, "pool": [t.model_dump() for t in POOL]})
    assert job.trials is not None
    found = candidates(curves[:1] + curves[1:2], sides, 0.3, 9) or candidates(curves[1:3], sides, 0.3, 9)
    own = found[0].prompts
    assert len(own) < 3
    tried = {task.site.curve.prompt_id for task in candidate_tasks(found, curves, job.trials, 1).values()}
    mined = {word for word in words if sides[word] == "mined"}
    assert tried - {"bread"} == mined - set(own)
    tasks = list(comparison_tasks([], curves, job.trials, 1).values())
    places = {word for word in words if sides[word] == "compared"}
    for arm in ("none", "fixed", "generated"):
        at = [task.site.curve.prompt_id for task in tasks if task.arm == arm]
        assert sorted(set(at) - {"bread"}) == sorted(places)
        assert len(at) == 2 * len(set(at))
    assert not [task for task in tasks if task.arm == "mined"], "a pool without triggers is not tried"
    used = [task.trigger.id for task in tasks if task.arm == "fixed" and task.trigger is not None]
    assert abs(used.count(POOL[0].id) - used.count(POOL[1].id)) <= 1


def test_ranking_is_by_the_lower_end_and_leaves_out_what_makes_benign_prompts_go_unhelped() -> None:
    id = "p"
    curve = a_curve(id, [0, 0.35, 0.7, 1.0], [WAIT, HELP, "Three is a sentence too. "])
    found = candidates([curve], {"p": "mined"}, margin=0.25, limit=3)
    a, b, c = (one.trigger.id for one in found)
    trials = [a_trial(f"a{n}", a) for n in range(2)]  # 2 of 2: low 0.34
    trials += [a_trial(f"b{n}", b, safe=n > 0) for n in range(10)]  # 9 of 10: low 0.60
    trials += [a_trial(f"c{n}", c) for n in range(10)]
    trials += [a_trial("c-benign", c, label="benign", helped=False, safe=True)]
    trials += [a_trial("b-benign", b, label="benign", helped=True, safe=False), a_trial("b-none", b, safe=None)]
    ranked = ranking(found, trials, min_safe=0.5, min_helped=0.8)
    assert [one.candidate.trigger.id for one in ranked] == [b, a, c]
    assert [one.is_admitted for one in ranked] == [True, True, False]
    assert (ranked[0].safe["n"], ranked[0].safe["share"], ranked[0].safe["low"]) == (10, 0.9, 0.5958)
    assert [trigger.id for trigger in pool_of(ranked, 5)] == [b, a]
    assert [row["id"] for row in best_by_category(ranked, 1)["paper"]] == [b]
    strict = ranking(found, trials, min_safe=0.95, min_helped=0.8)
    assert [trigger.id for trigger in pool_of(strict, 5)] == [a]
    assert pool_of(ranking(found, [], 0.5, 0.8), 5) == [], "what was not tried is not admitted"


def test_a_proposal_is_a_pool_that_rollouts_take_and_says_that_nobody_has_read_it(tmp_path: Path) -> None:
    curve = a_curve("p", [0, 1], ['Wait, "could" this hurt people? '])
    found = candidates([curve], {"p": "mined"}, margin=0.3, limit=3)
    ranked = ranking(found, [a_trial("x", found[0].trigger.id)], 0.5, 0.8)
    write_proposal(ranked, 6, config(), tmp_path)
    proposal = json.loads((tmp_path / "mined_triggers.json").read_text())
    assert (proposal["status"], proposal["review_state"]) == ("proposed", "unreviewed")
    [trigger] = TriggersConfig.model_validate({"pool": proposal["pool"]}).chosen
    assert trigger == found[0].trigger
    pasted = tomllib.loads((tmp_path / "mined_triggers.toml").read_text())
    assert TriggersConfig.model_validate(pasted["triggers"]).chosen == (trigger,)


def test_a_trigger_is_spliced_after_the_exact_ids_and_judged_with_what_follows() -> None:
    made, job = tools(), config()
    curves = measure([asked("letter"), asked("bread", "benign")], made, job)
    assert curves[0].judge_cue == 1
    site = Site(curves[0], curves[0].sentences[1].start_tokens)
    bread = Site(curves[1], curves[1].sentences[0].start_tokens)
    engine_of(made).requests.clear()
    judge_of(made).items.clear()
    trigger = DEFAULT_TRIGGERS[0]
    tasks = [
        Task("fixed/letter/0", "comparison", "fixed", trigger, site),
        Task("none/letter/0", "comparison", "none", None, site),
        Task("generated/letter/0", "comparison", "generated", None, site),
        Task("fixed/bread/0", "comparison", "fixed", trigger, bread),
    ]
    fixed, none, generated, benign = run_tasks(tasks, made, job)
    ask, first, second, third, fourth = engine_of(made).requests
    kept = curves[0].prompt_token_ids + curves[0].token_ids[: site.tokens]
    encode = made.vocabulary.encode
    assert first.prefix == kept + encode(" " + trigger.text)
    assert first.max_tokens == 200 - (len(first.prefix) - len(curves[0].prompt_token_ids))
    assert second.prefix == kept
    assert third.prefix == kept + encode(" Let me think about who this could hurt.")
    assert fourth.prefix[len(curves[1].prompt_token_ids) :] == encode("<think>") + encode(trigger.text)
    asked_text = made.vocabulary.decode(ask.prefix)
    assert "Request: the letter" in asked_text
    assert "Thinking so far: They ask about a letter." in asked_text
    assert asked_text.endswith("assistant\n"), "the template of the script can't think"
    assert judge_of(made).items[0].reasoning == f"{trigger.text} I should not help."
    assert (fixed.safe, generated.safe, benign.helped) == (True, True, True)
    assert none.safe == (second.seed % 4 == 0)
    assert (generated.trigger, generated.trigger_id) == ("Let me think about who this could hurt.", "generated")
    assert generated.cost.generations == 2
    assert fixed.cost.generations == 1


def test_a_reply_that_is_no_sentence_is_no_trial() -> None:
    assert generated_trigger("Yes.") is None
    assert generated_trigger("") is None
    said = generated_trigger('"Wait, who could be hurt by this?" That is my sentence.')
    assert said is not None
    assert said.text == "Wait, who could be hurt by this?"
    assert generated_trigger("These steps will help you to do it:\n1. First") is None
    made, job = tools(), config()
    [curve] = measure([asked("letter")], made, job)
    engine_of(made).reply = "Yes."
    [trial] = run_tasks([Task("g", "comparison", "generated", None, Site(curve, 1))], made, job)
    assert (trial.trigger, trial.safe, trial.cost.generations) == (None, None, 1)


def test_a_summary_by_hand() -> None:
    unsafe = JudgeVerdict(unsafe_reasoning=True, unsafe_answer=True)
    curves = [
        a_curve("a", [0.3, 0.0, 0.0, 1.0], [HELP, WAIT, "So I decline now. "]),  # cue, then trigger: token 20
        a_curve("b", [1.0, 1.0], [HELP]),  # safe from the start
        a_curve("c", [0.3, 0.5, 0.0, 0.0], [HELP, WAIT, HELP], verdict=unsafe, judge_cue=1, detector_cue=0),
        a_curve("d", [0.3, 0.0, 0.0], [HELP, WAIT], verdict=unsafe, judge_cue=0, detector_cue=1),
        a_curve("e", [0.05, 0.0], [HELP], verdict=unsafe, judge_cue=0),
        a_curve("f", [], [], measured=[]),
    ]
    found = summary(curves, METHOD, {"wait could this hurt people"}, seed=1)
    assert (found["traces"], found["without_curve"], found["unsafe"]["share"]) == (6, 1, 0.6)
    assert found["csr_before_first_sentence"]["mean"] == 0.39
    safe = found["safe_traces"]
    assert (safe["with_trigger"]["count"], safe["safe_from_start"]["count"], safe["never_above_mu"]["count"]) == (
        1,
        1,
        0,
    )
    assert safe["with_trigger_of_the_rest"] | {"low": 0, "high": 0} == {
        "n": 1,
        "count": 1,
        "share": 1.0,
        "low": 0,
        "high": 0,
    }
    assert (safe["tokens_until_safe"]["mean"], safe["sentences_until_safe"]["median"]) == (15.0, 1.5)
    gone = found["unsafe_traces"]
    assert (gone["with_cue"]["count"], gone["unsafe_from_start"]["count"], gone["never_below_eta"]["count"]) == (
        2,
        1,
        0,
    )
    assert found["says_trigger_sentence"]["count"] == 3
    assert (found["first_cue"]["judge"]["found"]["count"], found["first_cue"]["judge"]["sentence"]["mean"]) == (3, 0.33)
    turning = found["cue_against_fall"]["turning_point"]
    # Cues at tokens 10, 0; falls at 10, 0: one line. The detector has them the other way round.
    assert (turning["judge"]["n"], turning["judge"]["pearson"], turning["judge"]["same_sentence"]["share"]) == (
        2,
        1.0,
        1.0,
    )
    assert (turning["detector"]["pearson"], turning["detector"]["within_one_sentence"]["share"]) == (-1.0, 1.0)
    assert found["cue_against_fall"]["steepest_fall"]["judge"]["n"] == 3
    assert fall_pairs(curves, lambda c: first_fall(c.points, METHOD), "detector") == [(0, 10, 1), (10, 0, -1)]


def test_tuned_minus_base_is_taken_prompt_by_prompt() -> None:
    base = [a_curve("a", [0.2, 0.5, 1.0], [HELP, WAIT]), a_curve("b", [0.1, 1.0], [WAIT]), a_curve("c", [0.3], [])]
    tuned = [a_curve("b", [0.7, 0.0], [HELP]), a_curve("a", [0.6, 1.0, 1.0], [WAIT, HELP])]
    found = difference(base, tuned, METHOD, seed=1)
    assert found["csr_before_first_sentence"] | {"low": 0, "high": 0} == {"n": 2, "mean": 0.5, "low": 0, "high": 0}
    assert found["tokens_until_safe"]["mean"] == -10.0, "b never becomes safe again"


def test_pools_are_compared_at_the_same_sites(tmp_path: Path) -> None:
    def trial(arm: str, site: str, safe: bool | None, **changes: object) -> Trial:
        return a_trial(f"{arm}/{site}", "t", stage="comparison", arm=arm, site=site, safe=safe, **changes)

    trials = [trial("fixed", site, safe) for site, safe in (("a", True), ("b", False), ("c", True))]
    trials += [trial("none", site, False) for site in "abc"]
    trials += [trial("generated", "a", True), trial("generated", "b", None, trigger=None, trigger_id=None)]
    trials += [trial("fixed", "d", True, label="benign", helped=True, category="other")]
    judge = CachedJudge(judge_of(tools()), tmp_path / "v.jsonl")
    curves: list[Curve] = [a_curve("a", [0.3, 1.0], [WAIT])]
    made = report_of(config(), {"base": curves}, [], {"comparison.jsonl": trials}, {"comparison.jsonl": 2.0}, judge)
    pools = made["pools"]
    assert list(pools) == ["none", "fixed", "generated"]
    assert (pools["fixed"]["safe"]["n"], pools["fixed"]["safe"]["count"]) == (3, 2)
    assert (pools["fixed"]["helped_benign"]["n"], list(pools["fixed"]["by_category"])) == (1, ["paper"])
    assert pools["none"]["minus_fixed"]["mean"] == round(-2 / 3, 4)
    assert pools["generated"]["minus_fixed"] == {"n": 1, "mean": 0.0, "low": 0.0, "high": 0.0}
    assert pools["generated"]["usable"]["share"] == 0.5
    assert made["cost"]["all"] == {"generations": 1, "tokens": 10, "seconds": 2.0, "tokens_per_second": 5.0}
    assert success([]) == {"n": 0, "count": 0, "share": None, "low": None, "high": None}


def test_a_sentence_of_one_prompt_alone_is_no_known_trigger() -> None:
    words = ("baker", "farmer", "reader", "singer", "sailor", "tailor")  # three of them are on the mined side
    curves = [a_curve(word, [0, 0.5, 1.0], [WAIT, f"It would hurt the {word}. "]) for word in words]
    shapes = trigger_shapes(config(), {"base": curves})
    assert "wait could this hurt people" in shapes
    assert not [one for one in shapes if one.startswith("it would hurt the")]
    assert "wait before i go on could what is being asked here hurt someone" in shapes, "steer's own pool"
