"""Finding the native library, and doing without it."""

import importlib.resources
from pathlib import Path

import pytest

from locum.errors import UsageError
from locum.native import library


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCUM_KERNELS", raising=False)
    for name in ("_open", "_library"):
        monkeypatch.setattr(library, name, getattr(library, name).__wrapped__)


def test_reference_is_a_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCUM_KERNELS", "reference")
    native = library.load()
    assert native.missing == "LOCUM_KERNELS=reference"
    assert native.linear_bf16 is None


def test_another_choice_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCUM_KERNELS", "fastest")
    with pytest.raises(UsageError, match=r"auto or reference.*fastest"):
        library.load()


def test_a_package_without_the_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.resources, "files", lambda package: tmp_path)
    assert "without a C++ compiler" in str(library.load().missing)


def test_a_library_for_another_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/libnative.so").write_bytes(b"\x7fELF of something else")
    monkeypatch.setattr(importlib.resources, "files", lambda package: tmp_path)
    assert "cannot be loaded" in str(library.load().missing)


def test_the_identity_follows_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.resources, "files", lambda package: tmp_path)
    assert library.identity() == "none"
    (tmp_path / "lib").mkdir()
    seen = set()
    for content in (b"", b"one", b"another"):
        (tmp_path / "lib/libnative.so").write_bytes(content)
        seen.add(library.identity())
    assert len(seen) == 3
    assert all(len(text) == 16 for text in seen)
