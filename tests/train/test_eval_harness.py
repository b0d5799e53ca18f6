"""The lm-eval harness as a program beside us: a stand-in takes its arguments and writes its results."""

import itertools
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.train.eval_case import MODEL, SETS, FailingGenerator, WordJudge, a_plan, scripted_turn
from tests.train.scripted_engine import scripted_vocabulary
from train.evaluation import harness
from train.evaluation.compare import compare, load_evaluated
from train.evaluation.config import EvaluationConfig
from train.evaluation.errors import HarnessError
from train.evaluation.job import Extra, Subject, work
from train.evaluation.report import EvaluationReport

RESULTS: dict[str, Any] = {
    "results": {
        "gsm8k": {
            "alias": "gsm8k",
            "exact_match,strict-match": 0.6,
            "exact_match_stderr,strict-match": 0.05,
            "exact_match,flexible-extract": 0.7,
            "exact_match_stderr,flexible-extract": 0.04,
        },
        "hellaswag": {"acc,none": 0.5, "acc_stderr,none": "N/A"},
        "wikitext": {"word_perplexity,none": 11.2},
    },
    "n-samples": {"gsm8k": {"original": 1319, "effective": 100}, "hellaswag": {"original": 10, "effective": 10}},
    "versions": {"gsm8k": 3},
}
STAND_IN = """#!{python}
import json, os, pathlib, sys
options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
pathlib.Path({seen!r}).write_text(json.dumps([sys.argv[1:], os.environ.get("OPENAI_API_KEY")]))
print("one line\\nthe last word")
if {code}:
    sys.exit({code})
folder = pathlib.Path(sys.argv[sys.argv.index("--output_path") + 1]) / "a__model"
folder.mkdir(parents=True)
(folder / "results_2026-11-30.json").write_text({results!r})
"""


def stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch, code: int = 0, results: str | None = None) -> Path:
    """An lm_eval on the PATH; returns the file that tells how it was called."""
    program, seen = folder / "bin" / "lm_eval", folder / "seen.json"
    program.parent.mkdir(exist_ok=True)
    text = STAND_IN.format(
        python=sys.executable, seen=str(seen), code=code, results=json.dumps(RESULTS) if results is None else results
    )
    program.write_text(text, encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    return seen


def a_config(**lm_eval: Any) -> EvaluationConfig:
    return EvaluationConfig.model_validate(
        {
            "model": {"name": "m", "served_name": "served", "adapter": "m@2"},
            "engine": {"kind": "served", "served": {"url": "http://host:1/", "api_key_env": "MY_KEY"}},
            "judge": {"spec": "organism"},
            "sampling": {"temperature": 0.6, "top_p": 0.95},
            "lm_eval": {"tasks": ["gsm8k", "hellaswag"]} | lm_eval,
        }
    )


def test_the_harness_is_called_with_the_served_model_and_its_results_become_rates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = stand_in(tmp_path, monkeypatch)
    monkeypatch.setenv("MY_KEY", "k")
    found = harness.run_harness(a_config(limit=100, max_tokens=512, options=["--log_samples"]), tmp_path)
    arguments, key = json.loads(seen.read_text())
    options = dict(itertools.pairwise(arguments))
    assert options["--model"] == "local-chat-completions"
    assert options["--model_args"].startswith("model=m@2,base_url=http://host:1/v1/chat/completions,num_concurrent=16,")
    assert (options["--tasks"], options["--gen_kwargs"]) == (
        "gsm8k,hellaswag",
        "temperature=0.6,top_p=0.95,max_gen_toks=512",
    )
    assert {"--apply_chat_template", "--log_samples", "--limit"} <= set(arguments)
    assert key == "k"
    rates = harness.rates(found, 0.95)
    assert list(rates) == ["lm_eval:gsm8k", "lm_eval:hellaswag"]
    strict = rates["lm_eval:gsm8k"]
    assert (strict.share, strict.n, strict.interval) == (0.6, 100, "stderr")
    assert strict.low == pytest.approx(0.502, abs=1e-3)
    assert strict.high == pytest.approx(0.698, abs=1e-3)
    assert rates["lm_eval:hellaswag"].low is None
    seen.unlink()
    assert harness.run_harness(a_config(), tmp_path) == found, "what is done is not done again"
    assert not seen.exists()


def test_tasks_that_need_logprobs_go_to_the_completions_route(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = stand_in(tmp_path, monkeypatch)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    harness.run_harness(a_config(chat=False, url="http://other:2"), tmp_path)
    arguments, key = json.loads(seen.read_text())
    assert "local-completions" in arguments
    assert "base_url=http://other:2/v1/completions" in arguments[3]
    assert "tokenizer=m,tokenized_requests=False" in arguments[3]
    assert "--apply_chat_template" not in arguments
    assert key is None


def test_a_harness_that_is_missing_fails_or_writes_nonsense_is_said_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as bare:
        bare.setenv("PATH", str(tmp_path))
        bare.setattr(harness, "find_spec", lambda name: None)
        with pytest.raises(HarnessError, match=r"pip install 'lm-eval\[api\]'"):
            harness.run_harness(a_config(), tmp_path)
    for code, results, message in (
        (3, None, r"exit code 3 \(the last word\)"),
        (0, "{", "is no results file"),
        (0, '{"results": [1]}', "holds no tasks"),
    ):
        stand_in(tmp_path, monkeypatch, code, results)
        with pytest.raises(HarnessError, match=message):
            harness.run_harness(a_config(), tmp_path)
        assert not (tmp_path / harness.RESULTS).exists()


def report_with(folder: Path, monkeypatch: pytest.MonkeyPatch, share: float) -> EvaluationReport:
    folder.mkdir()
    figures = {"results": {"gsm8k": {"exact_match,none": share, "exact_match_stderr,none": 0.05}}}
    stand_in(folder, monkeypatch, results=json.dumps(figures))
    vocabulary, config = scripted_vocabulary(opens_think=True), a_config()
    subject = Subject(lambda: FailingGenerator(vocabulary, scripted_turn), vocabulary, WordJudge(), MODEL)
    extra = Extra({}, lambda: harness.run_harness(config, folder), lambda found: harness.rates(found, 0.95))
    return work(SETS, subject, a_plan(), extra, folder)


def test_its_tasks_stand_in_the_report_and_are_compared_as_unrelated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = report_with(tmp_path / "a", monkeypatch, 0.6)
    assert set(report.rates.capability) == {"sums", "lm_eval:gsm8k"}
    assert report.rates.capability_mean is not None
    assert report.rates.capability_mean.share == 0.5, "of the sets alone"
    assert report.rates.monitorability is None
    report_with(tmp_path / "b", monkeypatch, 0.9)
    task = compare(load_evaluated(tmp_path / "a"), load_evaluated(tmp_path / "b")).measures["capability.lm_eval:gsm8k"]
    assert (task.is_paired, task.interval, task.verdict) == (False, "stderr", "better")
    assert task.low == pytest.approx(0.3 - 1.96 * 0.05 * 2**0.5, abs=1e-3)
