"""The `steer` command: the composition root. Imports the other packages inside its commands, so that each starts fast
and the serving side never loads what only training needs.

Exit codes: 0 done, 1 failed, 2 wrong use.
"""

import typer

from steer.cli import (
    adapter_files,
    adapters,
    bake,
    baselines,
    csr,
    evaluation,
    ipo,
    jobs,
    keys,
    label,
    log,
    misses,
    pairs,
    review,
    rollout,
    serving,
    shadow,
    tenants,
    trigger_judge,
    triggers,
)

app = typer.Typer(
    name="steer",
    help="Halts a reasoning model at the first compliance cue in its reasoning and steers it back, live.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
train = typer.Typer(
    help="Training jobs; every job takes --config TOML and --out DIR and can be resumed.",
    no_args_is_help=True,
)
app.add_typer(train, name="train")
app.add_typer(log.log, name="log")
app.add_typer(keys.keys, name="keys")
app.add_typer(tenants.tenants, name="tenants")
app.add_typer(review.review, name="review")
app.add_typer(adapters.adapters, name="adapters")
app.add_typer(triggers.triggers, name="triggers")
triggers.triggers.command("judge")(trigger_judge.judge)
adapters.adapters.command("gate")(adapter_files.gate)
adapters.adapters.command("shadow")(shadow.shadow)
adapters.adapters.command("shadow-export")(shadow.shadow_export)
adapters.adapters.command("add")(adapter_files.add)
adapters.adapters.command("merge")(adapter_files.merge)

app.command()(serving.serve)
app.command()(serving.demo)
app.command()(serving.detect)
app.command()(csr.csr)
app.command("eval")(evaluation.evaluate)
app.command("bake")(bake.bake)
train.command("label")(label.train_label)
train.command("detector")(jobs.train_detector)
train.command("organism")(jobs.train_organism)
train.command("rollout")(rollout.train_rollout)
train.command("pairs")(pairs.train_pairs)
train.command("ipo")(ipo.train_ipo)
train.command("sft")(baselines.train_sft)
train.command("dpo")(baselines.train_dpo)
train.command("grpo")(baselines.train_grpo)
train.command("misses")(misses.train_misses)


def main() -> None:
    """Entry point of the `steer` command."""
    app()
