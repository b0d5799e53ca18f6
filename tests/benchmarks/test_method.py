"""The method's benchmark: its cells, what becomes of them under a budget, how they are summed up; one small run."""

import json
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.bench_method import main
from benchmarks.method import pool
from benchmarks.method.cells import Cell, plan, wanted
from benchmarks.method.cells import pool as trigger_pool
from benchmarks.method.choosing import choose, chosen_rate
from benchmarks.method.intervals import difference, share
from benchmarks.method.judged import pack as pack_flags
from benchmarks.method.judged import unpack
from benchmarks.method.measuring import shown, stages
from benchmarks.method.places import Places
from benchmarks.method.prompts import GROUPS, measured, rolled_out, shard
from benchmarks.method.sizes import FULL, SMOKE
from benchmarks.method.summary import MEASURES, ROWS, index, summary
from benchmarks.method.text import tables
from train.organism.splits import HELD_OUT_FRAMINGS, is_held_out_topic
from train.organism.topics import load_topics
from train.rollout.trace import Branch, Cut, Leg, Sample, Span, Step


def test_every_need_of_a_cell_is_a_cell_that_comes_before_it() -> None:
    cells = plan(FULL, [1, 2, 3])
    seen: set[str] = set()
    for cell in cells:
        assert set(cell.needs) <= seen, cell.id
        assert cell.id not in seen
        seen.add(cell.id)


def test_the_table_of_all_seeds_comes_before_any_curve() -> None:
    names = [cell.name for cell in plan(FULL, [1, 2])]
    table = {row[1].replace("*", "arithmetic") for row in ROWS}
    assert max(i for i, name in enumerate(names) if name in table) < names.index("train-ipo-pairs60")


def test_a_wanted_cell_brings_what_it_needs_and_nothing_else() -> None:
    names = [cell.name for cell in wanted(plan(SMOKE, [1]), ["measure-ipo"])]
    assert names == ["rollout-main.0", "pairs-main", "train-ipo", "measure-ipo"]
    with pytest.raises(ValueError, match="no cell is called 'nothing'"):
        wanted(plan(SMOKE, [1]), ["nothing"])


def test_pools_are_nested_and_mix_the_kinds() -> None:
    assert trigger_pool(1) == ("risk-own-1",)
    assert trigger_pool(12)[:6] == trigger_pool(6)
    assert {id.partition("-")[0] for id in trigger_pool(6)} == {"risk", "reframe", "criteria"}


def test_what_is_measured_is_held_out_from_what_is_rolled_out() -> None:
    sizes = replace(SMOKE, harmful=200, look_alike=200, arithmetic=200, prompts=200, benign_arithmetic=200)
    held_out = {topic.id for topic in load_topics() if is_held_out_topic(topic)}
    for group in ("harmful", "look_alike"):
        assert all(row.family in held_out and row.category in HELD_OUT_FRAMINGS for row in measured(group, sizes, 1))
    rolled = rolled_out(sizes, 1)
    assert not held_out & {row.family for row in rolled}
    asked = {str(row.messages) for row in rolled}
    assert not asked & {str(row.messages) for group in GROUPS for row in measured(group, sizes, 1) if group != "plain"}


def test_measured_prompts_have_random_numbers_of_their_own_and_seeds_differ() -> None:
    seeds = [row.seed for seed in (1, 2, 3) for group in GROUPS for row in measured(group, FULL, seed)]
    assert len(set(seeds)) == len(seeds)
    assert measured("harmful", SMOKE, 1) == measured("harmful", SMOKE, 1)


def test_shards_share_out_all_rows() -> None:
    rows = rolled_out(SMOKE, 1)
    assert sorted(row.id for n in range(3) for row in shard(rows, n, 3)) == sorted(row.id for row in rows)


def test_flags_survive_packing() -> None:
    for flags in ([], [False], [True, False, False, True], [False, False, True]):
        packed = pack_flags(flags)
        assert unpack(packed) == flags
        assert (packed["n"], packed["hits"]) == (len(flags), sum(flags))


def test_intervals_by_hand() -> None:
    two = share([[True, False], [True, True]])  # shares 0.5 and 1: mean 0.75, half width 12.706 * 0.3536 / sqrt(2)
    assert (two.mean, two.low, two.high, two.n, two.seeds) == (0.75, 0.0, 1.0, 4, 2)
    three = share([[True, False] * 50, [True] * 51 + [False] * 49, [True] * 49 + [False] * 51])
    assert three.mean == pytest.approx(0.5)
    assert three.high - three.mean == pytest.approx(4.303 * 0.01 / 3**0.5, rel=1e-3)
    change = difference([[True, True, False, False]], [[True, False, False, False]])
    assert change.mean == 0.25
    assert change.high == pytest.approx(0.25 + 1.959964 * 0.5 / 2)


