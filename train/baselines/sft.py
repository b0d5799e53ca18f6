"""The job `steer train sft`: supervised training on intervened traces, prompt + kept + trigger + continuation.

The same pairs, stages, resume and publishing as IPO, but the rejected sides are not looked at. TRL's SFTTrainer gets
rows that have ids and labels already: nothing is tokenised again, cut, packed or given an end of sequence. Several
devices: `accelerate launch -m train.baselines.sft --config TOML --out DIR`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from datasets import Dataset
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling, SFTTrainer

from train.baselines.config import SftConfig
from train.ipo.arguments import pad_id, training_arguments
from train.ipo.config import load_config
from train.ipo.job import Built, Job, Stage
from train.ipo.launch import command
from train.ipo.loop import Guarded
from train.ipo.model import load_weights, lora_config
from train.ipo.run import Plan, run_plan

_NOT_TRAINED = -100  # transformers' label for a token that is conditioning only


class Labelled(TypedDict):
    """What the trainer gets: ids, and as labels the same ids where they are trained."""

    input_ids: list[int]
    labels: list[int]


class GuardedSFTTrainer(Guarded, SFTTrainer):
    """SFTTrainer on rows {input_ids, labels}; all else is TRL's."""


def labelled(row: Mapping[str, Any]) -> Labelled:
    """The chosen side of a row of `train.ipo.encoding.Row`, everything before it as conditioning."""
    prompt, chosen = row["prompt_ids"], row["chosen_ids"]
    return Labelled(input_ids=[*prompt, *chosen], labels=[_NOT_TRAINED] * len(prompt) + list(chosen))


def run_file(config_path: Path, out: Path) -> dict[str, Any]:
    """`run` with a TOML file."""
    return run(load_config(config_path, SftConfig), out)


def run(config: SftConfig, out: Path) -> dict[str, Any]:
    """Train both stages and publish; returns what report.json holds. Raises IpoError with a message for people."""
    return run_plan(config, Plan("sft", config.span, build), out)


def build(job: Job, stage: Stage) -> Built:
    """A trainer that goes on from the weights of the stage before."""
    is_lora = job.config.train.method == "lora"
    start = job.base.folder if is_lora or stage.start is None else stage.start
    arguments = training_arguments(job, stage) | {"dataset_kwargs": {"skip_prepare_dataset": True}}
    trainer = GuardedSFTTrainer(
        model=load_weights(start, job.weights_dtype),
        args=SFTConfig(output_dir=str(stage.folder), max_length=None, packing=False, **arguments),
        train_dataset=_dataset(stage.encoded.rows),
        eval_dataset=_dataset(stage.held_out.rows) if stage.held_out else None,
        processing_class=job.base.tokenizer,
        data_collator=DataCollatorForLanguageModeling(pad_token_id=pad_id(job)),
        peft_config=lora_config(job.config.lora) if is_lora else None,
        max_seconds=stage.max_seconds,
    )
    return Built(trainer)


def _dataset(rows: Sequence[Mapping[str, Any]]) -> Dataset:
    return Dataset.from_list([labelled(row) for row in rows])


def main(argv: list[str] | None = None) -> int:
    """The job as a module, for `accelerate launch`."""
    return command("train.baselines.sft", run_file, argv)


if __name__ == "__main__":
    raise SystemExit(main())
