"""The demo model: made once, kept, mended."""

from pathlib import Path

import pytest

from locum.synth import demo
from locum.synth.demo import demo_model


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    return {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in folder.iterdir()}


def content(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache") / "made" / "on demand"


def test_made_once_and_then_reused(cache: Path) -> None:
    first = demo_model(cache)
    before = snapshot(first)
    assert demo_model(cache) == first
    assert snapshot(first) == before
    assert 20e6 < sum(p.stat().st_size for p in first.iterdir()) < 80e6
    assert len(list(cache.iterdir())) == 2


@pytest.mark.parametrize(
    "damage", ["flip", "truncate", "remove", "add", "no record", "bad record", "only record"]
)
def test_a_damaged_one_is_made_anew(cache: Path, damage: str) -> None:
    folder = demo_model(cache)
    good = content(folder)
    weights, record = folder / "model.safetensors", folder.with_name(folder.name + ".json")
    if damage == "flip":
        with weights.open("r+b") as out:
            out.seek(1_000_000)
            byte = out.read(1)
            out.seek(1_000_000)
            out.write(bytes([byte[0] ^ 1]))
    elif damage == "truncate":
        with weights.open("r+b") as out:
            out.truncate(1_000_000)
    elif damage == "remove":
        (folder / "tokenizer.json").unlink()
    elif damage == "add":
        (folder / "model-00002.safetensors").write_bytes(b"?")
    elif damage == "no record":
        record.unlink()
    elif damage == "bad record":
        record.write_text("[1")
    else:
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
    assert content(demo_model(cache)) == good
    assert len(list(cache.iterdir())) == 2


def test_another_process_may_be_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both see nothing and make one; the later finds the earlier's there and leaves it: it may be in use."""
    make, first = demo.write_checkpoint, []

    def overtaken(*args: object, **kwargs: object) -> object:
        made = make(*args, **kwargs)
        if not first:
            first.append(None)
            first[0] = snapshot(demo_model(tmp_path))
        return made

    monkeypatch.setattr(demo, "write_checkpoint", overtaken)
    folder = demo_model(tmp_path)
    assert snapshot(folder) == first[0]
    assert len(list(tmp_path.iterdir())) == 2
