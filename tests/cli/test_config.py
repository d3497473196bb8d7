"""Settings: `locum.toml` below `LOCUM_*` below flags, under the same names."""

import json
from pathlib import Path

import pytest

from helpers_cli import run_session
from locum.cli import main

SHOW = """\
import dataclasses, pathlib
found = dataclasses.asdict(options).items()
output.result({name: str(value) if isinstance(value, pathlib.Path) else value for name, value in found})
"""


def asked(cwd: Path, *flags: str, toml: str | None = None, **env: str) -> dict[str, object]:
    """The options that `run` receives."""
    if toml is not None:
        (cwd / "locum.toml").write_text(toml, encoding="utf-8")
    result = run_session(SHOW, "run", "--json", *flags, cwd=cwd, env=env)
    assert result.returncode == 0, result.stderr
    options: dict[str, object] = json.loads(result.stdout)
    return options


def test_flags_beat_the_environment_which_beats_the_file(tmp_path: Path) -> None:
    toml = 'memory = "1GiB"\nmax-tokens = 10\nseed = 1\n'
    options = asked(tmp_path, "--memory", "3GiB", toml=toml, LOCUM_MEMORY="2GiB", LOCUM_MAX_TOKENS="20")
    assert options["memory"] == 3 << 30
    assert options["max_tokens"] == 20
    assert options["seed"] == 1


def test_a_verbs_table_beats_the_top(tmp_path: Path) -> None:
    toml = 'seed = 1\nmax_tokens = 5\n[run]\nseed = 2\nstop = ["a b", "--c"]\nignore-eos = true\n'
    options = asked(tmp_path, toml=toml)
    assert (options["seed"], options["max_tokens"]) == (2, 5)
    assert options["stop"] == ["a b", "--c"]
    assert options["ignore_eos"] is True


def test_every_flag_of_run_can_be_set_in_the_environment(tmp_path: Path) -> None:
    given = {
        "memory": ("5GiB", 5 << 30), "expert_memory": ("25%", "25%"), "context": ("99", 99),
        "max_tokens": ("7", 7), "temperature": ("0.5", 0.5), "top_p": ("0.9", 0.9), "top_k": ("40", 40),
        "min_p": ("0.05", 0.05), "repetition_penalty": ("1.1", 1.1), "seed": ("3", 3),
        "stop": ("END OF IT", ["END OF IT"]), "ignore_eos": ("1", True), "threads": ("2", 2),
        "dtype": ("fp32", "fp32"), "eviction": ("lfu", "lfu"), "prefetch": ("next-gate", "next-gate"),
        "mover": ("pagecache", "pagecache"), "trace": ("new", "new"),
        "verify": ("always", "always"),
    }  # fmt: skip
    options = asked(tmp_path, **{f"LOCUM_{name.upper()}": text for name, (text, _) in given.items()})
    assert {name: options[name] for name in given} == {name: value for name, (_, value) in given.items()}
    assert set(options) == {*given, "model", "prompt"}


def test_the_defaults(tmp_path: Path) -> None:
    options = asked(tmp_path)
    assert options.pop("stop") == []
    assert {name for name, value in options.items() if value is None} == {
        "model", "prompt", "expert_memory", "context", "max_tokens", "temperature", "top_p", "top_k", "min_p",
        "repetition_penalty", "seed", "trace",
    }  # fmt: skip
    for name in ("memory", "threads", "dtype", "mover"):
        assert options[name] == "auto"


def test_model_and_prompt_come_from_the_command_line_alone(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    options = asked(tmp_path, "a", "--seed", "1", "b c", LOCUM_MODEL="x", LOCUM_PROMPT="y")
    assert (options["model"], options["prompt"]) == ("a", "b c")
    options = asked(tmp_path, LOCUM_MODEL="x", LOCUM_PROMPT="y")
    assert (options["model"], options["prompt"]) == (None, None)
    assert asked(tmp_path, "--", "a", "--prompt")["prompt"] == "--prompt"


def test_variables_that_are_no_flags_are_left_alone(tmp_path: Path) -> None:
    assert asked(tmp_path, LOCUM_CACHE="/x", LOCUM_MEMORYX="9", LOCUM_MEMORY_X="9")["memory"] == "auto"


@pytest.mark.parametrize(
    ("toml", "named"),
    [
        ("threds = 3\n", "`threds`"),
        ("threds = 3\n", "`threads`"),
        ("[run]\nfoo = 1\n", "`foo`"),
        ("[inspect]\nmemory = 1\n", "`memory`"),
        ("[serve]\nport = 1\n", "`serve`"),
        ("run = 3\n", "`run`"),
        ("no-json = true\n", "`no-json`"),
        ("model = 'x'\n", "`model`"),
        ("seed = [1, 2]\n", "[seed]"),
        ("seed = { a = 1 }\n", "[seed]"),
        ("memory = '3x'\n", "[memory]"),
        ("json = 'maybe'\n", "[json]"),
        ("threads = -1\n", "threads"),
        ("seed =\n", "locum.toml"),
    ],
)
def test_a_wrong_file_is_an_error_that_names_the_key(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    toml: str,
    named: str,
) -> None:
    (tmp_path / "locum.toml").write_text(toml)
    monkeypatch.chdir(tmp_path)
    assert main(["run"]) == 2
    _, stderr = capsys.readouterr()
    assert named in stderr
    assert "locum.toml" in stderr
    assert stderr.count("\n") == 1


def test_a_file_that_is_no_text_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "locum.toml").write_bytes(b"\xff\xfe")
    assert main(["run"]) == 2
    (tmp_path / "locum.toml").unlink()
    (tmp_path / "locum.toml").mkdir()
    assert main(["run"]) == 2


def test_a_wrong_file_does_not_stop_help(tmp_path: Path) -> None:
    (tmp_path / "locum.toml").write_text("nonsense")
    assert run_session(SHOW, "--help", cwd=tmp_path).returncode == 0
    assert run_session(SHOW, "run", "--help", cwd=tmp_path).returncode == 0


def test_a_wrong_variable_is_named(tmp_path: Path) -> None:
    result = run_session(SHOW, "run", cwd=tmp_path, env={"LOCUM_TOP_P": "2"})
    assert result.returncode == 2
    assert "LOCUM_TOP_P" in result.stderr
