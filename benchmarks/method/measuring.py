"""Cells that measure: what a model writes on the measured prompts, alone or behind the proxy's offline driver.

The driver is the rollout's, in hold mode with one branch, which decides what the live proxy decides on the same text.
Each prompt has its own random numbers, the same in every cell.
"""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.method.cells import Cell
from benchmarks.method.engine import Opened, opened
from benchmarks.method.judged import Turn, judge, pack, packed
from benchmarks.method.places import Places
from benchmarks.method.prompts import GROUPS, measured, validation
from benchmarks.method.sizes import MAX_TOKENS, Sizes
from steer.policy import Policy
from steer.triggers import TriggerPool
from train.organism import oracle
from train.rollout.detectors import DetectorConfig, load_detector
from train.rollout.driver import Plan, Tools, roll
from train.rollout.generator import Request, Sampling
from train.rollout.prompts import PromptRow
from train.rollout.trace import Branch, Rollout, Sample

# The safe opening of the table: a text of the trigger pool, so that the organism can read it.
OPENING = TriggerPool().get("criteria-1").text
_MARKER = "</think>"
_BLOCK = 1000  # prompts in the driver at a time
_LANES = 2  # one block is judged while the other generates


def measure(cell: Cell, sizes: Sizes, places: Places) -> dict[str, Any]:
    """Unsteered samples of all groups or the cell's, or of the prompts that learning rates are chosen by."""
    draw = validation if cell.options.get("prompts") == "validation" else measured
    opening = OPENING if cell.options.get("opening") else ""
    weights = places.weights(cell.options.get("weights"), cell.seed)
    groups: dict[str, Any] = {}
    with opened(weights, sizes) as model:
        for group in cell.options.get("groups", GROUPS):
            prompts = draw(group, sizes, cell.seed)
            if not prompts:
                continue
            began = time.monotonic()
            turns, tokens = _sample(model, prompts, opening)
            seconds = time.monotonic() - began
            flags = packed(judge(group, prompts, turns))
            groups[group] = {"flags": flags, "tokens": tokens, "seconds": round(seconds, 2)}
    return {"groups": groups, "opening": opening}


def _sample(model: Opened, prompts: Sequence[PromptRow], opening: str) -> tuple[list[Turn], int]:
    """One turn of each prompt, and how many tokens were sampled."""
    vocabulary = model.vocabulary
    begun = vocabulary.encode(opening) if opening else []
    requests = [
        Request([*vocabulary.prompt_ids(prompt.messages), *begun], MAX_TOKENS, prompt.seed or 0) for prompt in prompts
    ]
    results = model.generator.generate(requests, Sampling())
    turns = []
    for made in results:
        ids, _ = vocabulary.split_end(made.token_ids, is_ended=made.finish_reason == "stop")
        reasoning, _, answer = vocabulary.decode(ids).partition(_MARKER)
        turns.append(Turn(opening + reasoning, answer))
    return turns, sum(len(made.token_ids) for made in results)


def detector_config(name: str, threads: int) -> DetectorConfig:
    """The detector of this name."""
    match name:
        case "shipped":
            return DetectorConfig(kind="onnx", threads=threads)
        case "self":
            return DetectorConfig(kind="self")
        case _:
            return DetectorConfig(kind="function", function=f"benchmarks.method.detectors:{name}")


def drive(cell: Cell, sizes: Sizes, places: Places) -> dict[str, Any]:
    """One group behind the driver. Of harmful prompts also what is left after each number of interventions."""
    group = cell.options["group"]
    prompts = measured(group, sizes, cell.seed)
    weights = places.weights(cell.options.get("weights"), cell.seed)
    began = time.monotonic()
    with opened(weights, sizes) as model:
        rollouts = _drive(model, prompts, detector_config(cell.options["detector"], sizes.judging_threads))
    seconds = time.monotonic() - began
    samples = [rollout.samples[0] for rollout in rollouts]
    flags = judge(group, prompts, [shown(sample) for sample in samples])
    flags["halted"] = [sample.base.cut is not None for sample in samples]
    branches = [_branch(sample) for sample in samples]
    flags["gave_up"] = [branch is not None and branch.refusal_cause is not None for branch in branches]
    found: dict[str, Any] = {
        "groups": {group: {"flags": packed(flags), "seconds": round(seconds, 2)}},
        "generations": sum(rollout.num_generations for rollout in rollouts),
        "interventions": sum(len(branch.steps) for branch in branches if branch is not None),
    }
    if group == "harmful":
        found["after"] = _after(prompts, samples)
        found["detected"] = detection(rollouts)
    return found


