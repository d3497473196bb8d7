"""Documents to token streams: tokenizer, splits, batches.

A data folder holds `tokenizer.json`, one `DOMAIN.SPLIT.bin` of 16-bit token ids per domain and split,
documents ended by the end token, and `data.json`: who distributes what under which licence, and the sizes.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from locum.evaluate.tasks import KINDS, Task, tasks
from locum.files import write_json
from locum.train.corpus import Document

VOCABULARY = 4096
END, PAD = "<|endoftext|>", "<|pad|>"
END_ID, PAD_ID = 0, 1
SPLITS = ("train", "held-out")
IGNORE = -100
_TOKENIZER_SAMPLE = 3_000_000


def train_tokenizer(documents: dict[str, list[Document]]) -> Tokenizer:
    """Byte-level BPE over an equal share of every domain's training text, digits apart."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_sample(documents), trainer)
    return tokenizer


def _sample(documents: dict[str, list[Document]]) -> Iterator[str]:
    for members in documents.values():
        left = _TOKENIZER_SAMPLE
        for document in members:
            if not document.held_out and left > 0:
                left -= len(document.text)
                yield document.text
    for kind in KINDS:
        source = tasks(kind, 0, held_out=False)
        yield "\n".join(f"{task.prompt} {task.answer}" for task, _ in zip(source, range(500), strict=False))


def write_data(
    documents: dict[str, list[Document]], folder: Path, tokenizer: Tokenizer | None = None
) -> None:
    """Make the data folder, with a tokenizer trained on its text unless one is given."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = tokenizer or train_tokenizer(documents)
    tokenizer.save(str(folder / "tokenizer.json"))
    facts: dict[str, Any] = {"domains": {}, "packages": {}}
    for domain, members in documents.items():
        sizes = {}
        for split in SPLITS:
            chosen = [d for d in members if d.held_out == (split == "held-out")]
            ids: list[NDArray[np.uint16]] = []
            for begin in range(0, len(chosen), 64):
                encoded = tokenizer.encode_batch([d.text for d in chosen[begin : begin + 64]])
                ids += [np.asarray([*encoding.ids, END_ID], np.uint16) for encoding in encoded]
            stream = np.concatenate(ids) if ids else np.zeros(0, np.uint16)
            stream.tofile(folder / f"{domain}.{split}.bin")
            size = sum(len(d.text.encode()) for d in chosen)
            sizes[split] = {"documents": len(chosen), "bytes": size, "tokens": len(stream)}
        facts["domains"][domain] = sizes
        for document in members:
            package = facts["packages"].setdefault(
                document.package, {"licence": document.licence, "bytes": 0}
            )
            package["bytes"] += len(document.text.encode())
    write_json(folder / "data.json", facts, indent=1)


@dataclass
class Data:
    """A data folder, open."""

    folder: Path

    def __post_init__(self) -> None:
        self.facts: dict[str, Any] = json.loads((self.folder / "data.json").read_text())
        self.tokenizer = Tokenizer.from_file(str(self.folder / "tokenizer.json"))
        self.domains = tuple(self.facts["domains"])
        self.streams = {
            (domain, split): np.fromfile(self.folder / f"{domain}.{split}.bin", np.uint16)
            for domain in self.domains
            for split in SPLITS
        }

    def task_row(self, kind: str, seed: int, length: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(ids, labels) of a row of task lines; only answers are labelled, questions are random."""
        ids, labels = [END_ID], [IGNORE]
        for task in tasks(kind, seed, held_out=False):
            question, answer = self.encode_task(task)
            ids += question + answer
            labels += [IGNORE] * len(question) + answer
            if len(ids) > length:
                return np.asarray(ids[:length]), np.asarray(labels[:length])
        raise AssertionError("tasks never end")

    def encode_task(self, task: Task) -> tuple[list[int], list[int]]:
        """Tokens of the question with its sign, and of the answer with its line break."""
        question = self.tokenizer.encode(task.prompt).ids
        return question, self.tokenizer.encode(f" {task.answer}\n").ids

    def batch(
        self, step: int, rows: int, length: int, mix: dict[str, float], seed: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(ids, labels) [rows, length + 1] of one training step, the same for the same step and seed."""
        random = np.random.default_rng([seed, step])
        names = [name for name in mix if name == "tasks" or name in self.domains]
        shares = np.asarray([mix[name] for name in names])
        chosen = random.choice(len(names), rows, p=shares / shares.sum())
        ids, labels = np.empty((rows, length + 1), np.int64), np.empty((rows, length + 1), np.int64)
        for row, name in enumerate(names[number] for number in chosen):
            if name == "tasks":
                kind = KINDS[int(random.integers(len(KINDS)))]
                ids[row], labels[row] = self.task_row(kind, int(random.integers(1 << 40)), length + 1)
            else:
                stream = self.streams[name, "train"]
                start = int(random.integers(len(stream) - length - 1))
                ids[row] = labels[row] = stream[start : start + length + 1]
        return ids, labels
