"""What is in deploy/ fits the schemas of what reads it, and the command line and settings of what it starts."""

import importlib.util
import json
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import typer
import yaml

from proxy.access.roles import ROUTES
from proxy.server import GRACEFUL_SHUTDOWN_S
from proxy.settings import Settings
from steer.cli import app
from train.bake.config import load_config
from train.rollout.config import load_config as load_rollout

DEPLOY = Path(__file__).resolve().parent.parent / "deploy"
OURS = ("steer-proxy", "steer-train")


class _ComposeLoader(yaml.SafeLoader):  # type: ignore[misc]  # yaml ships no types
    """Reads what Compose adds to YAML: !override and !reset, whose value stands as it is."""


def _as_it_is(loader: Any, _tag: str, node: Any) -> Any:
    match node:
        case yaml.MappingNode():
            return loader.construct_mapping(node, deep=True)
        case yaml.SequenceNode():
            return loader.construct_sequence(node, deep=True)
        case _:
            return loader.construct_scalar(node)


_ComposeLoader.add_multi_constructor("!", _as_it_is)


def compose(name: str) -> dict[str, Any]:
    loaded = yaml.load((DEPLOY / name).read_text(), Loader=_ComposeLoader)
    assert isinstance(loaded, dict)
    return loaded


def manifests() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml")):
        if path.name != "kustomization.yaml":
            yield from ((f"{path.name}:{item['kind']}", item) for item in yaml.safe_load_all(path.read_text()))


MANIFESTS = dict(manifests())


def pod_of(item: dict[str, Any]) -> dict[str, Any] | None:
    """The spec of an object's pods; None where it has none."""
    spec = item.get("spec", {})
    pod: dict[str, Any] | None = spec.get("jobTemplate", {}).get("spec", spec).get("template", {}).get("spec")
    return pod


