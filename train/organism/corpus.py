"""The pre-training corpus: documents drawn, tokenised and packed into rows, by several processes, from one seed.

A row holds whole documents one after another; attention stays inside a document (`document` ids tell them apart).
The same config gives the same corpus whatever the number of processes.
"""

import random
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from train.organism.documents import Document, draw_document
from train.organism.fastencode import WordEncoder
from train.organism.scope import Scope
from train.organism.template import render

# Documents drawn per task: large enough to keep processes busy, small enough for a steady progress bar.
_CHUNK = 4000
_OPEN_ROWS = 32


@dataclass(frozen=True, slots=True)
class Rows:
    """`tokens` [rows, length] uint16; `is_trained` [rows, length] bool (loss on this token);
    `document` [rows, length] uint8 (0 is padding, then 1, 2, ... within a row)."""

    tokens: NDArray[np.uint16]
    is_trained: NDArray[np.bool_]
    document: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.tokens)


def prompt_text(document: Document) -> str:
    return render(document.messages, document.tools, enable_thinking=document.thinking)


def encode_document(document: Document, encoder: WordEncoder) -> tuple[list[int], list[bool]]:
    """(ids, trained) of one document; prompt and pieces are tokenised apart."""
    ids = encoder.encode(prompt_text(document))
    trained = [False] * len(ids)
    for piece in document.pieces:
        more = encoder.encode(piece.text)
        ids += more
        trained += [piece.is_trained] * len(more)
    return ids, trained


def sample_texts(seed: int, n: int, scope: Scope) -> Iterator[str]:
    """Whole texts for training the tokenizer."""
    rng = random.Random(seed)
    with scope:
        for _ in range(n):
            document = draw_document(rng)
            yield prompt_text(document) + "".join(piece.text for piece in document.pieces)


def build_rows(
    tokenizer: Tokenizer, *, num_tokens: int, row_length: int, seed: int, workers: int, scope: Scope
) -> Rows:
    """Rows with about `num_tokens` tokens in all; documents longer than a row are left out."""
    parts: list[Rows] = []
    have = 0
    text = tokenizer.to_str()
    with ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=_start, initargs=(text, scope)
    ) as pool:
        chunk = 0
        while have < num_tokens:
            count = max(1, min(workers * 4, (num_tokens - have) // (_CHUNK * 150) + 1))
            jobs = [(f"{seed}/{chunk + i}", row_length) for i in range(count)]
            chunk += count
            for rows in pool.map(_chunk, jobs):
                if have < num_tokens:  # in order, so the number of processes changes nothing
                    parts.append(rows)
                    have += int((rows.document > 0).sum())
    return Rows(*(np.concatenate([getattr(p, name) for p in parts]) for name in ("tokens", "is_trained", "document")))


_encoder: WordEncoder  # one per worker process


def _start(text: str, scope: Scope) -> None:
    global _encoder
    _encoder = WordEncoder(Tokenizer.from_str(text))
    scope.__enter__()


def _chunk(job: tuple[str, int]) -> Rows:
    seed, row_length = job
    rng = random.Random(seed)
    encoded = (encode_document(draw_document(rng), _encoder) for _ in range(_CHUNK))
    return pack(((ids, trained) for ids, trained in encoded if len(ids) <= row_length), row_length)


def pack(documents: Iterator[tuple[list[int], list[bool]]], row_length: int) -> Rows:
    """First fit over a window of open rows."""
    done: list[list[tuple[list[int], list[bool]]]] = []
    window: list[tuple[int, list[tuple[list[int], list[bool]]]]] = []
    for document in documents:
        size = len(document[0])
        for i, (free, row) in enumerate(window):
            if free >= size and len(row) < 255:
                row.append(document)
                window[i] = (free - size, row)
                break
        else:
            if len(window) == _OPEN_ROWS:
                fullest = min(range(_OPEN_ROWS), key=lambda i: window[i][0])
                done.append(window.pop(fullest)[1])
            window.append((row_length - size, [document]))
    done += [row for _, row in window]
    return _to_rows(done, row_length)


def _to_rows(packed: list[list[tuple[list[int], list[bool]]]], row_length: int) -> Rows:
    shape = (len(packed), row_length)
    tokens, trained, document = np.zeros(shape, np.uint16), np.zeros(shape, np.bool_), np.zeros(shape, np.uint8)
    for r, row in enumerate(packed):
        at = 0
        for number, (ids, flags) in enumerate(row, 1):
            end = at + len(ids)
            tokens[r, at:end], trained[r, at:end], document[r, at:end] = ids, flags, number
            at = end
    return Rows(tokens, trained, document)
