"""Files are whole or not there: the writer itself, broken at every step."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from locum.errors import LocumError, UsageError
from locum.files import new_folder, write_json, write_text


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


def link_to_nowhere(target: Path) -> Path:
    target.symlink_to(target.parent / "nowhere")
    return target


def link_to_an_empty_folder(target: Path) -> Path:
    (target.parent / "empty").mkdir()
    target.symlink_to(target.parent / "empty")
    return target


def below_a_file(target: Path) -> Path:
    target.write_text("mine")
    return target / "deep" / "er"


def below_a_link_to_nowhere(target: Path) -> Path:
    return link_to_nowhere(target) / "deep"


def too_long(target: Path) -> Path:
    return target / ("x" * 300)


def here(target: Path) -> Path:
    return target / "deep" / ".."


def locked(target: Path) -> Path:
    return Path("/proc/locum")  # nobody, not even root, makes folders there


@pytest.mark.parametrize(
    "hindrance",
    [link_to_nowhere, link_to_an_empty_folder, below_a_file, below_a_link_to_nowhere, too_long, here, locked],
)
def test_a_target_that_cannot_be_is_refused_before_the_work(
    tmp_path: Path, hindrance: Callable[[Path], Path]
) -> None:
    target = hindrance(tmp_path / "target")
    refused = pytest.raises(UsageError, match=r"the target (exists|cannot be made) in")
    with refused as caught, new_folder(target, 0):
        pytest.fail("the work began")
    assert str(target) in str(caught.value)
    assert "Errno" not in str(caught.value)
    assert not list(tmp_path.rglob("*.part"))


def a_file(target: Path) -> None:
    target.write_text("mine")


def a_folder_in_use(target: Path) -> None:
    target.mkdir()
    (target / "mine").touch()


@pytest.mark.parametrize("rival", [a_file, a_folder_in_use, link_to_nowhere])
def test_what_is_finished_outlives_a_rival(tmp_path: Path, rival: Callable[[Path], object]) -> None:
    target = tmp_path / "target"

    def work() -> None:
        with new_folder(target, 1) as folder:
            (folder / "work").write_text("days of it")
            rival(target)

    with pytest.raises(LocumError, match="all is written") as caught:
        work()
    (left,) = tmp_path.glob("*.part")
    assert f"rename {left} yourself" in str(caught.value)
    assert (left / "work").read_text() == "days of it"
