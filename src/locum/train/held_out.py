"""The held-out text that ships with locum: beginnings of files that no training run has seen."""

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from locum.train.corpus import Document

PER_DOMAIN = 60_000
"""Characters of each domain."""
PIECE = 4_000
"""Most characters of one file: more files are worth more than longer ones."""


def write_held_out(documents: Mapping[str, Sequence[Document]], path: Path) -> None:
    """Write JSONL, gzipped without a date, an object a piece; the same documents give the same bytes."""
    lines = []
    for domain, members in documents.items():
        left = PER_DOMAIN
        for document in members:
            piece = beginning(document.text)
            if document.held_out and left > 0 and piece:
                left -= len(piece)
                entry = {
                    "domain": domain, "source": document.source, "package": document.package,
                    "licence": document.licence, "text": piece,
                }  # fmt: skip
                lines.append(json.dumps(entry, ensure_ascii=False))
    path.write_bytes(gzip.compress("\n".join(lines).encode(), mtime=0))


def beginning(text: str) -> str:
    """Whole lines from the start of `text`, up to `PIECE` characters."""
    if len(text) <= PIECE:
        return text
    cut = text.rfind("\n", 0, PIECE)
    return text[: cut + 1]
