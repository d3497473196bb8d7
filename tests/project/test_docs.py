"""The documents are true: their Python runs, their links lead somewhere, what they list exists."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import locum
from locum.engine.recording import recording
from locum.model.shipped import shipped_model

ROOT = Path(__file__).parents[2]
DOCS = sorted(
    path for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")] if "dev" not in path.parts
)
NAMES = [str(path.relative_to(ROOT)) for path in DOCS]
SNIPPETS = [
    (name, number, code)
    for name, path in zip(NAMES, DOCS, strict=True)
    for number, code in enumerate(re.findall(r"(?ms)^```python\n(.*?)^```$", path.read_text()))
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where the model and the trace that the documents speak of lie."""
    folder = tmp_path_factory.mktemp("docs")
    shutil.copytree(shipped_model(), folder / "my-model")
    with locum.load(folder / "my-model") as engine, recording(engine, folder / "t"):
        engine.generate("The sea", max_tokens=80, ignore_eos=True)
    return folder


def test_there_is_something_to_test() -> None:
    assert {"README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/cli.md", "docs/architecture.md"} <= set(
        NAMES
    )
    assert {name for name, _, _ in SNIPPETS} >= {"README.md", "CONTRIBUTING.md"}


@pytest.mark.parametrize(("name", "number", "code"), SNIPPETS, ids=[f"{n}-{i}" for n, i, _ in SNIPPETS])
def test_python_in_the_documents_runs(place: Path, name: str, number: int, code: str) -> None:
    result = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:__main__", "-c", code],
        cwd=place, capture_output=True, text=True, check=False, timeout=250,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr


def anchors(path: Path) -> set[str]:
    """The anchors that a Markdown file's headings make, as GitHub does it."""
    heads = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("name", NAMES)
def test_links_inside_the_project_lead_somewhere(name: str) -> None:
    text = re.sub(r"```.*?```", "", (ROOT / name).read_text(), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        path = ((ROOT / name).parent / target).resolve() if target else ROOT / name
        assert path.exists(), link
        assert ROOT in path.parents, link
        if anchor:
            assert anchor in anchors(path), link


def test_files_named_in_the_documents_exist() -> None:
    for name in ("README.md", "CONTRIBUTING.md", "docs/architecture.md"):
        text = (ROOT / name).read_text()
        for path in re.findall(r"`((?:src|tests|scripts|docs)/[\w/.]+)`", text):
            assert (ROOT / path).exists(), f"{name}: {path}"


def test_the_map_is_the_list_of_rooms() -> None:
    table = (ROOT / "CONTRIBUTING.md").read_text().partition("## The map")[2].partition("\n## ")[0]
    first_cells = re.findall(r"^\| (`[^|]+) \|", table, re.MULTILINE)
    named = {
        word.strip("/").removesuffix(".py") for cell in first_cells for word in re.findall(r"`([^`]+)`", cell)
    }
    found = (ROOT / "src/locum").iterdir()
    rooms = {path.stem for path in found if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert named == rooms - {"__init__", "__main__"}


def test_the_map_says_where_torch_is() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    light = {
        name.removeprefix("locum.") for c in contracts if c["id"] == "light" for name in c["source_modules"]
    }
    table = (ROOT / "CONTRIBUTING.md").read_text().partition("## The map")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`[^|]+) \|[^|]*\| (no|yes|when a verb runs) \|$", table, re.MULTILINE)
    named = {
        w.strip("/").removesuffix(".py")
        for cell, torch in rows
        if torch == "no"
        for w in re.findall(r"`([^`]+)`", cell)
    }
    assert named == light


def test_make_targets_named_in_the_documents_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for name in ("README.md", "CONTRIBUTING.md"):
        for target in re.findall(r"(?:\$ |`)make ([a-z][a-z-]*)", (ROOT / name).read_text()):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{name}: make {target}"


def test_pythons_in_ci_are_those_we_claim() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    claimed = re.findall(r"Python :: (3\.\d+)", "\n".join(project["classifiers"]))
    matrix = re.search(r"^ +python: \[(.*)\]$", (ROOT / ".github/workflows/ci.yml").read_text(), re.MULTILINE)
    assert matrix is not None
    assert re.findall(r"3\.\d+", matrix[1]) == claimed
