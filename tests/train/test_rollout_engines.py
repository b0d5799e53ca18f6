"""Engines: the same ids whatever stands beside them, exact prefixes over HTTP, errors that say what to do."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.conftest import ROOT
from tests.upstream import Fault, Generation, Script
from tests.upstream.server import refused_url, running
from tests.upstream.tokens import decode, encode, marker_id
from train.rollout.config import RolloutConfig
from train.rollout.errors import EngineError, RolloutConfigError, TemplateError
from train.rollout.generator import Request, Sampling
from train.rollout.inprocess import InProcessConfig, InProcessGenerator
from train.rollout.local import LocalConfig, LocalGenerator, draw
from train.rollout.served import ServedConfig, ServedGenerator
from train.rollout.vocabulary import ThinkMarkers, load_vocabulary

ORGANISM = str(ROOT / "proxy/embedded/organism")
VOCABULARY = load_vocabulary(ORGANISM, ThinkMarkers())
PROMPTS = [
    VOCABULARY.prompt_ids([{"role": "user", "content": text}])
    for text in ("What is 4 plus 3?", "How do I bake bread for a small party at home?", "Hi.", "Tell me a story.")
]


@pytest.fixture(scope="module")
def local() -> LocalGenerator:
    return LocalGenerator(ORGANISM, None, LocalConfig(batch_size=3, device="cpu", threads=1), VOCABULARY.end_ids)


def requests(max_tokens: int = 40) -> list[Request]:
    return [Request(prompt, max_tokens, seed) for seed, prompt in enumerate(PROMPTS)]


def test_a_sample_does_not_depend_on_what_is_in_its_batch(local: LocalGenerator) -> None:
    together = local.generate(requests(), Sampling())
    alone = [local.generate([request], Sampling())[0] for request in requests()]
    assert together == alone
    assert len({tuple(made.token_ids) for made in together}) == len(together)
    other = local.generate([replace(request, seed=99) for request in requests()], Sampling())
    assert other != together


def test_a_prefix_that_rows_share_is_computed_once(local: LocalGenerator) -> None:
    one, two, _, _ = requests(12)
    shared = [one, two, replace(one, seed=7)]
    seen: list[list[int]] = []
    hook = local._model.register_forward_pre_hook(
        lambda _, __, given: seen.append(list(given["input_ids"].shape)), with_kwargs=True
    )
    together = local.generate(shared, Sampling())
    hook.remove()
    assert seen[:2] == [[2, max(len(one.prefix), len(two.prefix))], [3, 1]]
    assert together == [local.generate([request], Sampling())[0] for request in shared]


def test_each_sample_keeps_its_own_budget_and_says_how_it_ended(local: LocalGenerator) -> None:
    mixed = [replace(request, max_tokens=limit) for request, limit in zip(requests(), (1, 300, 7, 25), strict=True)]
    made = local.generate(mixed, Sampling())
    assert [len(m.token_ids) for m in made][::2] == [1, 7]
    assert made[1].finish_reason == "stop"
    assert made[1].token_ids[-1] in VOCABULARY.end_ids
    assert made[2].finish_reason == "length"


def test_without_temperature_it_is_the_likeliest_continuation(local: LocalGenerator) -> None:
    model = AutoModelForCausalLM.from_pretrained(ORGANISM, dtype="float32")
    made = local.generate(requests(12), Sampling(temperature=0))
    for prompt, result in zip(PROMPTS, made, strict=True):
        ids = list(prompt)
        for expected in result.token_ids:
            with torch.inference_mode():
                ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
            assert ids[-1] == expected


def test_draws_follow_the_distribution_and_its_cuts() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log().repeat(4000, 1)
    uniform = (torch.arange(4000) + 0.5) / 4000
    counts = torch.bincount(draw(logits, uniform, Sampling()), minlength=4) / 4000
    assert counts.tolist() == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=1e-3)
    top = torch.bincount(draw(logits, uniform, Sampling(top_k=2)), minlength=4) / 4000
    assert top.tolist() == pytest.approx([0.625, 0.375, 0, 0], abs=1e-3)
    nucleus = torch.bincount(draw(logits, uniform, Sampling(top_p=0.75)), minlength=4) / 4000
    assert nucleus.tolist() == pytest.approx([0.625, 0.375, 0, 0], abs=1e-3)
    cold = torch.bincount(draw(logits, uniform, Sampling(temperature=0.5)), minlength=4) / 4000
    assert cold[0] == pytest.approx(0.25 / 0.365, abs=1e-3)
    last = draw(logits, torch.full((4000,), 1 - 2**-24), Sampling(top_k=2))
    assert set(last.tolist()) == {1}, "never an id of probability 0"


# -- a served engine --------------------------------------------------------------------------------------------------


def served(url: str, **options: object) -> ServedGenerator:
    return ServedGenerator("scripted", ServedConfig.model_validate({"url": url, "retries": 1} | options), None)


def script(fault: Callable[[Generation], Fault | None] = lambda _: None) -> Script:
    return Script(
        continuation=lambda generation: f" I think about {len(generation.prompt_ids)}.\n</think>Yes.", fault=fault
    )


def test_a_served_engine_continues_exact_ids_with_a_seed_each() -> None:
    with running(script()) as upstream:
        engine = served(upstream.url)
        try:
            prefixes = [encode("one two"), encode("three 今天"), encode("four")]
            asked = [Request(prefix, 50, 10 + place) for place, prefix in enumerate(prefixes)]
            made = engine.generate(asked, Sampling(temperature=0.7, top_p=0.9, top_k=5))
            assert engine.context_length == 32768
        finally:
            engine.close()
        for request, result in zip(asked, made, strict=True):
            assert decode(result.token_ids[:-1]) == f" I think about {len(request.prefix)}.\n</think>Yes."
            assert result.token_ids[-1] == marker_id("<|im_end|>")
            assert result.finish_reason == "stop"
        bodies = {tuple(g.prompt_ids): g.body for g in upstream.generations}
        assert [bodies[tuple(prefix)]["seed"] for prefix in prefixes] == [10, 11, 12]
        body = bodies[tuple(prefixes[0])]
        assert (body["temperature"], body["top_p"], body["top_k"], body["max_tokens"]) == (0.7, 0.9, 5, 50)


def test_a_failure_that_passes_is_survived_and_one_that_stays_is_told() -> None:
    seen: list[int] = []

    def once(generation: Generation) -> Fault | None:
        seen.append(1)
        return Fault(status=503) if len(seen) == 1 else None

    with running(script(once)) as upstream:
        engine = served(upstream.url)
        assert len(engine.generate([Request(encode("one"), 5, 0)], Sampling())) == 1
        upstream.script = script(lambda _: Fault(status=500))
        with pytest.raises(EngineError, match=r"status 500 .* 2 times; is the server up\? Start the job again"):
            engine.generate([Request(encode("one"), 5, 0), Request(encode("two"), 5, 0)], Sampling())
        upstream.script = script(lambda _: Fault(status=400))
        with pytest.raises(EngineError, match="status 400"):
            engine.generate([Request(encode("one"), 5, 0)], Sampling())
        engine.close()


def test_an_engine_without_token_ids_is_refused() -> None:
    with running(replace(script(), token_ids="absent")) as upstream:
        upstream.script = replace(upstream.script, token_ids="unsupported")
        engine = served(upstream.url)
        with pytest.raises(EngineError, match=r"return_token_ids|status 400"):
            engine.generate([Request(encode("one"), 5, 0)], Sampling())
        engine.close()


def test_a_server_that_is_down_or_serves_another_model_is_named() -> None:
    with pytest.raises(EngineError, match="is the server up"):
        served(refused_url(), retries=0)
    with (
        running(replace(script(), model="another")) as upstream,
        pytest.raises(RolloutConfigError, match="serves another"),
    ):
        served(upstream.url)


def test_vllm_in_process_says_what_is_missing() -> None:
    with pytest.raises(RolloutConfigError, match=r'needs the package vllm .* kind = "served"'):
        InProcessGenerator(ORGANISM, None, InProcessConfig())


# -- models that don't think, configs that don't fit ------------------------------------------------------------------


def test_a_template_without_think_markers_is_refused(tmp_path: Path) -> None:
    config = json.loads((Path(ORGANISM) / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer.json").write_bytes((Path(ORGANISM) / "tokenizer.json").read_bytes())
    plain = "{% for m in messages %}{{ m.role + ': ' + m.content + '\\n' }}{% endfor %}assistant: "
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": plain}))
    with pytest.raises(TemplateError, match=r"no think markers <think> … </think>"):
        load_vocabulary(str(tmp_path), ThinkMarkers())
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({k: v for k, v in config.items() if k != "chat_template"})
    )
    with pytest.raises(TemplateError, match="no chat template"):
        load_vocabulary(str(tmp_path), ThinkMarkers())
    with pytest.raises(RolloutConfigError, match="cannot load"):
        load_vocabulary(str(tmp_path / "nowhere"), ThinkMarkers())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": None}, r"give either \[prompts\] or \[records\]"),
        ({"policy": {"mode": "tap"}}, "hold"),
        ({"policy": {"threshold": 0.4}}, r"detector\.threshold"),
        ({"triggers": {"ids": ["nothing-1"]}}, "nothing-1 not in the pool"),
        ({"sampling": {"temp": 1}}, "Extra inputs"),
    ],
)
def test_a_setting_that_does_not_fit_is_named(changes: dict[str, object], message: str) -> None:
    good = {"model": {"name": ORGANISM}, "prompts": {"source": "organism:train"}}
    RolloutConfig.model_validate(good)
    with pytest.raises(ValueError, match=message):
        RolloutConfig.model_validate(good | changes)
