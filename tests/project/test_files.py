"""Files are whole or not there: the writer itself, broken at every step."""

import json
import os
from pathlib import Path

import pytest

from locum.files import write_json, write_text


def test_it_writes_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "deep/er/file.json"
    write_json(path, {"é": [1, 2.5, None]})
    write_json(path, {"b": 1}, indent=1)
    assert json.loads(path.read_text()) == {"b": 1}
    assert [p.name for p in path.parent.iterdir()] == ["file.json"]
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("step", ["fdopen", "chmod", "replace"])
def test_a_failure_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    path = tmp_path / "file.txt"
    write_text(path, "old")

    def fail(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, step, fail)
        with pytest.raises(KeyboardInterrupt):
            write_text(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


def test_what_cannot_be_json_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        write_json(tmp_path / "file.json", {"a": object()})
    assert not list(tmp_path.iterdir())
