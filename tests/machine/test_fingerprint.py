"""What a profile depends on, read from made-up systems and from this one."""

from pathlib import Path

from locum.machine import fingerprint as module
from locum.machine.fingerprint import cpu_model, device_of, differences, file_system_of, fingerprint


def test_cpu_model(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("processor\t: 0\nmodel\t\t: 17\nmodel name\t: AMD EPYC 9B14\n")
    assert cpu_model(tmp_path) == "AMD EPYC 9B14"
    assert cpu_model(tmp_path / "none")


def test_the_file_system_is_found_by_its_device(tmp_path: Path) -> None:
    mounts = tmp_path / "proc/self/mountinfo"
    assert file_system_of(tmp_path, tmp_path) == "unknown"
    mounts.parent.mkdir(parents=True)
    mounts.write_text(
        "nonsense\n"
        "1 0 999:9 / /a rw - tmpfs tmpfs rw\n"
        f"2 0 {device_of(tmp_path)} / /b\\040c rw,noatime shared:1 master:2 - xfs /dev/x rw\n"
        f"3 0 {device_of(tmp_path)} / /d rw -\n"
    )
    assert file_system_of(tmp_path, tmp_path) == "xfs"
    mounts.write_text("1 0 999:9 / /a rw - tmpfs tmpfs rw\n - \n\n")
    assert file_system_of(tmp_path, tmp_path) == "unknown"


def test_everything_is_text_and_the_same_twice(tmp_path: Path) -> None:
    once = fingerprint(tmp_path)
    assert once == fingerprint(tmp_path)
    assert all(isinstance(value, str) and value for value in once.values())
    assert module._version("no such package at all") == "not installed"


def test_differences() -> None:
    assert differences({"a": "1", "b": "2"}, {"a": "1", "b": "2"}) == []
    assert differences({"a": "1", "b": "2"}, {"b": "3", "c": "4"}) == [
        "b: was 2, is 3",
        "c: was not known, is 4",
        "a: was 1, is not known",
    ]
