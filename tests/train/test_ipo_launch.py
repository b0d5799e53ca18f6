"""`accelerate launch` with two processes, DDP and FSDP, gives what one process gives."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.patience import PATIENCE_S
from tests.ports import free_port
from tests.train.test_ipo_job import losses_of, write_toml
from tests.train.tiny_reasoner import job_config, one_thread
from train.ipo.config import IpoConfig
from train.ipo.run import run

__all__ = ["one_thread"]  # a fixture that every test here uses

ROOT = Path(__file__).parents[2]
FSDP = (
    "--use_fsdp --fsdp_version 2 --fsdp_auto_wrap_policy TRANSFORMER_BASED_WRAP --fsdp_state_dict_type FULL_STATE_DICT"
)
# accelerate looks for several accelerators before it spawns; the job's own device = "cpu" then chooses gloo.
LAUNCHES = {
    "ddp": ("--multi_gpu", "train.ipo.run", "multi_cpu"),
    "fsdp": (FSDP, "tests.train.fsdp_on_cpu", "fsdp"),
}


def settings(**changes: Any) -> dict[str, Any]:
    """No SFT term: it is a mean over the tokens of each process's share, which no split of a batch keeps."""
    return {"loss": {"beta": 0.1, "sft_weight": 0.0}, "train__checkpoint_every": 3, **changes}


def launch(kind: str, config: dict[str, Any], folder: Path) -> None:
    options, module, _ = LAUNCHES[kind]
    write_toml(folder / "job.toml", config)
    command = [
        *(sys.executable, "-m", "accelerate.commands.launch", *options.split()),
        *("--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"),
        *("--main_process_port", str(free_port()), "-m", module),
        *("--config", str(folder / "job.toml"), "--out", str(folder / "out")),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=4 * PATIENCE_S, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("report: ") == 1


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("kind", "method"), [("ddp", "lora"), ("fsdp", "full")])
def test_two_processes_learn_what_one_learns(kind: str, method: str, tmp_path: Path) -> None:
    rate = 1e-2 if method == "lora" else 1e-3
    changes: dict[str, Any] = {"train__method": method, "stage1__learning_rate": rate, "stage2__learning_rate": rate}
    # two pairs on each of two processes are the four pairs of one
    launch(kind, job_config(tmp_path, **settings(**changes, train__batch_size=2)), tmp_path)
    run(IpoConfig.model_validate(job_config(tmp_path, **settings(**changes))), tmp_path / "one")
    for stage in ("stage-1", "stage-2"):
        assert losses_of(tmp_path / "out", stage) == pytest.approx(losses_of(tmp_path / "one", stage), rel=1e-4)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["processes"] == 2
    assert {stage["distribution"] for stage in report["stages"]} == {LAUNCHES[kind][2]}
    name = "adapter/adapter_model.safetensors" if method == "lora" else "model/model.safetensors"
    ours, theirs = load_file(tmp_path / "out" / name), load_file(tmp_path / "one" / name)
    assert ours.keys() == theirs.keys()
    for key, weights in theirs.items():
        torch.testing.assert_close(ours[key], weights, rtol=1e-3, atol=1e-4)
