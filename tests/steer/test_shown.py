"""The bounded memory gives the context that the whole text would give."""

from hypothesis import given, settings
from hypothesis import strategies as st

from steer.shown import ShownText
from tests.steer.rude_driver import context_of

_STEP = st.tuples(
    st.lists(st.integers(1, 4000), max_size=12),  # sizes of the appended pieces
    st.floats(0, 1),  # where the leg is cut
    st.integers(0, 900),  # length of what is spliced
)


@settings(max_examples=500, deadline=None, derandomize=True)
@given(st.lists(_STEP, min_size=1, max_size=4))
def test_context_is_that_of_the_whole_text_over_legs_and_forgetting(steps: list[tuple[list[int], float, int]]) -> None:
    shown, whole, number = ShownText(), "", 0
    for sizes, share, spliced_size in steps:
        leg = ""
        for size in sizes:
            piece = "".join(chr(0x4E00 + (number + i) % 5000) for i in range(size))
            number += size
            shown.append(piece)
            leg += piece
            shown.forget(len(leg) - 50)
            assert shown.before(len(leg)) == context_of(whole + leg)
            assert shown.slice(len(leg) - 1, len(leg)) == leg[-1]
        kept = max(len(leg) - 60, int(share * len(leg)))
        kept = min(kept, len(leg))
        spliced = "S" * spliced_size
        shown.start_leg(kept, spliced)
        whole += leg[:kept] + spliced
        assert shown.before(0) == context_of(whole)
