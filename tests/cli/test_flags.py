"""Every verb and every flag there is. A change here is a change of what people and scripts rely on."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
from cyclopts.argument import Argument

from helpers_cli import environment
from locum.cli.app import build, find, verbs
from locum.cli.evaluate import EvalOptions
from locum.cli.run import RunOptions
from locum.policy import EVICTION, create
from locum.policy.prefetch import PREFETCH

ROOT = Path(__file__).parents[2]
OUTPUT = {"--json", "--quiet", "--verbose", "-v"}
FROZEN = {
    "inspect": OUTPUT,
    "doctor": OUTPUT | {"--again"},
    "eval": OUTPUT
    | {"--against", "--data", "--domain", "--questions", "--window", "--memory", "--threads"},
    "pack": OUTPUT | {"--output", "-o", "--bits", "--backbone", "--group"},
    "synth": OUTPUT | {"--output", "-o", "--layers", "--locality", "--dtype", "--gguf", "--bits", "--seed"},
    "trace": OUTPUT
    | {
        "--output", "-o", "--prompts", "--max-tokens", "--prompt-tokens", "--limit", "--predict",
        "--no-scores", "--private", "--events", "--seed", "--memory", "--expert-memory", "--context",
        "--threads",
    },
    "trace import": OUTPUT
    | {
        "--output", "-o", "--from", "--name", "--moe-layers", "--layers", "--experts", "--top-k", "--private",
    },
    "trace synth": OUTPUT | {"--output", "-o", "--profile", "--tokens", "--seed"},
    "report": OUTPUT | {"--output", "-o", "--metric", "--segments"},
    "simulate": OUTPUT
    | {
        "--eviction", "--prefetch", "--expert-memory", "--as-recorded", "--expert-size", "--disk",
        "--workers",
    },
    "run": OUTPUT
    | {
        "--memory", "--expert-memory", "--context",
        "--max-tokens", "--temperature", "--top-p", "--top-k", "--min-p", "--repetition-penalty",
        "--seed", "--stop", "--ignore-eos",
        "--threads", "--dtype", "--eviction", "--prefetch", "--mover", "--trace", "--verify",
    },
}  # fmt: skip
POSITIONAL = {
    "inspect": ["model"],
    "doctor": ["folder"],
    "eval": ["model"],
    "pack": ["model"],
    "synth": ["shape"],
    "trace": ["model"],
    "trace import": ["source"],
    "trace synth": [],
    "report": ["traces"],
    "simulate": ["trace"],
    "run": ["model", "prompt"],
}


def arguments_of(verb: str) -> list[Argument]:
    """What can be given to a verb, in order."""
    app = build()
    collection = find(app, verb).assemble_argument_collection(
        default_parameter=app.default_parameter, parse_docstring=True
    )
    return [a for a in collection if a.parse and not a.children]


def flags_of(verb: str) -> set[str]:
    names = {name for a in arguments_of(verb) for name in (*a.names, *a.negatives)}
    return {name for name in names if name.startswith("-")}


def test_the_verbs() -> None:
    assert set(verbs(build())) == set(FROZEN)


@pytest.mark.parametrize("verb", FROZEN)
def test_the_flags_of(verb: str) -> None:
    assert flags_of(verb) == FROZEN[verb]


@pytest.mark.parametrize("verb", FROZEN)
def test_the_places_of(verb: str) -> None:
    placed = [a for a in arguments_of(verb) if not any(name.startswith("-") for name in a.names)]
    assert [a.field_info.name for a in placed] == POSITIONAL[verb]


@pytest.mark.parametrize("verb", FROZEN)
def test_every_flag_says_what_it_does(verb: str) -> None:
    for argument in arguments_of(verb):
        assert len(argument.parameter.help or "") > 10, argument.name


def test_the_options_of_run_are_named_as_its_flags() -> None:
    fields = {field.name for field in dataclasses.fields(RunOptions)} - {"model", "prompt"}
    assert {"--" + name.replace("_", "-") for name in fields} == FROZEN["run"] - OUTPUT


def test_the_session_reads_every_option_of_run() -> None:
    from locum.engine.session import Options

    assert set(Options.__annotations__) == {field.name for field in dataclasses.fields(RunOptions)}


def test_the_options_of_eval_are_named_as_its_flags() -> None:
    from locum.evaluate.session import Options

    fields = {field.name for field in dataclasses.fields(EvalOptions)}
    assert set(Options.__annotations__) == fields
    assert {"--" + name for name in fields - {"model"}} == FROZEN["eval"] - OUTPUT


def test_every_policy_that_can_run_is_offered() -> None:
    offered = {
        argument.name: set((argument.parameter.help or "").partition("[choices: ")[2].rstrip("]").split(", "))
        for argument in arguments_of("run")
    }
    assert offered["--eviction"] == {name for name in EVICTION if "next" not in create(name).needs}
    assert offered["--prefetch"] == {"auto", *PREFETCH}


def test_the_page_about_the_command_line_is_up_to_date() -> None:
    command = [sys.executable, str(ROOT / "scripts/cli_docs.py"), "--check"]
    result = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    text = (ROOT / "docs/cli.md").read_text(encoding="utf-8")
    for verb, flags in FROZEN.items():
        section = text.partition(f"## locum {verb}\n")[2].partition("\n## ")[0]
        assert all(flag in section for flag in flags), verb