def _leg(reasoning: str, answer: str = "", cut_at: int | None = None) -> Leg:
    cut = None
    if cut_at is not None:
        cut = Cut(at=cut_at, kept_chars=cut_at, kept_tokens=0, cue_tokens=0, text="", score=1, channel="reasoning")
    return Leg(token_ids=[1], reasoning=reasoning, answer=answer, finish_reason="stop", cut=cut)


def _span(text: str, writer: str = "model") -> Span:
    return Span.model_validate({"writer": writer, "channel": "reasoning", "text": text, "token_ids": []})


def test_what_stands_after_each_number_of_interventions() -> None:
    first, second = _leg("Fine. Cue!", "bad", cut_at=5), _leg(" Sure. Cue again!", "worse", cut_at=6)
    last = _leg(" No.", "Sorry.")
    steps = [
        Step(trigger_id="a", trigger=_span(" Wait?", "trigger"), leg=second),
        Step(trigger_id="b", trigger=_span(" Stop?", "trigger"), leg=last),
    ]
    spans = [_span("Fine."), _span(" Wait?", "trigger"), _span(" Sure."), _span(" Stop?", "trigger"), _span(" No.")]
    sample = Sample(base=first, branches=[Branch(steps=steps, outcome="completed", finish_reason="stop", spans=spans)])
    assert stages(sample) == [
        ("Fine. Cue!", "bad"),
        ("Fine. Wait? Sure. Cue again!", "worse"),
        ("Fine. Wait? Sure. Stop? No.", "Sorry."),
    ]
    assert shown(sample).reasoning == stages(sample)[-1].reasoning
    assert stages(Sample(base=last)) == [(" No.", "Sorry.")]


def test_a_failed_cell_costs_only_those_that_need_it(tmp_path: Path) -> None:
    places, lines = Places(tmp_path), list[str]()
    broken = Cell("measure-broken", 1, "measure", 0, options={"weights": "train-nothing"})  # there are no such weights
    after = Cell("measure-after", 1, "measure", 0, needs=(broken.id,))
    long = Cell("train-grpo", 1, "train", 0, options={"method": "grpo"})
    tried = _tried(places, "measure-tried@1", harmful=[True, False], look_alike=[True, True], arithmetic=[True, True])
    needs = (broken.id, tried)
    choice = Cell("choose-ipo", 1, "choose", 0, needs, {"base": tried}, is_lenient=True)
    sizes = replace(SMOKE, rates=(1e-3, 3e-3))
    outcome = pool.run_pool([broken, after, long, choice], sizes, places, workers=1, budget_s=200, say=lines.append)
    assert outcome.finished == ["choose-ipo@1"]
    assert chosen_rate(Cell("train-ipo", 1, "train", 0, ("pairs-main@1", choice.id)), places) == 3e-3
    assert list(outcome.failed) == ["measure-broken@1"]
    assert outcome.not_begun == ["measure-after@1", "train-grpo@1"]  # the last one would not fit the budget
    assert "FAILED" in lines[0]
    assert "== measure-broken@1\nTraceback" in "".join(path.read_text() for path in (tmp_path / "logs").iterdir())


def _tried(places: Places, id: str, **flags: list[bool]) -> str:
    """A finished cell that measured the prompts that rates are chosen by."""
    names = {"harmful": "harmful_reasoning", "look_alike": "helped", "arithmetic": "correct"}
    groups = {group: {"flags": {names[group]: pack_flags(values)}} for group, values in flags.items()}
    places.save(id, {"groups": groups})
    return id


def test_a_rate_is_chosen_by_harm_and_by_what_it_costs_the_base_model(tmp_path: Path) -> None:
    places = Places(tmp_path)
    sums, some_harm = [True] * 9 + [False], [True] * 3 + [False] * 7
    base = _tried(places, "b", harmful=[True] * 10, look_alike=[True] * 10, arithmetic=sums)
    rash = _tried(places, "r", harmful=[False] * 10, look_alike=[True] * 8 + [False] * 2, arithmetic=[True] * 10)
    calm = _tried(places, "c", harmful=some_harm, look_alike=[True] * 10, arithmetic=sums)
    cell = Cell("choose-ipo", 1, "choose", 0, (calm, rash, base), {"base": base}, is_lenient=True)
    found = choose(cell, replace(SMOKE, rates=(1e-3, 3e-3)), places)
    assert found["rate"] == 1e-3  # 0.3 of harm; the other one loses 0.2 of the help, which counts twice
    assert [entry["score"] for entry in found["tried"]] == [0.3, 0.4]


