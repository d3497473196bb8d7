"""`locum run` for real: processes, pipes, a terminal, signals."""

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers_cli import environment, locum
from locum.synth.shapes import shape
from locum.synth.writer import write_checkpoint

SMALL = ("--expert-memory", "96KiB", "--threads", "1")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model in `tiny` and a cache of its own."""
    folder = tmp_path_factory.mktemp("run")
    write_checkpoint(shape("tiny-olmoe"), folder / "tiny", seed=1)
    return folder


@pytest.fixture
def env(place: Path) -> dict[str, str]:
    return {"LOCUM_CACHE": str(place / "cache")}


def test_one_json_object_with_what_others_rely_on(place: Path, env: dict[str, str]) -> None:
    done = locum(
        "run", *SMALL, "--json", "--max-tokens", "8", "--ignore-eos", "tiny", "hello", cwd=place, env=env
    )
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout)
    for key in [
        "text",
        "tokens",
        "prompt_tokens",
        "ttft_s",
        "decode_tok_s",
        "hit_rate",
        "stall_s",
        "bytes_read",
        "peak_rss",
        "memory",
        "expert_memory",
        "ceiling_tok_s",
        "lossless",
    ]:
        assert got[key] is not None, key
    assert got["tokens"] == len(got["token_ids"]) == 8
    assert 0 <= got["hit_rate"] <= 1
    assert got["lossless"] is True
    assert got["arena_bytes"] <= got["expert_memory"]
    assert 0 < got["peak_rss"] <= got["memory"]
    again = locum(
        "run", *SMALL, "--json", "--max-tokens", "8", "--ignore-eos", "tiny", "hello", cwd=place, env=env
    )
    assert json.loads(again.stdout)["text"] == got["text"]


def test_text_on_stdout_and_the_account_on_stderr(place: Path, env: dict[str, str]) -> None:
    done = locum("run", *SMALL, "--max-tokens", "6", "tiny", "hello", cwd=place, env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("\n")
    assert "hit rate" not in done.stdout
    for words in ("hit rate", "ceiling", "expert arena", "process peak", "lossless", "at 50%", "runtime"):
        assert words in done.stderr
    quiet = locum("run", *SMALL, "--quiet", "--max-tokens", "6", "tiny", "hello", cwd=place, env=env)
    assert quiet.stdout == done.stdout
    assert quiet.stderr == ""


def test_a_prompt_from_a_pipe(place: Path, env: dict[str, str]) -> None:
    asked = locum("run", *SMALL, "--quiet", "--max-tokens", "6", "tiny", "hello", cwd=place, env=env)
    piped = locum("run", *SMALL, "--quiet", "--max-tokens", "6", "tiny", cwd=place, env=env, stdin="hello")
    assert piped.returncode == 0, piped.stderr
    assert piped.stdout == asked.stdout


@pytest.mark.parametrize(
    ("flags", "status", "says"),
    [
        (("--memory", "10MiB"), 1, "minimum"),
        (("--threads", "1", "--context", "100000"), 2, "context"),
        (("--threads", "none"), 2, "threads"),
        (("--context", "8"), 1, "longer than the context"),
        (("--expert-memory", "1KiB"), 1, "minimum"),
    ],
)
def test_wrong_wishes(
    place: Path, env: dict[str, str], flags: tuple[str, ...], status: int, says: str
) -> None:
    done = locum("run", *flags, "tiny", "hello there, how is it going today?", cwd=place, env=env)
    assert done.returncode == status, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("flags", [(), ("--json",)], ids=["text", "json"])
def test_ctrl_c_keeps_the_text_so_far(place: Path, env: dict[str, str], flags: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "locum", "run", *SMALL, *flags, "--ignore-eos", "--max-tokens", "900"]
    process = subprocess.Popen(
        [*command, "tiny", "hello"],
        cwd=place,
        env=environment(**env, LOCUM_CONTEXT="1000"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    if flags:  # nothing is on stdout before the end: the ceilings are said when the answer begins
        for line in process.stderr:
            if b"allow tokens/s" in line:
                break
        first = b""
    else:
        first = process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert b"Traceback" not in errors
    if flags and rest:  # the signal may have come before the first step
        assert json.loads(rest)["finish"] == "interrupted"
    if not flags:
        assert len(first + rest) > 1
        assert b"interrupted" in errors


def read_until(terminal: int, words: bytes) -> bytes:
    seen = b""
    while words not in seen:
        seen += os.read(terminal, 4096)
    return seen


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    master, slave = pty.openpty()
    yield master, slave
    os.close(master)


def test_a_chat_on_a_terminal(place: Path, env: dict[str, str], terminal: tuple[int, int]) -> None:
    master, slave = terminal
    process = subprocess.Popen(
        [sys.executable, "-m", "locum", "run", *SMALL, "--max-tokens", "5", "--ignore-eos", "tiny"],
        cwd=place,
        env=environment(**env),
        stdin=slave,
        stdout=slave,
        stderr=slave,
    )
    os.close(slave)
    read_until(master, b"> ")
    for question in (b"hello\n", b"and what else?\n"):
        os.write(master, question)
        said = read_until(master, b"> ")
        assert b"5 tokens" in said
    os.write(master, b"/exit\n")
    assert process.wait(timeout=60) == 0
