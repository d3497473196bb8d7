"""Write docs/families.md: which families locum runs, and why not the others. `--check` only compares.

The table is the one that tests/engine/test_families.py goes through, so what it says has been tried.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
TARGET = ROOT / "docs/families.md"

_INTRODUCTION = """\
# Families

<!-- Written by `make docs` from tests/helpers_families.py and src/locum/model/supported.py. -->

locum runs {count} families of transformers 5.23. For each of them a tiny model with random weights in every
parameter, and with what the family has switched on, is driven through the same calls as transformers' own
eager experts: a prompt in pieces of eight tokens, then twelve tokens one by one, in float32 and in bfloat16,
with two experts in memory and with seven. Every logit is equal bit for bit, and no longer so once two experts
have changed places (`tests/engine/test_families.py`). Models that also see or hear are given text alone; what
only images and sound go through stays in the files and takes no memory.

llama4 is the exception. transformers runs each of its experts on every token, with zeros for those that did
not choose it; locum runs the chosen ones on the tokens that chose them. The last bit of a matrix product
depends on its number of rows, so logits differ from eager's by up to 4 millionths of the largest in float32.
Tokens are the same, and so is every bit once eager's products are given as many rows; one block in float64
differs by no more than rounding (`tests/backbone/test_adapters.py`).

| family | `model_type` | what its tiny model switches on |
|---|---|---|
"""
_OTHERS = """
## Not run

| `model_type` | why |
|---|---|
"""
_GGUF = """
## Out of GGUF files

Architectures of llama.cpp whose GGUF files are read, each tried the same way against transformers on what the
blocks of the file mean, in float32 and in bfloat16 (`tests/engine/test_gguf.py`). A tensor that stretches
positions is refused; Llama 4 Scout has one.

| `general.architecture` | `model_type` |
|---|---|
"""
_GGUF_OTHERS = """
Not read, though it has experts:

| `general.architecture` | why |
|---|---|
"""


def _gguf() -> list[str]:
    from helpers_gguf import ARCHITECTURES
    from locum.model.gguf.refused import REFUSED

    types: dict[str, list[str]] = {}
    for model_type, architecture in ARCHITECTURES.items():
        types.setdefault(architecture, []).append(f"`{model_type}`")
    rows = [f"| `{architecture}` | {', '.join(found)} |" for architecture, found in types.items()]
    others = [f"| `{architecture}` | {reason} |" for architecture, reason in REFUSED.items()]
    return [_GGUF + "\n".join(rows), _GGUF_OTHERS + "\n".join(others)]


def page() -> str:
    """The whole page."""
    from helpers_families import FAMILIES
    from locum.model.supported import CHECKED, UNSUPPORTED

    rows = [
        f"| {name} | `{tiny.model_type}` | {tiny.note} |"
        for name, tiny in FAMILIES.items()
        if tiny.model_type in CHECKED
    ]
    others = [f"| `{name}` | {reason} |" for name, reason in UNSUPPORTED.items()]
    last = (
        "| any with code of its own | it would be anybody's code, and its experts have no common interface |"
    )
    lines = [_INTRODUCTION.format(count=len(rows)) + "\n".join(rows), _OTHERS + "\n".join([*others, last])]
    lines += _gguf()
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write or compare. Returns the exit status."""
    text = page()
    if "--check" in sys.argv[1:]:
        same = TARGET.is_file() and TARGET.read_text(encoding="utf-8") == text
        if not same:
            print("families.md is out of date: run `make docs`")
        return 0 if same else 1
    TARGET.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
