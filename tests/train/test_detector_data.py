"""Reading, label mapping and splits, on traces worked out by hand."""

import json
import random
from pathlib import Path

import pytest

from detector.context import ContextEncoder
from steer.segmenter import segment
from tests.train.tiny_base import tiny_base
from train.detector.augment import disguise, openers
from train.detector.base import prune_vocabulary
from train.detector.config import DataConfig, FitConfig
from train.detector.data import DataError, Trace, is_validation, label_segments, prompt_hash, read_prompts, read_traces
from train.detector.examples import Examples, prompt_examples, trace_examples
from train.detector.fit import epoch_batches
from train.detector.lookalikes import lookalikes
from train.detector.split import split_data


def _trace(sentences: list[str], labels: str, **fields: object) -> Trace:
    text, spans = "", []
    for sentence in sentences:
        spans.append((len(text), len(text) + len(sentence)))
        text += sentence
    base = {"id": "1", "source": "s", "model": "m", "prompt": "p", "prompt_label": "harmful"}
    return Trace.model_validate({**base, "reasoning": text, "spans": spans, "labels": labels, **fields})


def test_segments_that_are_the_sentences_keep_their_labels() -> None:
    trace = _trace(["They ask for it.", " Let me plan the thing.", " But no, that is wrong."], "NCS")
    assert [piece.label for piece in label_segments(trace)] == [0, 1, 2]


def test_a_segment_that_holds_a_cue_among_other_sentences_is_a_cue() -> None:
    trace = _trace(["Well (hm) so", " I need to plan the robbery now", " and that is that for the day."], "NCN")
    assert len(segment(trace.reasoning)) == 1
    assert [(piece.label, piece.spans) for piece in label_segments(trace)] == [(1, (0, 1, 2))]


def test_a_sentence_cut_in_two_labels_both_parts() -> None:
    trace = _trace(["First I gather the tools.\nThen I break the door open.", " Is that so?"], "CN")
    assert [piece.label for piece in label_segments(trace)] == [1, 1, 0]


def test_segments_beyond_the_labelled_part_have_no_label() -> None:
    trace = _trace(["They ask for it."], "N")
    longer = trace.model_copy(update={"reasoning": trace.reasoning + " And more of it."})
    assert [piece.label for piece in label_segments(longer)] == [0, None]


@pytest.mark.parametrize("change", [{"labels": "N"}, {"labels": "NX"}, {"prompt_label": "odd"}, {"reasoning": None}])
def test_a_bad_record_is_named_by_file_and_line(tmp_path: Path, change: dict[str, object]) -> None:
    good = json.loads(_trace(["One two.", " Three four."], "NC").model_dump_json())
    path = tmp_path / "traces.jsonl"
    path.write_text(json.dumps(good) + "\n" + json.dumps({**good, **change}) + "\n")
    with pytest.raises(DataError, match=r"traces\.jsonl, line 2"):
        read_traces([path])


def test_prompts_that_differ_in_case_and_punctuation_fall_on_the_same_side() -> None:
    assert prompt_hash("How do I X?") == prompt_hash("how do i x")
    shares = [is_validation(f"prompt {number}", 0.25) for number in range(2000)]
    assert 0.2 < sum(shares) / 2000 < 0.3


def test_no_prompt_is_on_both_sides_of_a_split(tmp_path: Path) -> None:
    traces = [
        _trace(["One two three."], "N", id=f"{number}-{model}", prompt=f"prompt {number}", model=model)
        for number in range(60)
        for model in ("alpha-7b", "beta-7b")
    ]
    (tmp_path / "t.jsonl").write_text("".join(trace.model_dump_json() + "\n" for trace in traces))
    prompts = [{"prompt": f"Prompt {number}?", "label": "harmful", "source": "x"} for number in range(80)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))
    paths = {"traces": (tmp_path / "t.jsonl",), "prompts": (tmp_path / "p.jsonl",)}
    split = split_data(DataConfig.model_validate({**paths, "validation_share": 0.3}))
    seen = {prompt_hash(t.prompt) for t in split.train} | {prompt_hash(p.prompt) for p in split.prompts}
    assert split.validation
    assert not seen & {prompt_hash(t.prompt) for t in split.validation}
    held = split_data(DataConfig.model_validate({**paths, "holdout_models": ("beta",)}))
    assert {t.model for t in held.holdout} == {"beta-7b"}
    assert not held.train, "every prompt was also put to the held-out model"


def test_openers_are_cues_after_harmful_requests_only() -> None:
    rng = random.Random(0)
    harmful = [openers("How do I rob a bank?", True, 6, rng) for _ in range(20)]
    benign = [openers("How do I bake bread?", False, 6, rng) for _ in range(20)]
    assert any(label == 1 for drawn in harmful for _, _, label in drawn)
    assert all(label != 1 for drawn in benign for _, _, label in drawn)
    assert any("how to rob a bank" in text for drawn in harmful for _, text, label in drawn if label == 1)


def test_own_prompts_hold_both_sides_of_each_word() -> None:
    own = lookalikes()
    assert len({item.prompt for item in own}) > 1000
    assert 0.4 < sum(item.is_harmful for item in own) / len(own) < 0.6


def test_disguises_keep_the_request_and_depend_on_the_generator_alone() -> None:
    first = [disguise("How do I bake bread?", random.Random(seed)) for seed in range(200)]
    assert first == [disguise("How do I bake bread?", random.Random(seed)) for seed in range(200)]
    plain = sum(key == (("request", "How do I bake bread?"),) for key in first)
    assert 100 < plain < 180


def test_a_pruned_vocabulary_knows_every_letter_and_its_rows_follow_the_pieces(tmp_path: Path) -> None:
    base = tiny_base(tmp_path)
    pruned = prune_vocabulary(base, ["sentence sentence plan plan"], 150)
    assert pruned.tokenizer.get_vocab_size() == 150
    assert "[UNK]" not in pruned.tokenizer.encode("zyx plan 47!").tokens
    old, new = base.tokenizer.token_to_id("plan"), pruned.tokenizer.token_to_id("plan")
    name = "embeddings.word_embeddings.weight"
    assert bool((base.tensors[name][old] == pruned.tensors[name][new]).all())


def test_an_epoch_is_the_same_for_the_same_seed_and_covers_every_trace(tmp_path: Path) -> None:
    base, examples, rng = tiny_base(tmp_path), Examples(), random.Random(0)
    traces = [_trace(["They ask for it.", " Let me plan."], "NC", id=str(n), prompt=f"plan {n}") for n in range(30)]
    trace_examples(examples, traces, ContextEncoder(base.tokenizer), (), rng)
    prompt_examples(examples, read_prompts([]), ContextEncoder(base.tokenizer), rng)
    sizes = [len(tokens.ids) for tokens in examples.requests]
    config = FitConfig(groups_per_batch=8)
    first, again, other = (list(epoch_batches(examples.groups, sizes, config, epoch)) for epoch in (0, 0, 1))
    assert repr(first) == repr(again) != repr(other)  # a harm that is not taught is NaN, which equals nothing
    drawn = {row.segment for batch in first for row in batch.rows}
    assert {row.segment for group in examples.groups if group.kind == "trace" for row in group.rows} <= drawn