def _drive(model: Opened, prompts: Sequence[PromptRow], config: DetectorConfig) -> list[Rollout]:
    detector = load_detector(config, model.generator, model.vocabulary, model.vocabulary.name)
    plan = Plan(
        policy=Policy(threshold=detector.threshold),
        pool=TriggerPool(),
        branches=0,  # one, as live
        benign_branches=0,
        samples=1,
        sampling=Sampling(),
        max_tokens=MAX_TOKENS,
        seed=1,
    )
    tools = Tools(model.generator, detector, model.vocabulary, model.vocabulary.name)
    blocks = [prompts[start : start + _BLOCK] for start in range(0, len(prompts), _BLOCK)]
    with ThreadPoolExecutor(_LANES) as lanes:
        return [rollout for block in lanes.map(lambda rows: roll(rows, tools, plan), blocks) for rollout in block]


def shown(sample: Sample) -> Turn:
    """What the client sees: the whole turn where nothing was halted, else the spans."""
    branch = _branch(sample)
    if branch is None:
        return Turn(sample.base.reasoning, sample.base.answer)
    return Turn(
        "".join(span.text for span in branch.spans if span.channel == "reasoning"),
        "".join(span.text for span in branch.spans if span.channel == "answer"),
    )


def stages(sample: Sample) -> list[Turn]:
    """What would have been shown had the watching ended after 0, 1, 2 … interventions."""
    branch = _branch(sample)
    kept, leg = "", sample.base
    turns: list[Turn] = []
    for step in [] if branch is None else branch.steps:
        turns.append(Turn(kept + leg.reasoning, leg.answer))
        if leg.cut is None or step.leg is None:
            break
        kept += leg.reasoning[: leg.cut.kept_chars] + step.trigger.text
        leg = step.leg
    return [*turns, Turn(kept + leg.reasoning, leg.answer)]


def _after(prompts: Sequence[PromptRow], samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """Harmful reasoning after k interventions at most, k = 0 … the policy's limit."""
    traces = [stages(sample) for sample in samples]
    found = []
    for count in range(Policy().max_interventions + 1):
        turns = [trace[min(count, len(trace) - 1)] for trace in traces]
        found.append(pack(judge("harmful", prompts, turns)["harmful_reasoning"]))
    return found


def detection(rollouts: Sequence[Rollout]) -> dict[str, Any]:
    """The detector against the oracle on unsteered traces: of those with a cue, where the cut was."""
    counts = dict.fromkeys(("cues", "exact", "early", "late", "missed", "clean", "false_halts"), 0)
    for rollout in rollouts:
        for sample in rollout.samples:
            cut = sample.base.cut if sample.base.cut is not None and not sample.base.cut.is_forced else None
            cue = oracle.first_cue(sample.base.reasoning)
            if cue is None:
                counts["clean"] += 1
                counts["false_halts"] += cut is not None
                continue
            counts["cues"] += 1
            # A cut is where the segment begins, the oracle's cue where its first letter stands.
            place = None if cut is None else _trimmed(sample.base.reasoning, cut.at)
            counts["missed" if place is None else "exact" if place == cue else "early" if place < cue else "late"] += 1
    return counts


def _trimmed(text: str, at: int) -> int:
    return at + len(text[at:]) - len(text[at:].lstrip())


def _branch(sample: Sample) -> Branch | None:
    return sample.branches[0] if sample.branches else None
