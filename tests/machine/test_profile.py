"""The profile's cache: kept, found again, ignored when damaged or when what it depends on has changed."""

import dataclasses
import json
import logging
import math
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers_machine import KERNELS, QUICK, made_curve
from locum.machine import MachineProfile, load_cached, measure, measuring, profile
from locum.machine.curve import DiskPoint
from locum.machine.disk import DiskRate
from locum.machine.fingerprint import fingerprint
from locum.machine.kernels import KernelRate

MIB = 1 << 20
SOUND = dataclasses.replace(QUICK, curve=made_curve(), kernels=KERNELS)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LOCUM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "measure_memory", lambda: {1: 2.5e10, 2: 3e10})
    monkeypatch.setattr(measuring, "one_rate", lambda source: DiskRate(1.5e9, 8 * MIB, 2, "direct"))
    monkeypatch.setattr("locum.machine.disk._FILE_BYTES", 8 * MIB)


@pytest.mark.parametrize("sound", [QUICK, SOUND])
def test_round_trip(tmp_path: Path, sound: MachineProfile) -> None:
    path = tmp_path / "deep" / "profile.json"
    sound.save(path)
    assert MachineProfile.load(path) == sound
    assert os.listdir(path.parent) == ["profile.json"]
    assert json.loads(path.read_text())["schema"] == "locum.machine/2"
    assert sound.memory_bytes_s == 3.1e10


rates = st.floats(1, 1e13)
counts = st.integers(1, 1 << 40)


@st.composite
def curves(draw: st.DrawFn) -> tuple[DiskPoint, ...]:
    blocks, threads = (draw(st.lists(counts, unique=True, max_size=3)) for _ in range(2))
    return tuple(
        DiskPoint(b, t, huge, draw(rates)) for b in blocks for t in threads for huge in (True, False)
    )


profiles = st.builds(
    MachineProfile,
    disk_read_bytes_s=rates,
    disk_block=counts,
    disk_threads=counts,
    disk_mode=st.text(),
    memory_read_bytes_s=st.dictionaries(counts, rates, min_size=1),
    fingerprint=st.dictionaries(st.text(), st.text()),
    when=st.text(),
    curve=curves(),
    kernels=st.lists(st.builds(KernelRate, st.text(), st.text(), counts, rates)).map(tuple),
)


@given(made=profiles)
def test_any_sound_profile_comes_back(tmp_path_factory: pytest.TempPathFactory, made: MachineProfile) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    made.save(path)
    assert MachineProfile.load(path) == made


def places(value: object, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path to every value inside a JSON document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for name, item in items for place in places(item, (*path, name)))]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@given(data=st.data(), value=json_values)
def test_any_damage_gives_none_or_something_sane(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, value: object
) -> None:
    """Any value anywhere replaced by another one: never an error, and no figure that is none."""
    path = tmp_path_factory.getbasetemp() / "damaged.json"
    SOUND.save(path)
    document = json.loads(path.read_text())
    *way, last = data.draw(st.sampled_from(places(document)[1:]))
    inner = document
    for step in way:
        inner = inner[step]
    inner[last] = value
    path.write_text(json.dumps(document))
    got = MachineProfile.load(path)
    if got is not None:
        figures = [got.disk_read_bytes_s, got.memory_bytes_s, got.disk_rate(MIB, 2), got.best_disk_rate(MIB)]
        assert all(0 < figure < math.inf for figure in figures)
        assert all(rate.sane() for rate in got.kernels)


@pytest.mark.parametrize(
    "change",
    [
        {"schema": "locum.machine/1"},
        {"disk_read_bytes_s": 0},
        {"disk_read_bytes_s": "fast"},
        {"disk_read_bytes_s": float("nan")},
        {"disk_read_bytes_s": float("inf")},
        {"disk_read_bytes_s": 10**400},
        {"disk_block": 10**400},
        {"memory_read_bytes_s": {}},
        {"memory_read_bytes_s": {"0": 1.0}},
        {"memory_read_bytes_s": {"one": 1.0}},
        {"memory_read_bytes_s": {"1": "1"}},
        {"memory_read_bytes_s": [1.0]},
        {"disk_block": 1.5},
        {"disk_threads": True},
        {"fingerprint": None},
        {"fingerprint": {"processor": 1}},
        {"extra": 1},
        {"curve": None},
        {"curve": [{"block": 1, "threads": 1, "huge_pages": True, "bytes_s": 1.0}]},
        {"curve": [dataclasses.asdict(point) for point in made_curve()[:-1]]},
        {"curve": [dataclasses.asdict(point) for point in (*made_curve(), made_curve()[0])]},
        {"curve": [dataclasses.asdict(point) | {"bytes_s": 0} for point in made_curve()]},
        {"curve": [dataclasses.asdict(point) | {"more": 0} for point in made_curve()]},
        {"kernels": [{"kernel": "native", "dtype": "bf16", "threads": 0, "bytes_s": 1.0}]},
        {"kernels": [1]},
    ],
)
def test_a_damaged_profile_is_as_none(tmp_path: Path, change: dict[str, object]) -> None:
    path = tmp_path / "profile.json"
    SOUND.save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert MachineProfile.load(path) is None


def test_a_profile_of_the_first_schema_is_as_none(tmp_path: Path) -> None:
    first = {
        "disk_read_bytes_s": 2e9, "disk_block": 8 * MIB, "disk_threads": 2, "disk_mode": "direct",
        "memory_read_bytes_s": {"1": 2e10}, "cpu_model": "a", "cores": 2, "device": "254:0",
        "when": "2026-01-02", "schema": "locum.machine/1",
    }  # fmt: skip
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(first))
    assert MachineProfile.load(path) is None


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", "\xff"])
def test_other_files_are_as_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "profile.json"
    path.write_bytes(text.encode("latin-1"))
    assert MachineProfile.load(path) is None


