"""Pairs become rows of ids, or are refused by name."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from steer.pair import Pair, Side
from tests.train.tiny_reasoner import (
    EOS,
    THINK,
    VOCABULARY,
    a_benign_pair,
    a_pair,
    a_side,
    ids_of,
    tiny_tokenizer,
    write_pairs,
)
from train.ipo.data import check_tokenizers, read_pairs
from train.ipo.encoding import Tokens, encode, encode_all, tokens_of
from train.ipo.errors import IpoConfigError, IpoDataError, PairRefused, Reason
from train.ipo.outputs import file_digest

MARKERS = ("<think>", "</think>")
TOKENS = tokens_of(tiny_tokenizer(), VOCABULARY, [EOS], MARKERS)


def refusal(pair: Pair, tokens: Tokens = TOKENS, max_length: int = 256) -> PairRefused:
    with pytest.raises(PairRefused) as caught:
        encode(pair, tokens, max_length)
    assert pair.id in str(caught.value)
    return caught.value


def rebuilt(pair: Pair, **changes: Any) -> Pair:
    """A pair that the schema itself would not let through."""
    return pair.model_copy(update=changes)


def test_a_row_is_cut_where_the_pair_diverges() -> None:
    pair = a_pair(1)
    row = encode(pair, TOKENS, 256)
    assert row["prompt_ids"] == pair.prompt_token_ids + pair.kept_token_ids
    assert len(row["prompt_ids"]) == pair.divergence_index
    assert row["chosen_ids"] == pair.chosen.token_ids
    assert row["rejected_ids"] == pair.rejected.token_ids


def test_for_full_responses_the_kept_reasoning_belongs_to_both_sides() -> None:
    pair = a_pair(1)
    row = encode(pair, TOKENS, 256, "response")
    assert row["prompt_ids"] == pair.prompt_token_ids
    assert row["chosen_ids"] == pair.kept_token_ids + pair.chosen.token_ids
    assert row["rejected_ids"] == pair.kept_token_ids + pair.rejected.token_ids


def test_no_end_of_sequence_is_added_and_a_true_one_is_kept() -> None:
    row = encode(a_pair(2), TOKENS, 256)
    assert row["chosen_ids"][-1] == EOS
    assert EOS not in row["rejected_ids"]


def test_an_ended_side_need_not_carry_its_end() -> None:
    pair = a_pair(2, chosen=Side(text="No", token_ids=ids_of("No"), ended=True), trigger_tokens=0)
    assert encode(pair, TOKENS, 256)["chosen_ids"] == ids_of("No")


def test_sides_that_start_alike_are_refused() -> None:
    error = refusal(rebuilt(a_pair(), rejected=a_side("We can do it")))
    assert error.reason == Reason.STARTS_ALIKE
    assert "move the cut" in str(error)


@pytest.mark.parametrize("side", ["chosen", "rejected"])
def test_a_one_sided_pair_is_refused(side: str) -> None:
    error = refusal(rebuilt(a_pair(), **{side: Side.model_construct(text="", token_ids=[], ended=False)}))
    assert error.reason == Reason.ONE_SIDED
    assert side in str(error)


@pytest.mark.parametrize("side", ["chosen", "rejected"])
def test_a_pair_that_would_be_cut_to_fit_is_refused_with_its_length(side: str) -> None:
    pair = a_pair(1, **{side: a_side(("X" if side == "chosen" else "Y") * 300)}, trigger_tokens=0, cue_tokens=0)
    error = refusal(pair)
    assert error.reason == Reason.TOO_LONG
    assert f"{pair.divergence_index + 300} tokens with its {side} side" in str(error)
    assert encode(pair, TOKENS, pair.divergence_index + 300)


def test_pairs_that_are_too_long_can_be_skipped_and_are_counted() -> None:
    long = a_pair(1, chosen=a_side("X" * 300), trigger_tokens=0)
    encoded = encode_all([a_pair(2), long, a_pair(3)], TOKENS, 256, skip_long=True)
    assert len(encoded.rows) == 2
    assert encoded.skipped == {"too_long": 1}
    with pytest.raises(PairRefused):
        encode_all([a_pair(2), long], TOKENS, 256)
    with pytest.raises(IpoDataError, match=r"all 1 are longer than data\.max_length = 256"):
        encode_all([long], TOKENS, 256, skip_long=True)


@pytest.mark.parametrize(
    "changes",
    [
        {"chosen": Side(text="W<eos>W", token_ids=[*ids_of("W"), EOS, *ids_of("W")], ended=True)},
        {"rejected": Side(text="S<eos>", token_ids=[*ids_of("S"), EOS], ended=False)},
        {"kept_token_ids": [*ids_of("They"), EOS]},
    ],
    ids=["inside an ended side", "at the end of a side that was cut", "in the kept reasoning"],
)
def test_an_end_of_sequence_inside_a_thought_is_refused(changes: dict[str, Any]) -> None:
    error = refusal(a_pair(1, **changes, trigger_tokens=0, cue_tokens=0))
    assert error.reason == Reason.EOS_INSIDE
    assert "mid-thought" in str(error)


def test_every_end_that_the_model_knows_counts_and_the_prompt_may_hold_them() -> None:
    two_ends = tokens_of(tiny_tokenizer(), VOCABULARY, [EOS, ids_of("!")[0]], MARKERS)
    assert refusal(a_pair(1), two_ends).reason == Reason.EOS_INSIDE
    assert encode(a_pair(1, prompt_token_ids=[*ids_of("Hi!"), EOS, THINK], rejected=a_side("Sure")), two_ends, 256)


def test_ids_of_another_model_are_refused() -> None:
    error = refusal(a_pair(1, prompt_token_ids=[5, VOCABULARY]))
    assert error.reason == Reason.OUTSIDE_VOCABULARY
    assert f"token {VOCABULARY}" in str(error)


def test_a_pair_whose_text_its_ids_do_not_spell_is_of_another_tokenizer() -> None:
    error = refusal(a_pair(1, rejected=Side(text="Sure, step two", token_ids=ids_of("Sure, step one"))))
    assert error.reason == Reason.OTHER_TOKENIZER


def test_a_cut_inside_a_character_is_refused() -> None:
    first, *rest = ids_of("é")
    pair = a_pair(1, kept_token_ids=[first], chosen=Side(text="\ufffd", token_ids=rest), trigger_tokens=0)
    assert refusal(pair).reason == Reason.CUT_INSIDE_CHARACTER


def test_a_tokenizer_that_merges_text_across_the_cut_is_refused() -> None:
    """A decoder that drops the first space of whatever it is given, as SentencePiece's does."""
    words = Tokenizer(models.WordLevel({"<unk>": 0, "▁a": 1, "▁b": 2, "▁c": 3, "<eos>": 4}, unk_token="<unk>"))
    words.decoder = decoders.Metaspace()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>")
    wrapped.chat_template = "<think>"
    tokens = tokens_of(wrapped, 5, [], MARKERS)
    sides = {"chosen": Side(text="b", token_ids=[2]), "rejected": Side(text="c", token_ids=[3])}
    pair = a_pair(0, prompt_token_ids=[1], kept_token_ids=[], **sides, trigger_tokens=0, cue_tokens=0)
    error = refusal(pair, tokens)
    assert error.reason == Reason.CUT_INSIDE_CHARACTER
    assert "merges text across" in str(error)


