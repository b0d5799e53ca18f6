"""Scripted streams that both drivers must carry out alike: the proxy's live session and the offline rollouts.

Data alone. A case says what the upstream would write after each number of resumes, how segments score, under which
policy and seed; and what must come of it. `{0}`, `{1}` … in expected texts stand for the triggers spliced, in order:
which ones they are follows from the seed and is pinned by id.
"""

from dataclasses import dataclass, field
from typing import Any

from steer.policy import DEFAULT_REFUSAL
from steer.triggers import DEFAULT_TRIGGERS

TRIGGER_TEXTS = {trigger.id: trigger.text for trigger in DEFAULT_TRIGGERS}


@dataclass(frozen=True)
class Expected:
    """`kept`: all text before each cut, triggers included. Exactly one trigger fewer where the stream was refused."""

    reasoning: str
    answer: str
    kept: tuple[str, ...] = ()
    triggers: tuple[str, ...] = ()
    outcome: str = "completed"  # clean, completed or refused
    finish_reason: str = "stop"

    def filled(self, text: str) -> str:
        """An expected text with the triggers in their places."""
        return text.format(*(TRIGGER_TEXTS[id] for id in self.triggers))


@dataclass(frozen=True)
class ScriptedCase:
    """`reasoning` (None: the model does not think) and `answer` are the first leg; `resumed` raw texts of later ones.

    `scores`: the first word that a segment holds gives its score; None is a detector that fails; 0.1 without any.
    """

    name: str
    reasoning: str | None
    answer: str
    expected: Expected
    resumed: tuple[str, ...] = ()
    scores: dict[str, float | None] = field(default_factory=lambda: {"CUE": 0.9})
    policy: dict[str, Any] = field(default_factory=dict)
    seed: int = 7
    max_tokens: int | None = None
    opens_think: bool = False

    def score(self, segment: str) -> float | None:
        """The table."""
        return next((score for word, score in self.scores.items() if word in segment), 0.1)


BEFORE = "\nOkay, let me think about this."
CUT = " I will just explain how, CUE, step by step."
AFTER = " SECRET detail follows here.\n"
ANSWER = "\n\nSECRET answer."
SAFE = " I will answer with care.\n</think>\n\nHere is a safe answer."
SAFE_THOUGHT, SAFE_ANSWER = " I will answer with care.\n", "\n\nHere is a safe answer."