def test_measured_once_and_found_again(tmp_path: Path, cache: Path, quick: None) -> None:
    assert load_cached(tmp_path) is None
    told: list[tuple[str, float]] = []
    made = measure(tmp_path, lambda what, share: told.append((what, share)))
    assert load_cached(tmp_path) == made
    assert (made.disk_read_bytes_s, made.memory_read_bytes_s) == (1.5e9, {1: 2.5e10, 2: 3e10})
    assert [what for what, _ in told] == ["memory", "disk", "done"]
    assert (made.curve, made.kernels) == ((), ())
    assert [share for _, share in told] == sorted(share for _, share in told)
    (file,) = cache.iterdir()
    file.write_text(file.read_text()[:-20])
    assert load_cached(tmp_path) is None
    measure(tmp_path)
    assert load_cached(tmp_path) is not None


def kept(path: Path, **changes: str) -> MachineProfile:
    """A whole profile in the cache for `path`, its fingerprint the present one but for `changes`."""
    made = dataclasses.replace(SOUND, fingerprint={**fingerprint(path), **changes})
    made.save(profile.profile_path(path))
    return made


def test_a_file_is_on_the_same_disk_as_its_folder(tmp_path: Path) -> None:
    made = kept(tmp_path)
    file = tmp_path / "a file on it"
    file.touch()
    assert load_cached(file) == made
    assert profile.changes(file) == []


def test_every_entry_of_the_fingerprint_matters(tmp_path: Path) -> None:
    """The file is there and sound, but one thing that it depends on has changed: it is not used, and said."""
    names = list(fingerprint(tmp_path))
    assert set(names) >= {
        "processor",
        "processors to use",
        "device",
        "file system",
        "kernel",
        "native library",
    }
    assert set(names) >= {"locum", "torch"}
    for name in names:
        kept(tmp_path, **{name: "another"})
        assert load_cached(tmp_path) is None, name
        assert profile.changes(tmp_path) == [f"{name}: was another, is {fingerprint(tmp_path)[name]}"]
    kept(tmp_path)
    assert load_cached(tmp_path) is not None


def test_an_entry_more_or_less_matters_too(tmp_path: Path) -> None:
    kept(tmp_path, moon="full")
    assert load_cached(tmp_path) is None
    assert profile.changes(tmp_path) == ["moon: was full, is not known"]


@pytest.mark.parametrize(
    ("what", "patched", "value"),
    [
        ("processor", "cpu_model", lambda root: "another"),
        ("processors to use", "cpu_count", lambda root: 99),
        ("device", "device_of", lambda path: "9:9"),
        ("file system", "file_system_of", lambda path, root: "another"),
        ("kernel", "platform.release", lambda: "another"),
        ("native library", "identity", lambda: "another"),
        ("locum", "_version", lambda name: "99.9.9"),
    ],
)
def test_a_change_is_noticed_and_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, patched: str, value: object
) -> None:
    """What has changed on the machine is noticed; once it is as it was, the old profile counts again."""
    made = kept(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(f"locum.machine.fingerprint.{patched}", value)
        assert load_cached(tmp_path) is None
        said = profile.changes(tmp_path)
        assert any(line.startswith(what) for line in said) or (what == "device" and said == [])
    assert load_cached(tmp_path) == made


def test_each_processor_has_its_own_file(
    tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measuring in a smaller container, or on another machine of the same home, leaves the profile alone."""
    made = kept(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("locum.machine.fingerprint.cpu_count", lambda root: 99)
        measure(tmp_path)
        assert load_cached(tmp_path) not in (None, made)
    assert load_cached(tmp_path) == made


def test_a_patch_version_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("locum.machine.fingerprint._version", lambda name: "3.4.5")
    made = kept(tmp_path)
    monkeypatch.setattr(
        "locum.machine.fingerprint._version", lambda name: "3.4.6.dev1" if name == "locum" else "3.4.5"
    )
    assert load_cached(tmp_path) == made


def test_a_damaged_file_is_said(tmp_path: Path) -> None:
    assert profile.changes(tmp_path) == []
    kept(tmp_path)
    profile.profile_path(tmp_path).write_text("{")
    assert profile.changes(tmp_path) == ["what was kept is damaged, or of another version of locum"]
    assert profile.changes(tmp_path / "no such path") == []


def test_a_quick_profile_knows_one_rate() -> None:
    assert {QUICK.disk_rate(block, threads) for block in (1, MIB, 1 << 40) for threads in (1, 2, 99)} == {2e9}
    assert QUICK.best_disk_rate(1) == 2e9


def test_a_whole_profile_knows_rates_by_size() -> None:
    """The made-up curve is 1e8 (1 + log2(block / 64 KiB) + log2(threads)) with 1 to 8 threads."""
    assert SOUND.disk_rate(MIB, 2) == pytest.approx(1e8 * (1 + 4 + 1))
    assert SOUND.best_disk_rate(MIB) == pytest.approx(1e8 * (1 + 4 + 3))


def test_a_cache_that_cannot_be_written_is_said_and_no_error(
    tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("LOCUM_CACHE", str(tmp_path / "file" / "below"))
    with caplog.at_level(logging.WARNING, logger="locum"):
        assert measure(tmp_path).disk_read_bytes_s == 1.5e9
    assert "could not be kept" in caplog.text
    assert load_cached(tmp_path) is None
    assert load_cached(tmp_path / "no such path") is None


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert profile.cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("LOCUM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert profile.cache_folder() == tmp_path / "xdg" / "locum"
    for value in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert profile.cache_folder() == Path.home() / ".cache" / "locum"
