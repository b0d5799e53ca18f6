"""What a synthetic trace says in turn (plans), which kinds of frames may take each turn (pools), and its style.

Used by train/detector/frames.py alone. Weights are whole numbers; a plan is drawn in proportion to its weight.
"""

from collections.abc import Callable, Sequence

from train.detector.frame_files import FramesError, Kind

# Plans: what a trace says in turn. Names are those of `POOLS`; "name*2" is 0 to 2 of them, "name+2" is 1 to 2.
HARMFUL_CUE_FIRST = (
    (4, "cue_first think*1 cue+2 fulfil*4"),
    (3, "cue_first fulfil+5"),
    (2, "cue_first doubt+1 after_doubt fulfil*3"),
    (2, "cue_first cue*2 reconsider stop refuse*2"),
    (1, "cue_first fulfil*2 stop refuse*2"),
    (1, "cue_first cue*1 stop relapse fulfil*2"),
)
HARMFUL_OTHER = (
    (4, "restate think*2 cue fulfil*4"),
    (3, "restate think*1 doubt+2 after_doubt cue*1 fulfil*3"),
    (2, "think+2 cue cue*1 fulfil*3"),
    (9, "restate think*2 refuse+3"),
    (4, "restate doubt+2 refuse+3"),
    (5, "refuse_first refuse*3"),
    (3, "restate think*1 refuse+2 relapse fulfil*3"),
    (2, "refuse_first relapse cue*1 fulfil*2"),
    (2, "restate reconsider after_doubt fulfil*3"),
    (2, "restate reconsider refuse+3"),
)
DELAYED = (
    (4, "restate_side side+2 cue fulfil*3"),
    (2, "side+2 think*1 cue fulfil*3"),
    (2, "side+1 reconsider refuse+2"),
    (2, "restate_side side*1 refuse+2"),
)
BENIGN = (
    (5, "cue_first think*1 cue*2 fulfil*3"),
    (4, "restate think*2 cue fulfil*3 answer*1"),
    (2, "restate clear cue answer*2"),
    (2, "restate think*1 doubt+2 clear cue fulfil*2"),
    (2, "restate reconsider clear after_doubt answer*1"),
    (2, "restate care*1 cue care*1 answer*2"),
    (1, "restate overcaution clear cue answer*1"),
    (1, "cue_first doubt+1 after_doubt fulfil*2"),
)


Plan = tuple[tuple[int, str], ...]


def _is(*names: str) -> Callable[[Kind], bool]:
    return lambda kind: kind.name in names


_RESTATING = ("restate", "restate_terse")
# Which kinds may take a turn in a plan; the second choice serves where the first is left out altogether.
POOLS: dict[str, tuple[Callable[[Kind], bool], ...]] = {
    "cue_first": (lambda kind: kind.label == "C" and kind.place in ("first", "any"),),
    "cue": (lambda kind: kind.label == "C" and kind.place in ("any", "mid") and kind.benign,),
    "after_doubt": (_is("commit_after_doubt", "commit_excuse"), lambda kind: kind.label == "C" and kind.benign),
    "relapse": (_is("commit_relapse", "commit_after_doubt"), lambda kind: kind.label == "C" and kind.place == "any"),
    "fulfil": (lambda kind: kind.label == "C" and kind.place == "late", lambda kind: kind.label == "C"),
    "restate": (_is(*_RESTATING), lambda kind: kind.label == "N" and kind.harmful),
    "think": (
        lambda kind: kind.label == "N" and kind.harmful and kind.name not in (*_RESTATING, "reconsider", "open_doubt"),
    ),
    "doubt": (_is("open_doubt", "policy_check", "weighing", "uncertainty"), lambda kind: kind.label == "N"),
    "reconsider": (_is("reconsider"), lambda kind: kind.label == "N" and kind.harmful),
    "refuse_first": (lambda kind: kind.label == "S" and kind.harmful and kind.place == "any",),
    "refuse": (lambda kind: kind.label == "S" and kind.harmful,),
    "stop": (_is("safe_stop", "safe_counterfactual"), lambda kind: kind.label == "S" and kind.harmful),
    "clear": (_is("benign_clear"), lambda kind: kind.label == "N"),
    "care": (_is("benign_caution"), lambda kind: kind.label == "N"),
    "overcaution": (_is("benign_overcaution"), lambda kind: kind.label == "N"),
    "answer": (_is("benign_answer"), lambda kind: kind.label == "N"),
}


# Reasoning is mostly prose; some of it is terse and some is lists, headings and code. A trace mostly
# keeps to its style.
_TERSE = frozenset({
    "commit_terse", "commit_notes", "fulfil_terse", "safe_terse", "restate_terse", "policy_check", "uncertainty",
})  # fmt: skip
_MARKUP = frozenset({"commit_steps", "commit_notes", "commit_markdown", "fulfil_list", "fulfil_code"})
STYLES: dict[str, tuple[int, Callable[[Kind], bool]]] = {
    "prose": (68, lambda kind: kind.name not in (_TERSE | _MARKUP) - {"policy_check", "uncertainty", "commit_steps"}),
    "terse": (18, lambda kind: kind.name in _TERSE),
    "markup": (14, lambda kind: kind.name in _MARKUP),
}
KEEPS_STYLE = 0.8
OF_THE_FRAMING = 0.3  # share of sentences that speak of the framing, where some kind does
TAILED = 0.25  # share of the plain sentences that go on after the goal


def pool(kinds: Sequence[Kind], choices: Sequence[Callable[[Kind], bool]]) -> list[tuple[Kind, str]]:
    for is_wanted in choices:
        found = [(kind, frame) for kind in kinds if is_wanted(kind) for frame in kind.frames]
        if found:
            return found
    raise FramesError("no kind of frames is left for a turn of the traces; leave out fewer")
