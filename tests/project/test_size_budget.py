"""The size budget script, on files made bad in one way each."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts/size_budget.py"), str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def function_of(lines: int, name: str = "long") -> str:
    return f"def {name}():\n" + "    x = 1\n" * (lines - 1)


def nested(depth: int) -> str:
    heads = ["if x:", "for y in x:", "while x:", "with x:", "if y:", "for z in y:"]
    body = "".join("    " * (level + 1) + heads[level] + "\n" for level in range(depth))
    return "def deep(x, y):\n" + body + "    " * (depth + 1) + "pass\n"


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ("x = 1\n" * 400, True),
        ("x = 1\n" * 401, False),
        (function_of(60), True),
        (function_of(61), False),
        ("class A:\n    " + function_of(61).replace("\n", "\n    ").rstrip() + "\n", False),
        ('def f():\n    """one\n' + "    more\n" * 30 + '    """\n' + "    x = 1\n" * 59, True),
        ('def f():\n    """one\n' + "    more\n" * 30 + '    """\n' + "    x = 1\n" * 60, False),
        (nested(4), True),
        (nested(5), False),
        # a chain of elif is one level; `else: if` is two
        ("def f(x):\n    if x:\n        pass\n" + "    elif x:\n        pass\n" * 9, True),
        (nested(4)[:-5] + "if y:\n" + " " * 24 + "pass\n", False),
        # a function inside starts from nothing
        ("def f(x):\n" + "".join("    " * (i + 1) + "if x:\n" for i in range(4)) + " " * 20 + "def g():\n"
         + " " * 24 + "for y in x:\n" + " " * 28 + "pass\n", True),
        # the branches of try and match count too
        ("def f(x):\n  try:\n    pass\n  except E:\n    if x:\n      if x:\n        if x:\n          if x:\n"
         "            pass\n", False),
        ("async def f(x):\n  match x:\n    case 1:\n      async with x:\n        async for y in x:\n"
         "          if y:\n            if x:\n              pass\n", False),
    ],
)  # fmt: skip
def test_one_file(tmp_path: Path, text: str, allowed: bool) -> None:
    (tmp_path / "subject.py").write_text(text)
    for number in range(4):  # short files, so that the median is not what is judged
        (tmp_path / f"short{number}.py").write_text("x = 1\n")
    result = run(tmp_path)
    assert result.returncode == (0 if allowed else 1), result.stderr
    assert ("BREACH" in result.stderr) is not allowed


def test_else_if_is_deeper_than_elif(tmp_path: Path) -> None:
    def chain(link: str) -> str:
        text, indent = "def f(x):\n    if x:\n        pass\n", "    "
        for _ in range(4):
            if link == "elif":
                text += f"{indent}elif x:\n{indent}    pass\n"
            else:
                text += f"{indent}else:\n{indent}    if x:\n{indent}        pass\n"
                indent += "    "
        return text

    (tmp_path / "a.py").write_text(chain("elif"))
    assert run(tmp_path).returncode == 0
    (tmp_path / "a.py").write_text(chain("else"))
    assert run(tmp_path).returncode == 1


def test_the_median_is_judged(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"middling{number}.py").write_text("x = 1\n" * 151)
    result = run(tmp_path)
    assert result.returncode == 1
    assert "median" in result.stderr


def test_an_empty_folder_is_a_breach(tmp_path: Path) -> None:
    assert run(tmp_path).returncode == 1


def test_native_sources_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\n")
    (tmp_path / "b.py").write_text("x = 1\n")
    (tmp_path / "kernel.cpp").write_text("int x;\n" * 401)
    assert run(tmp_path).returncode == 1


def test_figures_are_printed_for_our_own_code() -> None:
    result = run(ROOT / "src/locum")
    for figure in ("files", "median", "longest", "function", "nesting"):
        assert any(line.startswith(figure) for line in result.stdout.splitlines())
