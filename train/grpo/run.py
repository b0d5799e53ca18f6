"""The job `steer train grpo`: from prompts and a judge to an adapter, by reinforcement alone.

transformers generates in this process. What is written and how a killed job goes on: `train.ipo.launch`; besides,
`verdicts.RANK.jsonl` remembers the judge's verdicts, so that a job that a dead judge stopped asks nothing twice.
Several devices: `accelerate launch -m train.grpo.run --config TOML --out DIR`.
"""

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset
from trl.trainer.grpo_config import GRPOConfig

from train.grpo.config import GrpoConfig
from train.grpo.rewards import Prompts, RewardFunction, judged_by
from train.grpo.trainer import GuardedGRPOTrainer
from train.ipo.arguments import pad_id, training_arguments
from train.ipo.config import StageConfig, load_config
from train.ipo.encoding import Encoded
from train.ipo.errors import IpoConfigError, IpoDataError, IpoError, Reason
from train.ipo.job import Built, Job, Stage, start_processes
from train.ipo.launch import command, run_job
from train.ipo.model import load_base, load_weights, lora_config
from train.ipo.outputs import digest
from train.judges.cache import CachedJudge
from train.judges.errors import JudgeConfigError, JudgeError
from train.judges.load import load_judge
from train.rollout.errors import RolloutConfigError, RolloutError
from train.rollout.prompts import PromptRow, load_prompts
from train.rollout.vocabulary import ThinkMarkers, Vocabulary

WRONG_USE = (IpoConfigError, RolloutConfigError, JudgeConfigError)
FAILURES = (IpoError, RolloutError, JudgeError)


def run_file(config_path: Path, out: Path) -> dict[str, Any]:
    """`run` with a TOML file."""
    return run(load_config(config_path, GrpoConfig), out)


def run(config: GrpoConfig, out: Path) -> dict[str, Any]:
    """Train and publish; returns what report.json holds. Raises one of WRONG_USE or FAILURES, for people."""
    state = start_processes(config)
    rows = load_prompts(config.prompts)
    base = load_base(config, config.think_markers)
    vocabulary = Vocabulary(base.name, base.tokenizer, ThinkMarkers(*config.think_markers), config.template_options)
    judge = CachedJudge(load_judge(config.judge), out / f"verdicts.{state.process_index}.jsonl")
    ids = {row.id: vocabulary.prompt_ids(row.messages, row.tools) for row in rows}
    prompts = Prompts({row.id: row for row in rows}, ids)
    rewards = judged_by(judge, prompts, vocabulary, config.reward)
    made = partial(build, config=config, prompts=prompts, rewards=rewards)
    job = Job("grpo", config, made, base, out, state, rows_are="prompts", shorter="grpo.max_new_tokens")
    said = _said(rows)
    key = digest("grpo", config.model_dump_json(), said["sha256"], base.sha256)
    inputs = {"prompts": said, "judge": judge.name}
    return run_job(job, key, inputs, lambda: [_stage(job, config, prompts)], lambda: {"judge_cost": judge.cost()})


def build(job: Job, stage: Stage, config: GrpoConfig, prompts: Prompts, rewards: RewardFunction) -> Built:
    """With LoRA the reference is the adapter switched off; TRL loads one for full training."""
    settings = config.grpo
    pad_id(job)
    trainer = GuardedGRPOTrainer(
        model=load_weights(job.base.folder, job.weights_dtype),
        reward_funcs=rewards,
        args=GRPOConfig(
            output_dir=str(stage.folder),
            num_generations=settings.generations,
            max_completion_length=settings.max_new_tokens,
            temperature=settings.temperature,
            top_p=settings.top_p,
            top_k=settings.top_k,
            loss_type=settings.loss,
            beta=settings.beta,
            epsilon=settings.clip,
            num_iterations=settings.iterations,
            **training_arguments(job, stage),
        ),
        train_dataset=Dataset.from_list(list(stage.encoded.rows)),
        processing_class=job.base.tokenizer,
        peft_config=lora_config(config.lora) if config.train.method == "lora" else None,
        prompt_ids=prompts.ids,
        max_seconds=stage.max_seconds,
    )
    return Built(trainer)


def _stage(job: Job, config: GrpoConfig, prompts: Prompts) -> Stage:
    """The prompts that leave room for a whole completion. Raises IpoDataError."""
    settings = config.grpo
    limit = job.base.context_length - settings.max_new_tokens
    fitting = [{"prompt": id} for id, ids in prompts.ids.items() if len(ids) <= limit]
    too_long = len(prompts.ids) - len(fitting)
    an_update = config.train.batch_size * config.train.accumulation * job.state.num_processes // settings.generations
    if len(fitting) < an_update:
        raise IpoDataError(
            f"{len(fitting)} prompts are fewer than the {an_update} of one update ({too_long} leave no room for "
            f"grpo.max_new_tokens = {settings.max_new_tokens}); give more prompts, or lower train.batch_size"
        )
    encoded = Encoded(fitting, {Reason.TOO_LONG: too_long} if too_long else {})
    return Stage(
        "stage-1",
        encoded,
        None,
        StageConfig(epochs=settings.epochs, learning_rate=settings.learning_rate),
        job.out / "stage-1",
        None,
        samples_per_row=settings.generations * settings.iterations,
        max_seconds=settings.max_seconds,
    )


def _said(rows: list[PromptRow]) -> dict[str, Any]:
    """What manifest and report say of the prompts; no text."""
    labels = Counter(row.label or "unlabelled" for row in rows)
    return {"sha256": digest(*(row.id for row in rows)), "count": len(rows), "labels": dict(labels)}


def main(argv: list[str] | None = None) -> int:
    """The job as a module, for `accelerate launch`."""
    return command("train.grpo.run", run_file, argv, wrong_use=WRONG_USE, failures=FAILURES)


if __name__ == "__main__":
    raise SystemExit(main())
