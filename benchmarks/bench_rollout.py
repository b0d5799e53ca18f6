"""Rollouts on a vLLM server against the same engine's raw decoding of the same batch: tokens a second, and their ratio.

    python -m benchmarks.bench_rollout                                   the organism on a vLLM that is started here
    python -m benchmarks.bench_rollout --url http://host:8000 --model NAME --folder FOLDER
    python -m benchmarks.bench_rollout --url … --cue-share 0.04          weights that are noise: scripted cuts

Steered: `steer train rollout` itself (first legs, verdicts by the shipped ONNX detector, cuts, triggers, legs that go
on from the kept ids), timed from its first request to the last line on disk. Plain: for every generation of that run
one request with its bare prompt and exactly its number of tokens, by clients of three styles: as the job asks
(concurrency, a seed each), without seeds, and without seeds and everything at once. The ratio is told against the
first and against the fastest. `--cue-share` takes that share of all segments for cues, whatever the detector says,
which is asked all the same.
"""

import argparse
import contextlib
import json
import os
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

import anyio

from benchmarks._report import finish
from benchmarks.rollout.plain import Style, generate
from benchmarks.rollout.steered import Steered, figures_of, run_job
from tests.vllm.fixture import running_vllm
from train.rollout.config import RolloutConfig

ROOT = Path(__file__).resolve().parent.parent
ORGANISM = ROOT / "proxy/embedded/organism"
COUNTERS = (
    "generation_tokens",
    "prompt_tokens",
    "prefix_cache_queries",
    "prefix_cache_hits",
    "num_preemptions",
    "iteration_tokens_total_count",
)


def counters(url: str) -> dict[str, float]:
    """The engine's own."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=60) as answer:
        lines = answer.read().decode().splitlines()
    found = dict.fromkeys(COUNTERS, 0.0)
    for line in lines:
        name, _, rest = line.partition("{")
        name = name.removeprefix("vllm:").removesuffix("_total")
        if name in found and rest:
            found[name] += float(rest.rsplit(" ", 1)[1])
    return found


def since(url: str, before: dict[str, float]) -> dict[str, float]:
    """What the counters have gained."""
    return {name: value - before[name] for name, value in counters(url).items()}


def config_of(args: argparse.Namespace, url: str, model: str, prompts: int, seed: int) -> RolloutConfig:
    """A job as a user would write it."""
    harmful = max(1, prompts * 3 // 4)
    engine: dict[str, Any] = {"kind": "served", "served": {"url": url, "concurrency": args.concurrency}}
    engine |= {name: getattr(args, name) for name in ("lanes", "block") if getattr(args, name) is not None}
    values: dict[str, Any] = {
        "model": {"name": str(args.folder), "served_name": model},
        "engine": engine,
        "prompts": {
            "source": "organism:train",
            "limit": harmful,
            "benign": "organism:train",
            "benign_limit": max(1, prompts - harmful),
            "seed": seed,
        },
        "detector": {"threads": args.threads},
        "policy": {"max_interventions": args.interventions},
        "triggers": {"branches": args.branches},
        "max_tokens": args.max_tokens,
        "seed": seed,
    }
    return RolloutConfig.model_validate(values)


def measure(args: argparse.Namespace, url: str, model: str, work: Path) -> dict[str, Any]:
    """Both sides, one after the other."""
    run_job(config_of(args, url, model, args.warm_up, args.seed + 1), work / "warm", args.cue_share)
    before = counters(url)
    steered = run_job(config_of(args, url, model, args.prompts, args.seed), work / "steered", args.cue_share)
    figures: dict[str, Any] = {"steered": figures_of(steered) | {"engine": since(url, before)}}
    print("steered", json.dumps(figures["steered"]), flush=True)
    styles = {
        "as_the_job": Style(args.concurrency, is_seeded=True),
        "no_seeds": Style(args.concurrency, is_seeded=False),
        "no_seeds_all_at_once": Style(None, is_seeded=False),
    }
    for name in args.plain:
        before = counters(url)
        made = anyio.run(generate, url, model, steered.legs, styles[name], 1.0)
        figures[f"plain_{name}"] = made | {"engine": since(url, before)}
        print(f"plain {name}", json.dumps(figures[f"plain_{name}"]), flush=True)
    return figures | ratios(steered, figures)


def ratios(steered: Steered, figures: dict[str, Any]) -> dict[str, Any]:
    """Decoded tokens a second of the steered side over each plain client's."""
    own = figures["steered"]["decoded_tokens_per_s"]
    plain = {name: made["decoded_tokens_per_s"] for name, made in figures.items() if name.startswith("plain_")}
    return {
        "ratio": {name: round(own / speed, 4) for name, speed in plain.items()},
        "ratio_to_the_fastest": round(own / max(plain.values()), 4) if plain else None,
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="a running engine; default: start one")
    parser.add_argument("--model", default="organism", help="its served name")
    parser.add_argument("--folder", type=Path, default=ORGANISM, help="tokenizer and template of the model")
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--warm-up", type=int, default=16, help="prompts of an unmeasured run before")
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--lanes", type=int, help="engine.lanes of the job; default: its own")
    parser.add_argument("--block", type=int, help="engine.block of the job; default: its own")
    parser.add_argument("--threads", type=int, default=max(1, min(8, (os.cpu_count() or 2) // 2)))
    parser.add_argument("--branches", type=int, default=6)
    parser.add_argument("--interventions", type=int, default=2)
    parser.add_argument("--max-tokens", type=int, default=400)
    parser.add_argument("--cue-share", type=float, help="scripted cuts: share of segments taken for cues")
    parser.add_argument("--plain", nargs="*", default=["as_the_job", "no_seeds", "no_seeds_all_at_once"])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with contextlib.ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="steer-rollout-")))
        url, model = args.url, args.model
        if url is None:
            if not (ROOT / ".venv-vllm").exists():
                os.environ.setdefault("STEER_TEST_VLLM_PYTHON", sys.executable)
            options = ("--max-num-seqs", "64", "--max-num-batched-tokens", "65536")
            server = stack.enter_context(running_vllm(*options, model_dir=args.folder, model=model))
            url = server.url
        figures = measure(args, url.rstrip("/"), model, work)
    for name in ("ratio", "ratio_to_the_fastest"):
        print(f"{name:24} {figures[name]}")
    settings = {name: value for name, value in vars(args).items() if name not in ("out", "url", "folder", "seed")}
    finish("rollout", {"settings": settings} | figures, seed=args.seed, out=args.out)


if __name__ == "__main__":
    main()