def _document(cell: str, seed: int, **flags: list[bool]) -> dict[str, object]:
    groups: dict[str, dict[str, dict[str, object]]] = {group: {"flags": {}} for group in GROUPS}
    for name, group, flag in MEASURES:
        if name in flags:
            groups[group]["flags"][flag] = pack_flags(flags[name])
    return {"cell": cell, "seed": seed, "groups": groups}


def test_a_row_is_the_mean_over_seeds_with_its_difference_to_the_base() -> None:
    documents = [
        _document("measure-base", 1, harmful_reasoning=[True, True, True, False]),
        _document("measure-base", 2, harmful_reasoning=[True, True, True, True]),
        _document("measure-ipo", 1, harmful_reasoning=[True, False, False, False]),
        _document("measure-ipo", 2, harmful_reasoning=[False, False, False, False]),
    ]
    rows = summary(index(documents))["rows"]
    assert list(rows) == ["base", "IPO"]
    ipo = rows["IPO"]["harmful_reasoning"]
    assert (ipo["mean"], ipo["n"], ipo["seeds"]) == (0.125, 8, 2)
    assert ipo["to_base"]["mean"] == -0.75


def test_csr_and_kl_are_told_over_the_seeds_that_have_them() -> None:
    def csr(seed: int, tokens: float | None, said: float) -> dict[str, object]:
        harmful = {"tuned": {"safe_traces": {"tokens_until_safe": {"mean": tokens}}}}
        sums = {"tuned": {"says_trigger_sentence": {"share": said}}}
        return {"cell": "csr", "seed": seed, "sets": {"harmful": harmful, "arithmetic": sums}}

    def mine(seed: int, safe: float) -> dict[str, object]:
        return {"cell": "mine", "seed": seed, "pools": {"mined": {"safe": {"share": safe}}}}

    kl = {"cell": "kl", "seed": 1, "kl": {"ratio": {"value": 6.0}}, "monitorability": {"recall": {"share": None}}}
    found = summary(index([csr(1, 4.0, 0.0), csr(2, None, 0.0), csr(3, 8.0, 0.0), mine(1, 0.6), mine(2, 0.8), kl]))
    until = found["csr"]["tokens until safe, tuned"]
    assert (until["mean"], until["seeds"], until["n"]) == (6.0, 2, 2)
    assert until["low"] == pytest.approx(6.0 - 12.706 * 2.0, abs=0.01), "of two seeds: Student's t of one degree"
    assert found["csr"]["sums that say a trigger sentence, tuned"]["high"] == 0.0
    assert "sums with a trigger's turning point, tuned" not in found["csr"]
    assert found["pools"]["turned safe, mined"]["mean"] == pytest.approx(0.7)
    assert found["kl"] == {"KL ratio": {"mean": 6.0, "low": 6.0, "high": 6.0, "n": 1, "seeds": 1}}
    assert any("tokens until safe, tuned" in line for line in tables(found))


def test_a_curves_points_measure_what_they_claim_and_the_table_everything() -> None:
    cells = {cell.id: cell for cell in plan(FULL, [1])}
    assert cells["measure-ipo@1"].options["groups"] == GROUPS
    assert cells["measure-ipo-pairs60@1"].options["groups"] == ("harmful", "look_alike")
    assert "arithmetic" in cells["measure-ipo-beta3.0@1"].options["groups"]
    assert cells["rollout-mined.0@1"].needs == ("mine@1",)
    assert not any(need.startswith("choose-") for need in cells["train-ipo@1"].needs)
    ranks = [cell.rank for cell in plan(FULL, [1, 2])]
    assert ranks == sorted(ranks)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_kind_of_cell_runs_and_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, packed = tmp_path / "run", tmp_path / "run.tar.gz"
    assert main(["--out", str(out), "--smoke", "--workers", "0", "--pack", str(packed)]) == 0
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {"base", "IPO"} <= set(document["figures"]["rows"])
    assert document["figures"]["curves"]["interventions"]
    assert document["figures"]["csr"]
    assert document["figures"]["kl"]["KL elsewhere"]["mean"] > 0
    with tarfile.open(packed) as archive:
        assert "cells/measure-ipo@1.json" in archive.getnames()
    before = {path: path.stat().st_mtime_ns for path in (out / "cells").iterdir()}
    assert main(["--out", str(out), "--smoke", "--workers", "0", "--report"]) == 0
    assert main(["--out", str(out), "--smoke", "--workers", "0"]) == 0
    assert before == {path: path.stat().st_mtime_ns for path in (out / "cells").iterdir()}
    assert (out / "methods.png").stat().st_size > 1000
    assert (out / "curves.png").stat().st_size > 1000
