"""Which positions of a trace are measured: a coarse pass first, then the middle of every step where CSR changed.

Pure functions over *places*, the token offsets where a trace may be cut. A curve that is flat costs few generations, a
turn is followed down to the sentence (or token) that made it. What rises and falls back between two equal neighbours
is not seen: a smaller stride sees more.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise


def first_pass(places: Sequence[int], stride: int) -> list[int]:
    """Every `stride`-th place, and the last."""
    chosen = list(places[::stride])
    return chosen if not places or chosen[-1] == places[-1] else [*chosen, places[-1]]


def refinement(places: Sequence[int], csr: Mapping[int, float | None], margin: float) -> list[int]:
    """The middle place of every gap across which CSR changed by at least `margin`; none: nothing is left to refine.

    `csr` has the measured places, None where no judge could tell.
    """
    measured = [index for index, place in enumerate(places) if place in csr]
    middles = []
    for left, right in pairwise(measured):
        before, after = csr[places[left]], csr[places[right]]
        if right - left > 1 and before is not None and after is not None and abs(after - before) >= margin:
            middles.append(places[(left + right) // 2])
    return middles