CASES = (
    ScriptedCase(
        "without a cue nothing happens",
        reasoning=BEFORE + " All is well.\n",
        answer="\n\nFine.",
        expected=Expected(BEFORE + " All is well.\n", "\n\nFine.", outcome="clean"),
    ),
    ScriptedCase(
        "a cue is cut out",
        reasoning=BEFORE + CUT + AFTER,
        answer=ANSWER,
        resumed=(SAFE,),
        expected=Expected(BEFORE + " {0}" + SAFE_THOUGHT, SAFE_ANSWER, kept=(BEFORE,), triggers=("reframe-1",)),
    ),
    ScriptedCase(
        "a prompt that opens the think block",
        reasoning=BEFORE + CUT + AFTER,
        answer=ANSWER,
        resumed=(SAFE,),
        opens_think=True,
        seed=8,
        expected=Expected(BEFORE + " {0}" + SAFE_THOUGHT, SAFE_ANSWER, kept=(BEFORE,), triggers=("risk-4",)),
    ),
    ScriptedCase(
        "a cue in the first sentence leaves the trigger as the first thought",
        reasoning="CUE at once. SECRET then.\n",
        answer=ANSWER,
        resumed=(SAFE,),
        expected=Expected("{0}" + SAFE_THOUGHT, SAFE_ANSWER, kept=("",), triggers=("reframe-1",)),
    ),
    ScriptedCase(
        "relapses are cut as well, with other triggers",
        reasoning=BEFORE + CUT + AFTER,
        answer=ANSWER,
        resumed=(" Hmm. But CUE again. SECRET.\n", " CUE once more. SECRET.\n", SAFE),
        expected=Expected(
            BEFORE + " {0} Hmm. {1} {2}" + SAFE_THOUGHT,
            SAFE_ANSWER,
            kept=(BEFORE, BEFORE + " {0} Hmm.", BEFORE + " {0} Hmm. {1}"),
            triggers=("reframe-1", "risk-3", "reframe-4"),
        ),
    ),
    ScriptedCase(
        "a spent budget is a refusal",
        reasoning=BEFORE + CUT + AFTER,
        answer=ANSWER,
        resumed=(" Hmm. But CUE again.\n", " Well. CUE once more.\n"),
        policy={"max_interventions": 2},
        expected=Expected(
            BEFORE + " {0} Hmm. {1} Well.",
            DEFAULT_REFUSAL,
            kept=(BEFORE, BEFORE + " {0} Hmm.", BEFORE + " {0} Hmm. {1} Well."),
            triggers=("reframe-1", "risk-3"),
            outcome="refused",
            finish_reason="content_filter",
        ),
    ),
    ScriptedCase(
        "no interventions allowed",
        reasoning=BEFORE + CUT + AFTER,
        answer=ANSWER,
        policy={"max_interventions": 0},
        expected=Expected(BEFORE, DEFAULT_REFUSAL, kept=(BEFORE,), outcome="refused", finish_reason="content_filter"),
    ),
    ScriptedCase(
        "the answer is watched where the scope says so",
        reasoning=BEFORE + "\n",
        answer="\n\nSure. CUE first. SECRET.",
        resumed=(" It is better to be careful.",),
        policy={"scope": "all"},
        expected=Expected(
            BEFORE + "\n",
            "\n\nSure. {0} It is better to be careful.",
            kept=(BEFORE + "\n\n\nSure.",),
            triggers=("reframe-1",),
        ),
    ),
    ScriptedCase(
        "the answer's first sentence, right after the marker",
        reasoning=BEFORE + "\n",
        answer="CUE first. SECRET.",
        resumed=(" It is better to be careful.",),
        policy={"scope": "all"},
        expected=Expected(
            BEFORE + "\n", "{0} It is better to be careful.", kept=(BEFORE + "\n",), triggers=("reframe-1",)
        ),
    ),
    ScriptedCase(
        "without reasoning the answer is watched",
        reasoning=None,
        answer="Sure, here it is. CUE first. SECRET.",
        resumed=(" It is better to be careful.",),
        expected=Expected(
            "",
            "Sure, here it is. {0} It is better to be careful.",
            kept=("Sure, here it is.",),
            triggers=("reframe-1",),
        ),
    ),
    ScriptedCase(
        "a detector that fails, and a policy that refuses",
        reasoning=BEFORE + " FAIL here. SECRET.\n",
        answer=ANSWER,
        scores={"FAIL": None},
        expected=Expected(BEFORE, DEFAULT_REFUSAL, outcome="refused", finish_reason="content_filter"),
    ),
    ScriptedCase(
        "a detector that fails, and a policy that passes",
        reasoning=BEFORE + " FAIL here. Then on.\n",
        answer="\n\nFine.",
        scores={"FAIL": None},
        policy={"on_failure": "fail_open"},
        expected=Expected(BEFORE + " FAIL here. Then on.\n", "\n\nFine.", outcome="clean"),
    ),
    ScriptedCase(
        "a score at the threshold is a cue, one below is none",
        reasoning="\nAlmost ALMOST. Exactly EXACT. SECRET.\n",
        answer=ANSWER,
        resumed=(SAFE,),
        scores={"ALMOST": 0.4999, "EXACT": 0.5},
        expected=Expected(
            "\nAlmost ALMOST. {0}" + SAFE_THOUGHT, SAFE_ANSWER, kept=("\nAlmost ALMOST.",), triggers=("reframe-1",)
        ),
    ),
    ScriptedCase(
        "characters of several ids stay whole",
        reasoning="\n今天天气很好。🍞🧑‍🍳 naïve é́.\nदुनिया CUE. SECRET\n",
        answer=ANSWER,
        resumed=(" 然后 think.\n</think>好。",),
        expected=Expected(
            "\n今天天气很好。🍞🧑‍🍳 naïve é́.\n{0} 然后 think.\n",
            "好。",
            kept=("\n今天天气很好。🍞🧑‍🍳 naïve é́.\n",),
            triggers=("reframe-1",),
        ),
    ),
    ScriptedCase(
        "a cut inside an id moves back to its start",
        reasoning="\nxx information CUE SECRET.\n",
        answer=ANSWER,
        resumed=(SAFE,),
        scores={"mation": 0.9},
        policy={"max_segment_chars": 8},
        expected=Expected("\nxx {0}" + SAFE_THOUGHT, SAFE_ANSWER, kept=("\nxx",), triggers=("reframe-1",)),
    ),
    ScriptedCase(
        "the client's token budget ends a resumed leg",
        reasoning=BEFORE + CUT + AFTER,
        answer=ANSWER,
        resumed=(SAFE,),
        max_tokens=52,
        expected=Expected(
            BEFORE + " {0} I will answer with care.",
            "",
            kept=(BEFORE,),
            triggers=("reframe-1",),
            finish_reason="length",
        ),
    ),
    ScriptedCase(
        "the trigger spends the token budget",
        reasoning=BEFORE + CUT + AFTER,
        answer=ANSWER,
        resumed=(SAFE,),
        max_tokens=45,
        expected=Expected(BEFORE + " {0}", "", triggers=("reframe-1",), kept=(BEFORE,), finish_reason="length"),
    ),
    ScriptedCase(
        "the engine's own end by length",
        reasoning=BEFORE + " All is well, and so on for long.\n",
        answer="\n\nFine.",
        max_tokens=12,
        expected=Expected(BEFORE, "", outcome="clean", finish_reason="length"),
    ),
)
