"""The frame around the verbs, in real processes: help, exit statuses, stdout and stderr, Ctrl-C."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import locum as package
from helpers_cli import environment, locum, locum_with_session, run_session
from locum.cli import main


def one_paragraph(stderr: str) -> bool:
    return stderr.startswith("locum: ") and stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], [], ["run", "--help"], ["inspect", "-h"]])
def test_help_goes_to_stdout(tmp_path: Path, arguments: list[str]) -> None:
    result = locum(*arguments, cwd=tmp_path)
    assert result.returncode == 0
    assert result.stdout.startswith("Usage: locum")
    assert result.stderr == ""


def test_version(tmp_path: Path) -> None:
    result = locum("--version", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (0, package.__version__ + "\n")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["inspect"], "MODEL"),
        (["fly"], "fly"),
        (["run", "--memry", "4GiB"], "--memory"),
        (["run", "m", "p", "extra"], "extra"),
        (["run", "/nowhere"], "/nowhere"),
        (["run", "--memory", "4XB"], "--memory"),
        (["run", "--memory", "0"], "--memory"),
        (["run", "--expert-memory", "0%"], "--expert-memory"),
        (["run", "--expert-memory", "101%"], "--expert-memory"),
        (["run", "--threads", "0"], "--threads"),
        (["run", "--threads", "some"], "--threads"),
        (["run", "--temperature", "-1"], "--temperature"),
        (["run", "--temperature", "nan"], "--temperature"),
        (["run", "--temperature", "inf"], "--temperature"),
        (["run", "--top-p", "0"], "--top-p"),
        (["run", "--top-p", "1.01"], "--top-p"),
        (["run", "--top-k", "-1"], "--top-k"),
        (["run", "--min-p", "2"], "--min-p"),
        (["run", "--repetition-penalty", "0"], "--repetition-penalty"),
        (["run", "--max-tokens", "0"], "--max-tokens"),
        (["run", "--context", "0"], "--context"),
        (["run", "--seed", "-1"], "--seed"),
        (["run", "--eviction", "random"], "--eviction"),
        (["run", "--eviction", "belady"], "--eviction"),
        (["run", "--prefetch", "all"], "--prefetch"),
        (["run", "--mover", "usb"], "--mover"),
        (["run", "--dtype", "int3"], "--dtype"),
        (["run", "--memory", "4GiB", "--memory", "5GiB"], "--memory"),
    ],
)
def test_asked_wrongly_is_2_and_says_what(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    named: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    stdout, stderr = capsys.readouterr()
    assert stdout == ""
    assert one_paragraph(stderr), stderr
    assert named in stderr


def test_asked_wrongly_is_the_exit_status_of_the_process(tmp_path: Path) -> None:
    result = locum("fly", cwd=tmp_path)
    assert result.returncode == 2
    assert (result.stdout, one_paragraph(result.stderr)) == ("", True)


@pytest.mark.parametrize("flag", ["--no-json", "--no-ignore-eos", "--empty-stop"])
def test_no_flag_can_be_negated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flag: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", flag]) == 2


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        ("locum.LoadError('expert 3 is gone', where='shard 2', todo='Reload')", 1, "expert 3 is gone"),
        ("locum.BudgetError('too small', minimum=5, allowed='5 bytes')", 1, "expected 5 bytes"),
        ("locum.UsageError('nonsense')", 2, "nonsense"),
        ("locum.PromptError('a\\nb')", 1, "a b"),
        ("OSError(28, 'No space left on device', 'f')", 1, "No space left on device"),
        ("ZeroDivisionError('one over\\nnothing')", 1, "ZeroDivisionError: one over nothing"),
    ],
)  # fmt: skip
def test_errors_are_one_paragraph(tmp_path: Path, error: str, status: int, said: str) -> None:
    body = f"import locum\nraise {error}"
    result = run_session(body, "run", "--json", cwd=tmp_path)
    assert result.returncode == status
    assert result.stdout == ""
    assert one_paragraph(result.stderr), result.stderr
    assert said in result.stderr
    loud = run_session(body, "run", "-v", cwd=tmp_path)
    assert loud.returncode == status
    assert "Traceback" in loud.stderr
    assert said in loud.stderr.splitlines()[-1]


def test_json_is_the_only_thing_on_stdout(tmp_path: Path) -> None:
    body = r"""
import os, subprocess, sys
print("from Python")
os.write(1, b"from C\n")
subprocess.run([sys.executable, "-c", "print('from a child')"], check=True)
output.show("a table"); output.block([("a", "b")], "a block")
output.text("words")
output.note("a note")
output.result({"text": "\u00fc\u2028\U0001f600", "rate": float("inf"), "rows": [{"x": float("nan")}], "n": 1})
print("after")
"""
    result = run_session(body, "run", "--json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == {"text": "ü\u2028😀", "rate": None, "rows": [{"x": None}], "n": 1}
    assert result.stdout.count("\n") == 1
    for said in ("from Python", "from C", "from a child", "a note", "after"):
        assert said in result.stderr
    for unsaid in ("a table", "a block", "words"):
        assert unsaid not in result.stderr


def test_for_people_results_and_notes_go_apart(tmp_path: Path) -> None:
    body = """
