"""The size budget of the code: prints its figures and fails on a breach.

A file has at most 400 lines, and half of the files at most 150. A function has at most 60 lines, from `def`
to its last line, its docstring not counted. Control flow inside a function nests at most 4 deep: `if`, `for`,
`while`, `with`, `try` and `match` each count one, `elif` counts as its `if` does, and a function inside a
function starts from nothing.

    python scripts/size_budget.py [FOLDER]      (src/locum when left out)
"""

import ast
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FILE_LINES, MEDIAN_LINES, FUNCTION_LINES, NESTING = 400, 150, 60, 4
SUFFIXES = {".py", ".c", ".cc", ".cpp", ".h", ".hpp"}

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_BLOCKS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.TryStar, ast.Match)


@dataclass(frozen=True)
class Function:
    """One function: `where` is `file:line name`, `lines` without the docstring, `nesting` of control flow."""

    where: str
    lines: int
    nesting: int


def function_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from `def` to the end, without those of the docstring."""
    lines = (node.end_lineno or node.lineno) - node.lineno + 1
    if ast.get_docstring(node, clean=False) is not None:
        text = node.body[0]
        lines -= (text.end_lineno or text.lineno) - text.lineno + 1
    return lines


def nesting_depth(node: ast.AST, depth: int = 0) -> int:
    """The deepest control flow below `node`, functions and classes inside it left out."""
    deepest = depth
    for _, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or isinstance(child, (*_FUNCTIONS, ast.ClassDef)):
                continue
            # `elif` is an `if` in the else branch that stands in the same column as its own `if`
            is_elif = (
                isinstance(node, ast.If) and isinstance(child, ast.If) and child.col_offset == node.col_offset
            )
            inside = depth + (isinstance(child, _BLOCKS) and not is_elif)
            deepest = max(deepest, nesting_depth(child, inside))
    return deepest


def functions_of(path: Path) -> Iterator[Function]:
    """Every function of a Python file, methods and inner functions included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), filename=str(path))):
        if isinstance(node, _FUNCTIONS):
            yield Function(f"{path}:{node.lineno} {node.name}", function_lines(node), nesting_depth(node))


def check(folder: Path) -> tuple[list[str], list[str]]:
    """(figures, breaches) of the code under `folder`, each a line to print."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES)
    if not paths:
        return [], [f"no code under {folder}"]
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in paths}
    functions = [function for path in paths if path.suffix == ".py" for function in functions_of(path)]
    median = statistics.median(lines.values())
    longest = max(lines, key=lambda path: lines[path])
    figures = [
        f"files      {len(lines):5d}   lines {sum(lines.values())}",
        f"median     {median:5.0f}   of {MEDIAN_LINES} lines",
        f"longest    {lines[longest]:5d}   of {FILE_LINES} lines   {longest}",
    ]
    if functions:
        long, deep = max(functions, key=lambda f: f.lines), max(functions, key=lambda f: f.nesting)
        figures.append(f"function   {long.lines:5d}   of {FUNCTION_LINES} lines   {long.where}")
        figures.append(f"nesting    {deep.nesting:5d}   of {NESTING}          {deep.where}")
    breaches = [
        f"{path}: {count} lines, {FILE_LINES} allowed" for path, count in lines.items() if count > FILE_LINES
    ]
    if median > MEDIAN_LINES:
        breaches.append(f"{folder}: median file has {median:.0f} lines, {MEDIAN_LINES} allowed")
    for function in functions:
        if function.lines > FUNCTION_LINES:
            breaches.append(f"{function.where}: {function.lines} lines, {FUNCTION_LINES} allowed")
        if function.nesting > NESTING:
            breaches.append(f"{function.where}: nested {function.nesting} deep, {NESTING} allowed")
    return figures, breaches


def main() -> int:
    """Print the figures, then the breaches; 1 when there are any."""
    figures, breaches = check(Path(sys.argv[1] if len(sys.argv) > 1 else "src/locum"))
    print("\n".join(figures))
    for breach in breaches:
        print(f"BREACH     {breach}", file=sys.stderr)
    return 1 if breaches else 0


if __name__ == "__main__":
    sys.exit(main())
