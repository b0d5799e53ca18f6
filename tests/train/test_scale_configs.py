"""The accelerate configs of docs/scale.md through accelerate's own loader, with the commands that the page gives."""

import re
import shlex
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.commands.launch import launch_command_parser
from accelerate.utils import FullyShardedDataParallelPlugin

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = {"ddp": "MULTI_GPU", "fsdp": "FSDP", "deepspeed": "DEEPSPEED"}


def path_of(name: str) -> Path:
    return ROOT / f"train/configs/accelerate-{name}.yaml"


def commands() -> list[list[str]]:
    """What docs/scale.md tells to type, in its code blocks."""
    blocks = re.findall(r"```\w*\n(.*?)```", (ROOT / "docs/scale.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.startswith("accelerate launch")]


@pytest.mark.parametrize("name", CONFIGS)
def test_an_accelerate_config_is_one_that_accelerate_reads(name: str) -> None:
    loaded = load_config_from_file(str(path_of(name)))  # raises for a field that it does not know
    assert isinstance(loaded, ClusterConfig)
    assert loaded.distributed_type == CONFIGS[name]
    assert (loaded.num_machines, loaded.num_processes, loaded.mixed_precision) == (2, 16, "bf16")


def test_every_option_of_fsdp_and_deepspeed_is_one_of_the_launcher() -> None:
    known = {action.dest for action in launch_command_parser()._actions}
    options = set()
    for name, key in (("fsdp", "fsdp_config"), ("deepspeed", "deepspeed_config")):
        options |= set(yaml.safe_load(path_of(name).read_text())[key])
    assert options <= known


def test_the_commands_of_the_page_fit_the_launcher_and_name_files_that_there_are() -> None:
    given = commands()
    assert {Path(command[command.index("--config_file") + 1]).name for command in given} == {
        path_of(name).name for name in CONFIGS
    }
    for command in given:
        args = launch_command_parser().parse_args(command[2:])
        assert Path(ROOT / args.config_file).is_file()
        assert args.module
        assert (ROOT / args.training_script.replace(".", "/")).with_suffix(".py").is_file()
        assert (ROOT / args.training_script_args[args.training_script_args.index("--config") + 1]).is_file()
        assert args.machine_rank is not None
        assert args.main_process_ip is not None


def test_fsdp_takes_what_the_config_hands_to_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    options = yaml.safe_load(path_of("fsdp").read_text())["fsdp_config"]
    for name, value in options.items():
        monkeypatch.setenv(name.upper(), str(value))
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2
    assert plugin.reshard_after_forward is True
