"""What text is read, and what bad text gets."""

import gzip
import json
from pathlib import Path

import pytest

from locum.errors import UsageError
from locum.evaluate.texts import Text, read_texts


def test_jsonl_plain_and_gzipped(tmp_path: Path) -> None:
    lines = [{"text": "one\n", "domain": "a", "source": "f"}, {"text": "zwei ü"}]
    content = "\n".join(json.dumps(line) for line in lines) + "\n\n"
    plain, packed = tmp_path / "t.jsonl", tmp_path / "t.jsonl.gz"
    plain.write_text(content)
    packed.write_bytes(gzip.compress(content.encode()))
    assert read_texts(plain) == read_texts(packed) == [Text("a", "one\n", "f"), Text("text", "zwei ü")]


def test_any_other_file_is_one_piece(tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    path.write_text('{"text": "not read as JSON"}')
    assert read_texts(path) == [Text("text", '{"text": "not read as JSON"}', "book.txt")]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl", b'{"text": "x"}\nnot json\n', "line 2"),
        ("a.jsonl", b'{"texts": "x"}\n', "line 1"),
        ("a.jsonl", b"[1]\n", "line 1"),
        ("a.jsonl", b"", "no text"),
        ("a.txt", b"  \n ", "no text"),
        ("a.txt", b"\xff\xfe\xff", "cannot be read"),
        ("a.jsonl.gz", b"not gzip", "cannot be read"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "x"}')[:-9], "cannot be read"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UsageError, match=says):
        read_texts(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        read_texts(tmp_path / "nowhere.jsonl")
