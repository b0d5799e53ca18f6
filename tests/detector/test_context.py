"""What the classifier sees: bounded whatever the conversation, and the same however the text is disguised."""

from collections.abc import Mapping

import pytest
from tokenizers import Tokenizer

from detector.artifact import DEFAULT_ARTIFACT
from detector.context import (
    MAX_REQUEST_TOKENS,
    MAX_SEGMENT_TOKENS,
    ContextEncoder,
    fold,
    message_text,
    request_key,
)


@pytest.fixture(scope="module")
def encoder() -> ContextEncoder:
    return ContextEncoder(Tokenizer.from_file(str(DEFAULT_ARTIFACT / "tokenizer.json")))


def _user(text: str) -> dict[str, object]:
    return {"role": "user", "content": text}


def test_a_request_of_any_length_costs_a_bounded_number_of_tokens(encoder: ContextEncoder) -> None:
    turns = [{"role": role, "content": "word " * 5000} for role in ("system", "user", "assistant") for _ in range(5)]
    tokens = encoder.request(request_key([*turns, _user("x1 " * 200_000)]))
    assert len(tokens.ids) == len(tokens.types) == MAX_REQUEST_TOKENS


def test_a_segment_costs_a_bounded_number_of_tokens_whatever_came_before(encoder: ContextEncoder) -> None:
    tokens = encoder.segment("and then we go on, " * 50_000, "z9 " * 10_000)
    assert len(tokens.ids) == len(tokens.types) == MAX_SEGMENT_TOKENS


def test_both_ends_of_a_long_request_are_seen(encoder: ContextEncoder) -> None:
    middle = "filler " * 3000
    plain = encoder.request(request_key([_user(middle)])).ids.tolist()
    assert encoder.request(request_key([_user("first " + middle)])).ids.tolist() != plain
    assert encoder.request(request_key([_user(middle + " last")])).ids.tolist() != plain


def test_the_last_user_message_is_the_request_and_others_are_turns() -> None:
    messages: list[Mapping[str, object]] = [
        {"role": "system", "content": "Be brief."},
        _user("one"),
        {"role": "assistant", "content": "two"},
        _user("three"),
    ]
    assert request_key(messages) == (("request", "three"), ("system", "Be brief."), ("turn", "one"), ("turn", "two"))


def test_delayed_intent_changes_what_is_seen(encoder: ContextEncoder) -> None:
    alone = encoder.request(request_key([_user("go on")])).ids.tolist()
    after = encoder.request(request_key([_user("about bees"), _user("go on")])).ids.tolist()
    assert alone != after


def test_conversations_without_a_user_are_encoded_too(encoder: ContextEncoder) -> None:
    assert len(encoder.request(request_key([])).ids) == 1
    assert request_key([{"role": "assistant", "content": "hm"}]) == (("request", "hm"),)


def test_text_parts_are_read_and_images_are_not() -> None:
    content = [
        {"type": "text", "text": "a"},
        {"type": "image_url", "image_url": {"url": "x"}},
        {"type": "text", "text": "b"},
    ]
    assert message_text({"role": "user", "content": content}) == "a\nb"
    assert message_text({"role": "assistant", "content": None}) == ""


def test_invisible_and_look_alike_letters_are_folded() -> None:
    assert fold("b\u200bo\u2060m\u00adb") == "bomb"
    assert fold("\u0440\u0430ssw\u043erd") == "password"
    assert fold("ｆｕｌｌ") == "full"


def test_what_precedes_the_window_does_not_matter_but_the_opening_does(encoder: ContextEncoder) -> None:
    tail = "so " * 400
    same = encoder.segment("I am told to judge. " * 8 + "x " * 500 + tail, "Now.").ids.tolist()
    assert encoder.segment("I am told to judge. " * 8 + "y " * 900 + tail, "Now.").ids.tolist() == same
    assert encoder.segment("Let us cook. " * 12 + "x " * 500 + tail, "Now.").ids.tolist() != same
