"""Training of the student: batches of conversations, one pass of the request encoder each, many segments.

Resumable: a checkpoint is written after each epoch. Runs on a GPU where there is one, else on the CPU; in bfloat16
where that is supported.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from train.detector.config import FitConfig
from train.detector.examples import UNLABELLED, Examples, Group, Packed, Row, pack
from train.detector.model import Student

# Harmful prompts are a sixth of the public sets; drawn thrice, the classes of the openers are nearly even.
_HARMFUL_DRAWS = 3
# Of a long trace, the first sentences are always drawn: that is where most first cues are.
_OPENING_ROWS = 3
_BATCHES_PER_STRETCH = 16

Report = Callable[[str], None]


class Batch(NamedTuple):
    """Requests [groups], segments [rows] with the group of each; harm is NaN where it is not taught; `softened` says
    for which rows a teacher's probabilities hold."""

    requests: list[int]
    harm: list[float]
    rows: list[Row]
    owners: list[int]
    softened: list[bool]


class Soft(NamedTuple):
    """A teacher's probabilities [segments, classes] on the device, and their share in the loss."""

    table: Tensor
    weight: float


class Arrays:
    """Packed tokens on the device."""

    def __init__(self, packed: Packed, device: torch.device) -> None:
        self.ids = torch.from_numpy(packed.ids).to(device)
        self.types = torch.from_numpy(packed.types).to(device)
        self.lengths = packed.lengths
        self.device = device

    def take(self, indices: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """ids, types, mask, each [len(indices), longest of these]."""
        lengths = torch.from_numpy(self.lengths[list(indices)])
        longest = int(lengths.max())
        picked = torch.tensor(indices)
        if self.device.type == "cuda":
            picked, lengths = picked.pin_memory().to(self.device, non_blocking=True), lengths.to(self.device)
        mask = torch.arange(longest, device=self.device)[None] < lengths[:, None]
        return self.ids[picked, :longest].long(), self.types[picked, :longest].long(), mask


def fit(
    student: Student,
    examples: Examples,
    config: FitConfig,
    checkpoint: Path,
    report: Report,
    teacher_weight: float = 0.0,
) -> None:
    """Train `student` in place; goes on from `checkpoint` where it exists. `teacher_weight`: see `TeacherConfig`."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(config.seed)
    has_bfloat16 = device.type == "cuda" or (
        torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )
    student.to(device)
    requests, segments = Arrays(pack(examples.requests), device), Arrays(pack(examples.segments), device)
    soft = (
        None
        if examples.soft is None or not config.with_teacher
        else Soft(torch.from_numpy(examples.soft).to(device), teacher_weight)
    )
    sizes = [len(tokens.ids) for tokens in examples.requests]
    # Each epoch draws anew, so that their lengths differ.
    steps = [sum(1 for _ in epoch_batches(examples.groups, sizes, config, epoch)) for epoch in range(config.epochs)]
    optimizer, schedule = _optimizer(student, config, sum(steps))
    first = _resume(checkpoint, student, optimizer, schedule, device)
    for epoch in range(first, config.epochs):
        student.train()
        total = torch.zeros((), device=device)
        for batch in epoch_batches(examples.groups, sizes, config, epoch):
            with torch.autocast(device.type, torch.bfloat16, enabled=has_bfloat16):
                loss = batch_loss(student, requests, segments, batch, config, soft)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += loss.detach()
        report(f"epoch {epoch + 1}/{config.epochs}: loss {float(total) / steps[epoch]:.4f}")
        _save(checkpoint, student, optimizer, schedule, epoch + 1)
    student.eval()


def batch_loss(
    student: Student, requests: Arrays, segments: Arrays, batch: Batch, config: FitConfig, soft: Soft | None
) -> Tensor:
    """Weighted cross-entropy of segment classes plus `config.harm_weight` times that of the requests' harm."""
    vectors, harm_logits = student.encode(*requests.take(batch.requests))
    # Sorted by length and scored in halves: short segments then need not be padded to the longest.
    order = sorted(range(len(batch.rows)), key=lambda i: segments.lengths[batch.rows[i].segment])
    half = len(order) // 2
    parts = []
    for part in filter(None, (order[:half], order[half:])):
        owners = torch.tensor([batch.owners[i] for i in part], device=vectors.device)
        parts.append(student.score(vectors[owners], *segments.take([batch.rows[i].segment for i in part])))
    losses = _row_losses(torch.cat(parts).float(), batch, order, soft, config)
    weights = torch.tensor([batch.rows[i].weight for i in order], device=vectors.device)
    harm = torch.tensor(batch.harm, device=vectors.device).clamp(config.label_smoothing, 1 - config.label_smoothing)
    taught = ~harm.isnan()
    harm_losses = functional.binary_cross_entropy_with_logits(
        harm_logits.float(), harm.nan_to_num(0.0), reduction="none"
    )
    harm_loss = (harm_losses * taught).sum() / taught.sum().clamp(min=1)
    return (losses * weights).sum() / weights.sum() + config.harm_weight * harm_loss


def _row_losses(logits: Tensor, batch: Batch, order: list[int], soft: Soft | None, config: FitConfig) -> Tensor:
    """Cross-entropy against the data's labels, mixed with that against the teacher's where there are both [rows]."""
    labels = torch.tensor([batch.rows[i].label for i in order], device=logits.device)
    labelled = labels != UNLABELLED
    hard = functional.cross_entropy(
        logits, labels.clamp(min=0), reduction="none", label_smoothing=config.label_smoothing
    )
    if soft is None:
        return hard * labelled
    targets = soft.table[torch.tensor([batch.rows[i].segment for i in order], device=logits.device)]
    has_soft = torch.tensor([batch.softened[i] for i in order], device=logits.device) & ~targets[:, 0].isnan()
    taught = -(targets.nan_to_num(0.0) * functional.log_softmax(logits, dim=-1)).sum(dim=-1)
    share = torch.where(labelled, soft.weight, 1.0) * has_soft
    return (1 - share) * hard * labelled + share * taught


def epoch_batches(groups: Sequence[Group], sizes: Sequence[int], config: FitConfig, epoch: int) -> Iterator[Batch]:
    """The batches of an epoch; depends on the seed and the epoch alone. `sizes` are the lengths of all requests.

    Conversations whose requests are about as long go together, within stretches of the shuffled order.
    """
    rng = random.Random(f"{config.seed}/{epoch}")
    order = [group for group in groups for _ in range(_draws(group, config, rng))]
    rng.shuffle(order)
    stretch = config.groups_per_batch * _BATCHES_PER_STRETCH
    for start in range(0, len(order), stretch):
        order[start : start + stretch] = sorted(
            order[start : start + stretch], key=lambda group: sizes[group.requests[0]]
        )
    starts = list(range(0, len(order), config.groups_per_batch))
    rng.shuffle(starts)
    for start in starts:
        batch = Batch([], [], [], [], [])
        for owner, group in enumerate(order[start : start + config.groups_per_batch]):
            request = rng.choice(group.requests) if rng.random() < 0.6 else group.requests[0]
            batch.requests.append(request)
            # An empty request has no harm of its own to teach.
            batch.harm.append(float("nan") if group.harm is None or request == group.hidden else group.harm)
            rows = _draw_rows(group, config.segments_per_group, rng)
            if request == group.hidden:
                rows = [row for row in rows if row.label != UNLABELLED]
            batch.softened.extend([request != group.hidden] * len(rows))
            batch.rows.extend(rows)
            batch.owners.extend([owner] * len(rows))
        if batch.rows:
            yield batch


def _optimizer(
    student: Student, config: FitConfig, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    request = [*student.request.parameters(), *student.words.parameters()]
    groups: list[dict[str, Any]] = [{"params": request}, {"params": list(student.segment.parameters())}]
    rates = [config.request_learning_rate, config.learning_rate]
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=config.weight_decay)
    return optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=steps + 1, pct_start=0.06)