def containers() -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Every container of the cluster with the spec of its pod."""
    for item in MANIFESTS.values():
        if (pod := pod_of(item)) is not None:
            yield from ((container, pod) for container in pod["containers"])


@pytest.mark.parametrize("name", ["compose.yaml", "compose.cpu.yaml"])
def test_compose_files_fit_the_compose_schema(name: str) -> None:
    found = importlib.util.find_spec("check_jsonschema")
    assert found is not None
    assert found.origin is not None
    schema = json.loads((Path(found.origin).parent / "builtin_schemas/vendor/compose-spec.json").read_text())
    jsonschema.validate(compose(name), schema)


@pytest.mark.parametrize("version", ["1.35", "1.37"])
@pytest.mark.parametrize("name", MANIFESTS)
def test_manifests_fit_the_schemas_of_kubernetes(name: str, version: str) -> None:
    kubernetes_validate.validate(MANIFESTS[name], version, strict=True)


def test_the_kustomization_names_what_there_is() -> None:
    kustomization = yaml.safe_load((DEPLOY / "kubernetes/kustomization.yaml").read_text())
    named = {*kustomization["resources"], *kustomization["configMapGenerator"][0]["files"]}
    there = {path.name for path in (DEPLOY / "kubernetes").iterdir()}
    assert named == there - {"kustomization.yaml", "secret.example.yaml"}
    assert {image["name"] for image in kustomization["images"]} == set(OURS)


def test_what_is_ours_runs_without_rights_on_a_read_only_file_system() -> None:
    ours = [(container, pod) for container, pod in containers() if container["image"] in OURS]
    assert len(ours) == 2
    for container, pod in ours:
        assert pod["securityContext"]["runAsNonRoot"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
        }  # fmt: skip
    for service in compose("compose.yaml")["services"].values():
        assert service["cap_drop"] == ["ALL"]
        if service["image"] in (*OURS, "postgres:17"):
            assert service["read_only"]
            assert service["user"].split(":")[0] not in ("0", "root")


def test_every_command_is_one_that_there_is() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]  # a group
    started = [container["args"] for container, _ in containers() if container["image"] in OURS]
    services = compose("compose.yaml")["services"].values()
    started += [service["command"] for service in services if service["image"] in OURS]
    assert len(started) == 4
    for name, *arguments in started:
        commands[name].make_context(name, arguments)  # raises for an option or value that it does not take


def test_every_setting_is_one_that_there_is() -> None:
    names = {entry["name"] for container, _ in containers() for entry in container.get("env", [])}
    for service in compose("compose.yaml")["services"].values():
        names |= set(service.get("environment", {}))
    settings = {name for name in names if name.startswith("STEER_")} - {"STEER_KEY"}
    assert len(settings) >= 4
    for name in settings:
        section, field = name.removeprefix("STEER_").lower().split("__")
        annotation = Settings.model_fields[section].annotation
        assert field in annotation.model_fields, name  # type: ignore[union-attr]  # a section


def test_probes_ask_paths_that_are_open_to_everybody() -> None:
    open_paths = {route.path for route in ROUTES if route.allowed is None}
    probed = {
        container[probe]["httpGet"]["path"]
        for container, _ in containers()
        for probe in ("startupProbe", "livenessProbe", "readinessProbe")
        if container["image"] in OURS and probe in container
    }
    assert probed == {"/healthz", "/readyz"} <= open_paths


def test_the_bake_config_of_the_containers_fits() -> None:
    config = load_config(DEPLOY / "kubernetes/bake.toml")
    assert config.adapters == Path("/adapters")
    assert config.rollout["engine"]["served"]["url"] == "http://vllm:8000"


def test_the_bake_config_of_the_containers_is_the_shipped_one_with_other_places() -> None:
    shipped = tomllib.loads((DEPLOY.parent / "train/configs/bake-r1-distill-llama-8b.toml").read_text())
    copied = tomllib.loads((DEPLOY / "kubernetes/bake.toml").read_text())
    assert without_places(copied) == without_places(shipped)


def without_places(value: Any) -> Any:
    """The same without paths and hosts."""
    match value:
        case dict():
            return {key: without_places(entry) for key, entry in value.items()}
        case list():
            return [without_places(entry) for entry in value]
        case str():
            return re.sub(r"//[^/]+|^(/data/prompts|data|/data|runs|/srv/steer)?/", "", value)
        case _:
            return value


def test_a_proxy_that_is_told_to_stop_has_the_time_to_end_its_streams() -> None:
    pod = MANIFESTS["proxy.yaml:Deployment"]["spec"]["template"]["spec"]
    _, wait = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    assert pod["terminationGracePeriodSeconds"] > GRACEFUL_SHUTDOWN_S + int(wait)
    assert MANIFESTS["proxy.yaml:Deployment"]["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert MANIFESTS["proxy.yaml:PodDisruptionBudget"]["spec"]["minAvailable"] >= 1
    composed = compose("compose.yaml")["services"]["proxy"]["stop_grace_period"]
    assert int(composed.removesuffix("s")) > GRACEFUL_SHUTDOWN_S


def test_only_the_proxy_and_the_bake_reach_the_engine_that_takes_adapters() -> None:
    engine = MANIFESTS["vllm.yaml:Deployment"]["spec"]["template"]
    policy = MANIFESTS["network.yaml:NetworkPolicy"]["spec"]
    assert policy["podSelector"]["matchLabels"] == engine["metadata"]["labels"]
    [rule] = policy["ingress"]
    allowed = {value for peer in rule["from"] for value in peer["podSelector"]["matchExpressions"][0]["values"]}
    proxy, bake = MANIFESTS["proxy.yaml:Deployment"], MANIFESTS["bake.yaml:CronJob"]
    assert allowed == {proxy["metadata"]["labels"]["app"], bake["metadata"]["labels"]["app"]}
    for arguments in (engine["spec"]["containers"][0]["args"], compose("compose.yaml")["services"]["vllm"]["command"]):
        assert "--enable-lora" in arguments


def test_no_secret_is_written_into_a_file() -> None:
    for container, _ in containers():
        for entry in container.get("env", []):
            is_secret = any(word in entry["name"] for word in ("TOKEN", "KEY", "LOG__URL", "PASSWORD"))
            assert not is_secret or "secretKeyRef" in entry["valueFrom"], entry["name"]
    for service in compose("compose.yaml")["services"].values():
        for name, value in service.get("environment", {}).items():
            if any(word in name for word in ("TOKEN", "KEY", "LOG__URL", "PASSWORD")):
                assert "${" in value, name


def overlay() -> dict[str, dict[str, Any]]:
    folder = DEPLOY / "kubernetes-cpu"
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert kustomization["resources"] == ["../kubernetes"]
    patches = {patch["path"] for patch in kustomization["patches"]}
    assert patches == {path.name for path in folder.iterdir()} - {"kustomization.yaml"}
    return {
        f"{name}:{item['kind']}": item for name in patches for item in [yaml.safe_load((folder / name).read_text())]
    }


def test_without_gpus_the_toy_model_stands_in_and_nothing_is_baked() -> None:
    patches = overlay()
    assert set(patches) <= set(MANIFESTS), "each patches an object that there is"
    assert patches["bake.yaml:CronJob"]["$patch"] == "delete"
    pod = patches["vllm.yaml:Deployment"]["spec"]["template"]["spec"]
    original = MANIFESTS["vllm.yaml:Deployment"]["spec"]["template"]["spec"]["containers"][0]
    [container] = pod["containers"]
    assert container["name"] == original["name"]
    assert set(container) & {"env", "resources", "volumeMounts"} == {"env", "resources", "volumeMounts"}
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert "nvidia.com/gpu" not in container["resources"]["limits"]
    assert container["command"][1:] == ["-m", "proxy.embedded"]


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl, whose kustomize builds the folders, is not here")
@pytest.mark.parametrize("folder", ["kubernetes", "kubernetes-cpu"])
def test_what_kustomize_builds_fits_and_holds_no_name_that_leads_nowhere(folder: str) -> None:
    made = subprocess.run(["kubectl", "kustomize", DEPLOY / folder], capture_output=True, text=True, check=True)
    objects = {(item["kind"], item["metadata"]["name"]): item for item in yaml.safe_load_all(made.stdout)}
    for item in objects.values():
        kubernetes_validate.validate(item, "1.37", strict=True)
        assert item["kind"] == "Namespace" or item["metadata"]["namespace"] == "steer"
    assert (("CronJob", "bake") in objects) == (folder == "kubernetes")
    pods = [pod for item in objects.values() if (pod := pod_of(item)) is not None]
    for volume in (volume for pod in pods for volume in pod.get("volumes", [])):
        match volume:
            case {"persistentVolumeClaim": {"claimName": name}}:
                assert ("PersistentVolumeClaim", name) in objects
            case {"configMap": {"name": name}}:
                assert ("ConfigMap", name) in objects
    images = {container["image"] for pod in pods for container in pod["containers"]}
    assert not images & set(OURS), "each is of a registry"


@pytest.mark.parametrize("version", ["1.35", "1.37"])
def test_the_ray_job_holds_pods_that_fit_and_a_command_and_config_of_ours(version: str) -> None:
    folder = DEPLOY / "kubernetes-ray"
    kubernetes_validate.validate(yaml.safe_load((folder / "network.yaml").read_text()), version, strict=True)
    job = yaml.safe_load((folder / "rollout.yaml").read_text())
    jsonschema.validate(job, json.loads((DEPLOY.parent / "tests/rayjob.schema.json").read_text()))
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "ray"}, **group["template"]}
        kubernetes_validate.validate(pod, version, strict=True)
        assert pod["spec"]["containers"][0]["securityContext"]["readOnlyRootFilesystem"]
    config = load_rollout(folder / "rollout.toml")
    assert config.cluster is not None
    assert config.cluster.address == "auto"
    assert config.cluster.workers == cluster["workerGroupSpecs"][0]["replicas"]
    locked = (DEPLOY.parent / "constraints.txt").read_text().splitlines()
    assert f"ray=={cluster['rayVersion']}" in locked
    assert job["spec"]["entrypoint"].split()[:4] == ["steer", "train", "rollout", "--config"]
