"""Means of students' weights. Students that started from one base lie close enough to be averaged (Wortsman et al.
2022, "Model soups"); what they disagree on by chance averages out, at no cost in serving.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


def write_weights(tensors: Mapping[str, torch.Tensor], path: Path) -> Path:
    """In half precision; PATH is there in whole or not at all."""
    temporary = path.with_suffix(".part")
    save_file({name: value.half().cpu().contiguous() for name, value in tensors.items()}, temporary)
    return temporary.replace(path)


def mean_of(paths: Sequence[Path], path: Path) -> Path:
    """The mean of these weights, written to PATH."""
    stored = [load_file(one) for one in paths]
    return write_weights(
        {name: torch.stack([one[name].float() for one in stored]).mean(dim=0) for name in stored[0]}, path
    )


def greedy_soup(losses: Mapping[Path, float], loss_of: Callable[[Path], float], path: Path) -> list[Path]:
    """Best first, each student joins the mean if that lowers its loss; PATH is the mean of those returned.

    `losses` of the students themselves; `loss_of` weighs a mean, on the split by which students are chosen.
    """
    best, *others = sorted(losses, key=losses.__getitem__)
    taken, loss = [best], losses[best]
    for student in others:
        tried = loss_of(mean_of([*taken, student], path.with_suffix(".tried")))
        if tried < loss:
            taken, loss = [*taken, student], tried
    path.with_suffix(".tried").unlink(missing_ok=True)
    mean_of(taken, path)
    return taken
