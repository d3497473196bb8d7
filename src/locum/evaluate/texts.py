"""Held-out text: what a model is judged on, each piece with its domain.

A file is JSONL, an object a line with `text` and perhaps `domain`, plain or gzipped; or any other text file,
which is one piece. Without a file it is the text that ships with locum, which locum-tiny has never seen.
"""

import gzip
import importlib.resources
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from locum.errors import UsageError

SHIPPED = "held_out.jsonl.gz"
_PLAIN = "text"


@dataclass(frozen=True, slots=True)
class Text:
    """One piece. `source` says where it comes from, for people."""

    domain: str
    text: str
    source: str = ""


def shipped_texts() -> list[Text]:
    """The held-out text that ships with locum."""
    raw = (importlib.resources.files("locum.evaluate") / SHIPPED).read_bytes()
    return list(_lines(gzip.decompress(raw).decode("utf-8"), SHIPPED))


def read_texts(path: Path) -> list[Text]:
    """The pieces of a file. Raises `UsageError` for one that cannot be read, is empty or not as described."""
    try:
        raw = path.read_bytes()
        content = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UsageError("the text cannot be read", where=path, got=error) from error
    name = path.name.removesuffix(".gz")
    lines = name.endswith(".jsonl")
    texts = list(_lines(content, str(path))) if lines else [Text(_PLAIN, content, path.name)]
    texts = [text for text in texts if text.text.strip()]
    if not texts:
        raise UsageError("there is no text", where=path)
    return texts


def _lines(content: str, where: str) -> Iterator[Text]:
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise UsageError("not a JSON object", where=f"{where}, line {number}", got=error) from error
        text = entry.get("text") if isinstance(entry, dict) else None
        if not isinstance(text, str):
            allowed = '{"text": "...", "domain": "..."}'
            raise UsageError("a line without text", where=f"{where}, line {number}", allowed=allowed)
        yield Text(str(entry.get("domain", _PLAIN)), text, str(entry.get("source", "")))
