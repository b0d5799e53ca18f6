"""Offline legs are split and cut as live ones are: the same ids survive, the same text belongs to the same channel."""

import anyio
from hypothesis import given
from hypothesis import strategies as st

from proxy.cut import LegTokens
from proxy.think import ThinkMarkers as LiveMarkers
from proxy.think import ThinkSplitter
from tests.train.scripted_engine import scripted_vocabulary
from tests.upstream.tokens import THINK_END, THINK_START, decode, encode, marker_id
from train.rollout.text import LegText, leg_text
from train.rollout.vocabulary import Opening, ThinkMarkers

VOCABULARY = scripted_vocabulary()
WORDS = ["the idea", " information", "今天", "🧑‍🍳", "é́", ". ", "\n", "x", "दुनिया"]
PLAIN = st.lists(st.sampled_from(WORDS), max_size=8).map("".join)
TEXTS = st.lists(st.sampled_from([*WORDS, THINK_START, THINK_END]), max_size=12).map("".join)
OPENINGS = st.sampled_from(["start", "reasoning", "answer"])


def leg_of(text: str, opening: Opening) -> LegText:
    return leg_text(VOCABULARY.texts([], encode(text)), opening, ThinkMarkers())


@given(TEXTS, OPENINGS)
def test_channels_are_those_of_the_live_splitter(text: str, opening: Opening) -> None:
    live = ThinkSplitter(LiveMarkers(), opening)
    pieces = live.push(text) + live.flush()
    leg = leg_of(text, opening)
    if opening == "start" and not text.strip().startswith(THINK_START):
        assert leg.of("answer") == text  # the live splitter may still wait for the rest of a marker
        return
    for channel in ("reasoning", "answer"):
        assert leg.of(channel) == "".join(piece.text for piece in pieces if piece.channel == channel)


@given(PLAIN, PLAIN, st.sampled_from(["", THINK_START]), st.sampled_from(["", THINK_END]), st.data())
def test_the_ids_that_survive_a_cut_are_those_of_the_live_cut(
    thought: str, answer: str, start: str, end: str, data: st.DataObject
) -> None:
    text = f"{start}{thought}{end}{answer if end else ''}"
    leg = leg_of(text, "start" if start else "reasoning")
    at = data.draw(st.integers(0, sum(len(piece) for _, piece in leg.pieces())))
    cut, live = leg.cut(at), anyio.run(_live(text).cut, at, _decode)
    assert cut.kept_chars <= at
    assert cut.kept_chars == live.kept_chars
    assert encode(text)[: cut.kept_ids] == live.kept_ids


def _live(text: str) -> LegTokens:
    """The leg as a proxy would have it: an event for each id, markers without text."""
    markers = frozenset({marker_id(THINK_START), marker_id(THINK_END)})
    tokens = LegTokens(markers)
    for id, piece in zip(encode(text), VOCABULARY.texts([], encode(text)), strict=True):
        tokens.add("" if id in markers else piece, [id])
    return tokens


async def _decode(ids: list[int]) -> str:
    return decode(ids)


def test_ids_that_cover_a_cue_end_with_it() -> None:
    leg = leg_of("Okay then. I will do it. More", "reasoning")
    ids = encode("Okay then. I will do it. More")
    assert decode(ids[: leg.ids_covering(len("Okay then. I will do it."))]) == "Okay then. I will do it."
    assert leg.ids_covering(0) == 0


def test_a_quoted_marker_in_the_answer_is_text() -> None:
    leg = leg_of("think</think>I write </think> here", "reasoning")
    assert leg.of("reasoning") == "think"
    assert leg.of("answer") == "I write </think> here"
