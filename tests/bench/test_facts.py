"""What a row says about its circumstances."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from locum.bench import facts
from locum.machine.fingerprint import device_of


def test_dropping_caches(tmp_path: Path) -> None:
    assert facts.drop_caches(tmp_path / "control")
    assert (tmp_path / "control").read_text() == "3"
    assert not facts.drop_caches(tmp_path / "missing" / "control")


@pytest.mark.parametrize("where", ["disk", "partition", "nowhere"])
def test_read_ahead_of_a_disk_or_of_its_partition(tmp_path: Path, where: str) -> None:
    """/sys/dev/block/M:N is a link into the disk's folder; a partition's lies one deeper and has no queue."""
    disk = tmp_path / "devices/vda"
    (disk / "queue").mkdir(parents=True)
    (disk / "queue/read_ahead_kb").write_text("128\n")
    (disk / "vda1").mkdir()
    blocks = tmp_path / "block"
    blocks.mkdir()
    if where != "nowhere":
        (blocks / device_of(tmp_path)).symlink_to(disk if where == "disk" else disk / "vda1")
    assert facts.read_ahead_kb(tmp_path, blocks) == (None if where == "nowhere" else 128)


def test_the_hash_is_of_names_and_contents(tmp_path: Path) -> None:
    def tree(name: str, **files: str) -> str:
        for file, text in files.items():
            path = tmp_path / name / file.replace("_", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_suffix(".py").write_text(text)
        return facts.sources_hash(tmp_path / name)

    same = {"a": "x", "b_c": "y"}
    assert tree("one", **same) == tree("two", **same)
    assert (
        len({tree("one"), tree("three", a="x", b_c="z"), tree("four", a="x", b_d="y"), tree("five", a="x")})
        == 4
    )


def test_the_commit_of_a_checkout(tmp_path: Path) -> None:
    def git(*words: str) -> None:
        alone = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.com"]
        subprocess.run(
            ["git", "-C", str(tmp_path), *identity, *words], check=True, capture_output=True, env=alone
        )

    assert facts.commit(tmp_path / "none") is None
    git("init")
    (tmp_path / "src").mkdir()
    (tmp_path / "src/a.py").write_text("1")
    git("add", ".")
    git("commit", "-m", "one")
    clean = facts.commit(tmp_path / "src")
    assert clean is not None
    assert len(clean) == 12
    (tmp_path / "src/a.py").write_text("2")
    facts.commit.cache_clear()
    assert facts.commit(tmp_path / "src") == f"{clean}-dirty"


def test_circumstances_are_json_and_complete(tmp_path: Path) -> None:
    found = json.loads(json.dumps(facts.circumstances(tmp_path)))
    assert found["machine"]["cores"] >= 1
    assert found["machine"]["memory_bytes"] > 1 << 28
    assert {"python", "torch", "transformers"} <= set(found["versions"])
    assert len(found["locum"]["sources"]) == 16
