"""Samples: every prompt of every set, in every variant, continued to its end. The model is left alone: no steering.

    OUT/samples.jsonl   one `Sampled` a line: a prompt in one variant, with all its turns as the engine sampled them

Rules kept here: a sample's seed comes from the job's seed, the variant and the prompt, so that two models that are
compared draw alike; ids are the truth and text is read off them, as rollouts do.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict
from tqdm import tqdm

from detector.context import message_text
from train.evaluation.errors import EvaluationConfigError
from train.evaluation.report import Variant
from train.evaluation.sets import Item, PromptSet
from train.rollout.driver import seed_of
from train.rollout.generator import FinishReason, Generated, Generator, Request, Sampling
from train.rollout.prompts import PromptRow
from train.rollout.store import LineStore
from train.rollout.stream import Budget
from train.rollout.text import LegText, leg_text
from train.rollout.vocabulary import Opening, Vocabulary

SAMPLES = "samples.jsonl"


class Turn(BaseModel):
    """One sample. Its end id, where the model ended by itself, is the last of `token_ids`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    token_ids: list[int]
    reasoning: str
    answer: str
    finish_reason: FinishReason
    seed: int


class Sampled(BaseModel):
    """A prompt in one variant with its turns."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    set: str
    variant: Variant
    prompt: str
    label: str
    messages: list[dict[str, Any]]
    prompt_token_ids: list[int]
    turns: list[Turn]


@dataclass(frozen=True, slots=True)
class Drawing:
    """How samples are drawn, and how many prompts go to the engine at a time."""

    sampling: Sampling = field(default_factory=Sampling)
    samples: int = 1
    max_tokens: int | None = 4096
    seed: int = 1
    block: int = 32
    lanes: int = 2


class Ask(NamedTuple):
    """An item of a set, in a variant."""

    set: str
    variant: Variant
    item: Item

    @property
    def id(self) -> str:
        """The key of its lines."""
        return f"{self.variant}/{self.set}/{self.item.prompt.id}"


def asks(sets: Sequence[PromptSet], variants: Sequence[Variant]) -> list[Ask]:
    """Everything that is asked, the template first."""
    ordered = sorted(variants, key=lambda variant: variant != "template")
    return [Ask(chosen.name, variant, item) for variant in ordered for chosen in sets for item in chosen.items]


def sample_all(
    rows: Sequence[Ask], generator: Callable[[], Generator], vocabulary: Vocabulary, drawing: Drawing, out: Path
) -> None:
    """OUT/samples.jsonl, from where it stopped. The generator is opened only if something is left, and closed after."""
    if (out / SAMPLES).exists():
        return
    store = LineStore(out, SAMPLES)
    left = [row for row in rows if row.id not in store.done]
    if left:
        engine = generator()
        try:
            with tqdm(total=len(rows), initial=len(rows) - len(left), desc="sample", unit="prompt") as bar:

                def keep(made: Sequence[Sampled]) -> None:
                    for sampled in made:
                        store.append(sampled.id, sampled.model_dump_json())
                        bar.update()

                _run_blocks(left, lambda block: _block(block, engine, vocabulary, drawing), drawing, keep)
        finally:
            engine.close()
    store.finish([row.id for row in rows])


def read_samples(out: Path) -> Iterator[Sampled]:
    """One by one, in the order of the asks."""
    with (out / SAMPLES).open(encoding="utf-8") as lines:
        for line in lines:
            yield Sampled.model_validate_json(line)


def _run_blocks(
    rows: Sequence[Ask],
    work: Callable[[Sequence[Ask]], list[Sampled]],
    drawing: Drawing,
    keep: Callable[[Sequence[Sampled]], None],
) -> None:
    """Lanes work, this thread writes. After a failure what is finished is kept, what is not begun is not begun."""
    size = drawing.block
    with ThreadPoolExecutor(drawing.lanes, thread_name_prefix="sample") as lanes:
        running = {lanes.submit(work, rows[at : at + size]) for at in range(0, len(rows), size)}
        try:
            for future in as_completed(list(running)):
                running.discard(future)
                keep(future.result())
        finally:
            lanes.shutdown(cancel_futures=True)
            for future in running:
                if future.done() and not future.cancelled() and future.exception() is None:
                    keep(future.result())


def _block(rows: Sequence[Ask], engine: Generator, vocabulary: Vocabulary, drawing: Drawing) -> list[Sampled]:
    prompts = [rendered(vocabulary, row.item.prompt, row.variant) for row in rows]
    seeds = [[_seed(row, number, drawing) for number in range(drawing.samples)] for row in rows]
    budget = Budget(drawing.max_tokens, engine.context_length)
    rooms = [budget.remaining(len(prompt), 0) for prompt in prompts]
    requests = [
        Request(prompt, room, seed)
        for prompt, room, own in zip(prompts, rooms, seeds, strict=True)
        for seed in own
        if room
    ]
    made = iter(engine.generate(requests, drawing.sampling) if requests else [])
    sampled = []
    for row, prompt, room, own in zip(rows, prompts, rooms, seeds, strict=True):
        turns = [_turn(vocabulary, prompt, next(made) if room else Generated([], "length"), seed) for seed in own]
        sampled.append(
            Sampled(
                id=row.id,
                set=row.set,
                variant=row.variant,
                prompt=row.item.prompt.id,
                label=row.item.label,
                messages=row.item.prompt.messages,
                prompt_token_ids=prompt,
                turns=turns,
            )
        )
    return sampled


def _seed(row: Ask, number: int, drawing: Drawing) -> int:
    prompt = row.item.prompt
    return seed_of(drawing.seed, row.variant, prompt.id, number) if prompt.seed is None else prompt.seed + number


def _turn(vocabulary: Vocabulary, prompt: list[int], made: Generated, seed: int) -> Turn:
    text = turn_text(vocabulary, prompt, made.token_ids, is_ended=made.finish_reason == "stop")
    return Turn(
        token_ids=made.token_ids,
        reasoning=text.of("reasoning"),
        answer=text.of("answer"),
        finish_reason=made.finish_reason,
        seed=seed,
    )


def turn_text(vocabulary: Vocabulary, prompt: Sequence[int], ids: Sequence[int], *, is_ended: bool) -> LegText:
    """A turn's text with the ids behind it, split into reasoning and answer.

    Without a scaffold a model may think and close a block that nothing opened: what is before the mark is reasoning.
    """
    body, _ = vocabulary.split_end(ids, is_ended=is_ended)
    texts = vocabulary.texts(prompt, body)
    opening: Opening = vocabulary.opening(prompt, None)
    if opening == "start":
        raw, markers = "".join(texts), vocabulary.markers
        if markers.end in raw and not raw.lstrip().startswith(markers.start):
            opening = "reasoning"
    return leg_text(texts, opening, vocabulary.markers)


def rendered(vocabulary: Vocabulary, prompt: PromptRow, variant: Variant) -> list[int]:
    """Prompt ids. `stripped`: the chat template without the think block that it opens; `raw`: the bare texts."""
    text = vocabulary.render(prompt.messages, prompt.tools)
    match variant:
        case "template":
            pass
        case "stripped":
            text = _without_scaffold(text, vocabulary)
        case "raw":
            begin = vocabulary.tokenizer.bos_token or ""
            bare = "\n\n".join(said for message in prompt.messages if (said := message_text(message)))
            text = bare if not begin or not text.startswith(begin) else f"{begin}{bare}"
    return vocabulary.encode(text)


def _without_scaffold(text: str, vocabulary: Vocabulary) -> str:
    bare = text.rstrip()
    if not bare.endswith(vocabulary.markers.start):
        raise EvaluationConfigError(
            f'variants: the chat template of {vocabulary.name} opens no think block, so "stripped" would be '
            '"template"; leave it out, or give "raw"'
        )
    return bare.removesuffix(vocabulary.markers.start)