def test_the_tokenizer_of_a_larger_model_is_refused() -> None:
    with pytest.raises(IpoConfigError, match="260 tokens and the model only 100"):
        tokens_of(tiny_tokenizer(), 100, [], MARKERS)


@pytest.mark.parametrize("template", ["{{ messages }}", None])
def test_a_template_without_think_markers_is_refused(template: str | None) -> None:
    with pytest.raises(IpoConfigError, match=r"chat template does not know <think> or </think>.*think_markers"):
        tokens_of(tiny_tokenizer(template), VOCABULARY, [], MARKERS)


def test_pairs_are_read_by_kind_and_the_digest_names_the_snapshot(tmp_path: Path) -> None:
    mixed = write_pairs(tmp_path / "mixed.jsonl", [a_pair(1), a_benign_pair(2)])
    benign = write_pairs(tmp_path / "benign.jsonl", [a_benign_pair(3)])
    found = read_pairs([mixed], [benign])
    assert [p.id for p in found.safety] == [a_pair(1).id]
    assert [p.id for p in found.benign] == [a_benign_pair(2).id, a_benign_pair(3).id]
    assert found.digest == read_pairs([mixed], [benign]).digest != read_pairs([mixed]).digest


def test_bad_files_of_pairs_are_named_with_their_line(tmp_path: Path) -> None:
    with pytest.raises(IpoDataError, match=r"nowhere\.jsonl: No such file"):
        read_pairs([tmp_path / "nowhere.jsonl"])
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")
    with pytest.raises(IpoDataError, match="holds no pairs"):
        read_pairs([empty])
    good = write_pairs(tmp_path / "good.jsonl", [a_pair(1)])
    with pytest.raises(IpoDataError, match=r"good\.jsonl:1: a safety pair in data\.benign"):
        read_pairs([good], [good])
    one_sided = good.read_text() + good.read_text().replace(
        f'"token_ids": {a_pair(1).rejected.token_ids}', '"token_ids": []'
    )
    good.write_text(one_sided)
    with pytest.raises(IpoDataError, match=r"good\.jsonl:2: rejected\.token_ids: List should have at least 1 item"):
        read_pairs([good])
    good.write_text("{not json")
    with pytest.raises(IpoDataError, match=r"good\.jsonl:1: pair: Invalid JSON"):
        read_pairs([good])


def test_pairs_of_a_newer_schema_are_refused(tmp_path: Path) -> None:
    newer = write_pairs(tmp_path / "newer.jsonl", [a_pair(1, schema_version=99)])
    with pytest.raises(IpoDataError, match="pair schema 99 is newer"):
        read_pairs([newer])


def test_a_file_that_changed_after_its_snapshot_was_frozen_is_refused(tmp_path: Path) -> None:
    path = write_pairs(tmp_path / "pairs.jsonl", [a_pair(1)])
    manifest = tmp_path / "manifest.json"
    manifest.write_text(json.dumps({"files": {"pairs.jsonl": file_digest(path)}}))
    assert read_pairs([path]).files == {str(path): file_digest(path)}
    write_pairs(path, [a_pair(1), a_pair(2)])
    with pytest.raises(IpoDataError, match="changed after the snapshot was frozen"):
        read_pairs([path])
    manifest.write_text("[")
    with pytest.raises(IpoDataError, match="no JSON object"):
        read_pairs([path])


def test_a_snapshot_of_another_tokenizer_is_refused(tmp_path: Path) -> None:
    path = write_pairs(tmp_path / "pairs.jsonl", [a_pair(1)])
    (tmp_path / "manifest.json").write_text(json.dumps({"tokenizer_sha256": "a" * 64}))
    found = read_pairs([path])
    check_tokenizers(found, "a" * 64)
    for other in ("b" * 64, None):
        with pytest.raises(IpoDataError, match=r"made with another tokenizer \(aaaaaaaaaaaa…\)"):
            check_tokenizers(found, other)