output.note("a note"); output.detail("a detail"); output.warn("a warning")
with output.working("long work"):
    output.text("wor"); output.text("ds\\n")
output.show("[red]not markup[/]")
output.block([("[red]hits", "50%")], "what it took")
output.result({"dropped": True})
"""
    plain = run_session(body, "run", cwd=tmp_path)
    assert plain.stdout == "words\n[red]not markup[/]\n"
    notes, block = plain.stderr.split("what it took\n")
    assert notes == "locum: a note\nlocum: a warning\nlocum: long work\n"
    assert block.split() == ["[red]hits", "50%"]
    quiet = run_session(body, "run", "--quiet", cwd=tmp_path)
    assert (quiet.stdout, quiet.stderr) == (plain.stdout, "locum: a warning\n")
    loud = run_session(body, "run", "-v", cwd=tmp_path)
    assert "locum: a detail\n" in loud.stderr


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_ctrl_c_is_a_clean_stop(tmp_path: Path, flags: list[str]) -> None:
    body = """
import sys
try:
    print("ready", file=sys.stderr)
    while True:
        pass
except KeyboardInterrupt:
    output.text("so far")
    output.result({"text": "so far"})
    raise
"""
    process = subprocess.Popen(
        locum_with_session(body, "run", *flags),
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    assert process.stderr.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    try:
        stdout, stderr = process.communicate(timeout=60)
    finally:
        process.kill()  # it would go on for ever
    assert process.returncode == 130
    assert stderr == "\nlocum: stopped\n"
    assert stdout == ('{"text": "so far"}\n' if flags else "so far")


def test_ctrl_c_while_python_is_starting_is_not_a_traceback(tmp_path: Path) -> None:
    script = (
        "import sys, types\n"
        "class Stop(types.ModuleType):\n"
        "    def __getattr__(self, name): raise KeyboardInterrupt\n"
        "sys.modules['locum.cli.app'] = Stop('locum.cli.app')\n"
        "from locum.cli import main\n"
        "sys.exit(main([]))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stderr) == (130, "")


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_a_broken_pipe_is_silent(tmp_path: Path, flags: list[str]) -> None:
    body = "for _ in range(50000): output.text('words ' * 10)\noutput.result({'text': 'x' * 500000})"
    read_end, write_end = os.pipe()
    command = locum_with_session(body, "run", *flags)
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment(), stdout=write_end, stderr=subprocess.PIPE
    )
    os.close(write_end)
    os.close(read_end)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert stderr == b""


def test_help_into_a_broken_pipe_is_silent(tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    command = locum_with_session("pass", "run", "--help")
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment(), stdout=write_end, stderr=subprocess.PIPE
    )
    os.close(write_end)
    _, stderr = process.communicate(timeout=60)
    assert stderr == b""
    assert process.returncode == 1


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_a_full_disk_is_an_error(tmp_path: Path, flags: list[str]) -> None:
    body = "output.text('words')\noutput.result({'text': 'words'})"
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            locum_with_session(body, "run", *flags),
            cwd=tmp_path, env=environment(), stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert result.returncode == 1
    assert "No space left on device" in result.stderr
    assert "Traceback" not in result.stderr


def test_an_encoding_that_lacks_a_character_is_no_error(tmp_path: Path) -> None:
    body = r"text = 'gr\u00fcn \ud800'; output.text(text); output.show(text); output.result({'text': text})"
    plain = run_session(body, "run", cwd=tmp_path, env={"PYTHONIOENCODING": "ascii"})
    assert (plain.returncode, plain.stdout) == (0, "gr?n ?gr?n ?\n")
    result = run_session(body, "run", "--json", cwd=tmp_path, env={"PYTHONIOENCODING": "ascii"})
    assert json.loads(result.stdout) == {"text": "grün \ud800"}


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&-"])
def test_closed_streams_are_no_error(tmp_path: Path, closed: str) -> None:
    command = ["bash", "-c", f'"$0" -m locum --version {closed}', sys.executable]
    result = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, check=False)
    assert (result.returncode, result.stderr) == (0, b"")


def test_idle_openmp_threads_sleep_unless_told_otherwise(tmp_path: Path) -> None:
    body = "import os\noutput.show(os.environ['OMP_WAIT_POLICY'])"
    assert run_session(body, "run", cwd=tmp_path).stdout == "PASSIVE\n"
    assert run_session(body, "run", cwd=tmp_path, env={"OMP_WAIT_POLICY": "ACTIVE"}).stdout == "ACTIVE\n"