def _draws(group: Group, config: FitConfig, rng: random.Random) -> int:
    if config.share < 1 and rng.random() >= config.share:
        return 0
    match group.kind:
        case "trace":
            return config.trace_draws
        case "frames":
            return int(rng.random() < config.frames_per_epoch)
        case "prompt":
            return (_HARMFUL_DRAWS if (group.harm or 0.0) > 0.5 else 1) * int(rng.random() < config.prompts_per_epoch)


def _draw_rows(group: Group, count: int, rng: random.Random) -> list[Row]:
    if len(group.rows) <= count:
        return group.rows
    if group.kind == "prompt":
        return rng.sample(group.rows, count)
    return group.rows[:_OPENING_ROWS] + rng.sample(group.rows[_OPENING_ROWS:], count - _OPENING_ROWS)


def _save(
    path: Path,
    student: Student,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    epoch: int,
) -> None:
    temporary = path.with_suffix(".part")
    state = {
        "student": student.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "epoch": epoch,
    }
    torch.save(state, temporary)
    temporary.replace(path)


def _resume(
    path: Path,
    student: Student,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    device: torch.device,
) -> int:
    if not path.exists():
        return 0
    state = torch.load(path, map_location=device, weights_only=True)
    student.load_state_dict(state["student"])
    optimizer.load_state_dict(state["optimizer"])
    schedule.load_state_dict(state["schedule"])
    return int(state["epoch"])
