"""Right or wrong: maths, choices, programs."""

from pathlib import Path

import pytest

from tests.patience import PATIENCE_S
from train.evaluation.answers import final_answer, final_choice, is_equal, is_right
from train.evaluation.sandbox import Limits, code_of, passes, run

STUB = 'import math\n\n\ndef root(x: float) -> float:\n    """The root."""\n'
TEST = "def check(candidate):\n    assert candidate(9.0) == 3.0\n\ncheck(root)\n"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("so \\boxed{\\frac{1}{2}} and then \\boxed{\\dfrac{3}{4}}.", "\\frac34"),
        ("\\boxed{0.75}", "\\frac{3}{4}"),
        ("The answer is $1,234$.", "1234"),
        ("The answer is 42.", "42"),
        ("We get 7. Then 6*7 = 42", "42"),
        ("\\boxed{x = -3}", "-3"),
        ("\\boxed{90^\\circ}", "90"),
        ("\\boxed{12\\text{ cm}^2}", "12"),
        ("\\boxed{2\\frac12}", "5/2"),
        ("\\boxed{ (3, \\tfrac{\\pi}{2}) }", "\\left( 3, \\frac{\\pi}{2} \\right)"),
        ("\\boxed{-2, 1}", "1,-2"),
        ("\\boxed{\\text{(C)}}", "C"),
        ("\\boxed{\\text{Evelyn}}", "evelyn"),
        ("\\boxed{2 \\sqrt 5}", "2\\sqrt{5}"),
        ("\\boxed{\\$5}", "5"),
        ("\\boxed{10,\\!080}", "10080"),
        ("The answer is $2\\sqrt{3}$.", "2\\sqrt{3}"),
        ("The answer is 3x+2.", "3x+2"),
        ("The answer is 5x.", "5x"),
        ("The answer is 5 apples and 2 pears.", "5"),
        ("The answer is 50%.", "50"),
        ("The answer is 7, I think", "7"),
    ],
)
def test_answers_that_are_the_same_are_right(said: str, expected: str) -> None:
    assert is_right("maths", said, expected)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("", "3"),
        ("I can't tell.", "3"),
        ("\\boxed{13}", "3"),
        ("\\boxed{(1,2)}", "(2,1)"),
        ("\\boxed{(1,2)}", "[1,2]"),
        ("\\boxed{\\frac{1}{0}}", "1"),
        ("It is 3. The answer is 4.", "3"),
        ("\\boxed{1.5}", "1.50001"),
        ("The answer is $2\\sqrt{3}$.", "2"),
        ("The answer is 2^{10}.", "2"),
        ("The answer is 3x+2.", "3"),
    ],
)
def test_answers_that_differ_or_can_not_be_read_are_wrong(said: str, expected: str) -> None:
    assert not is_right("maths", said, expected)


def test_what_counts_as_the_final_answer() -> None:
    assert final_answer("\\boxed{a{b}c} \\boxed{") == "a{b}c"
    assert final_answer("The answer is: **17** apples") == "17"
    assert final_answer("The answer is x+1.") == "x+1"
    assert final_answer("no figure") is None
    assert is_equal("x+1", "x + 1")


@pytest.mark.parametrize(
    ("said", "letter"),
    [
        ("A seems wrong, so the answer is (C).", "C"),
        ("\\boxed{\\text{B}}", "B"),
        ("Not A.\nD", "D"),
        ("Because of Boyle.", None),
        ("", None),
    ],
)
def test_the_letter_that_a_text_settles_on(said: str, letter: str | None) -> None:
    assert final_choice(said) == letter
    assert is_right("choice", said, "C") == (letter == "C")


def test_a_program_passes_only_by_running_its_tests_to_their_end() -> None:
    good = "Sure.\n```python\ndef root(x):\n    return math.sqrt(x)\n```\nDone."
    assert passes(good, STUB, "root", TEST, Limits())  # with the import that the stub had
    body = "```\n    return math.sqrt(x)\n```"
    assert passes(body, STUB, "root", TEST, Limits())
    assert not passes(good.replace("sqrt(x)", "floor(x)"), STUB, "root", TEST, Limits())
    assert not passes("```python\nimport sys\nsys.exit(0)\ndef root(x): pass\n```", STUB, "root", TEST, Limits())
    assert not passes("no code at all", STUB, "root", TEST, Limits())
    assert code_of("def root(x):\n    return 3.0", STUB, "root") is not None


def test_a_program_is_bounded_in_time_memory_and_files_and_sees_no_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEER_SECRET", "x")
    limits = Limits(timeout_s=PATIENCE_S, memory_mb=256)
    assert run("import os\nassert 'STEER_SECRET' not in os.environ\nprint('x' * 100000)", limits)
    assert not run("while True: pass", Limits(timeout_s=1))
    assert not run("x = bytearray(1 << 30)", limits)
    assert not run(f"open({str(tmp_path / 'large')!r}, 'w').write('a' * (1 << 22))", limits)
