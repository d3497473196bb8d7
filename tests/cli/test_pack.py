"""`locum pack` and what becomes of its folder: the verbs one after the other, in a process of their own."""

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers_cli import environment, locum
from locum.pack import pack
from locum.synth.shapes import shape
from locum.synth.writer import write_checkpoint

_VERBS = """
import json, sys
from locum.cli import main
for arguments in json.loads(sys.stdin.read()):
    status = main(arguments)
    sys.stdout.flush()
    print(f"\\0{status}", end="\\0", flush=True)
    print(end="\\0", file=sys.stderr, flush=True)
"""


class Done(NamedTuple):
    """How a verb ended."""

    status: int
    stdout: str
    stderr: str


def verbs(place: Path, *each: Sequence[str]) -> list[Done]:
    """Run the verbs in one process: torch is loaded once."""
    done = subprocess.run(
        [sys.executable, "-c", _VERBS],
        cwd=place, env=environment(LOCUM_CACHE=str(place / "cache"), LOCUM_THREADS="1"),
        input=json.dumps(each), capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    out, err = done.stdout.split("\0"), done.stderr.split("\0")
    return [
        Done(int(status), text, said)
        for text, status, said in zip(out[:-1:2], out[1::2], err[:-1], strict=True)
    ]


def broken(source: Path, folder: Path, name: str, places: Sequence[int]) -> None:
    """A copy with one bit wrong at each of these bytes of the file `name`."""
    shutil.copytree(source, folder)
    data = bytearray((folder / name).read_bytes())
    for at in places:
        data[at] ^= 1
    (folder / name).write_bytes(data)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model in `tiny`, one that fp16 has no room for in `large`, and two damaged ones."""
    folder = tmp_path_factory.mktemp("pack")
    write_checkpoint(shape("tiny-olmoe"), folder / "tiny", layers=1, seed=1)
    shutil.copytree(folder / "tiny", folder / "large")
    tensors = load_file(folder / "large" / "model.safetensors")
    tensors["model.norm.weight"] = torch.full_like(tensors["model.norm.weight"], 1e5)
    save_file(tensors, folder / "large" / "model.safetensors", metadata={"format": "pt"})
    pack(folder / "tiny", folder / "whole")
    experts = json.loads((folder / "whole" / "index.json").read_text())["layers"][0]["experts"]
    offsets = [expert["offset"] for expert in experts]  # all, because who knows which are asked for
    broken(folder / "whole", folder / "bad-expert", "experts-00000.bin", offsets)
    broken(folder / "whole", folder / "bad-backbone", "backbone.safetensors", [-1])
    (folder / "text.txt").write_text("he said hello, and then hello again")
    return folder


def test_a_packed_folder_from_beginning_to_end(place: Path) -> None:
    few = ("hello", "--max-tokens", "2", "--ignore-eos", "--json")
    packed, seen, run, judged, again, expert, blind, tensor, large = verbs(
        place,
        ["pack", "tiny", "-o", "int4", "--bits", "int4", "--group", "32", "--json"],
        ["inspect", "int4", "--json"],
        ["run", "int4", *few, "--verify", "always"],
        ["eval", "int4", "--window", "32", "--data", "text.txt", "--json"],
        ["pack", "int4", "-o", "again"],
        ["run", "bad-expert", *few],
        ["run", "bad-expert", *few, "--verify", "never"],
        ["run", "bad-backbone", *few],
        ["pack", "large", "-o", "fp16", "--bits", "fp16"],
    )
    result = json.loads(packed.stdout)
    assert (packed.status, result["precision"], result["lossless"]) == (0, "int4-g32", False)
    document = json.loads(seen.stdout)
    assert (document["layout"], document["quantization"], document["runnable"]) == (
        "packed",
        "int4-g32",
        True,
    )
    answer = json.loads(run.stdout)
    assert (run.status, answer["tokens"], answer["lossless"]) == (0, 2, False)
    assert (judged.status, json.loads(judged.stdout)["model"]) == (0, "int4")
    assert again.status == 0
    assert "experts-00000.bin" in {path.name for path in (place / "again").iterdir()}
    assert (expert.status, tensor.status, blind.status) == (1, 1, 0), expert.stderr + tensor.stderr
    assert expert.stderr.count("damaged") == 1
    assert "is damaged in bad-expert/experts-00000.bin at byte" in expert.stderr
    assert "is damaged in bad-backbone/backbone.safetensors" in tensor.stderr
    assert large.status == 1
    assert "model.norm.weight" in large.stderr
    assert "Ask for bf16 instead" in large.stderr
    assert not (place / "fp16").exists()
    assert "Traceback" not in "".join(done.stderr for done in (expert, tensor, large))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["tiny", "-o", "whole"], "the target exists in whole"),
        (["tiny", "-o", "text.txt"], "the target exists in text.txt"),
        (["nowhere", "-o", "new"], "no such model folder"),
        (["tiny", "-o", "new", "--bits", "int3"], "int3"),
        (["tiny", "-o", "new", "--group", "4"], "8"),
        (["tiny"], "--output"),
    ],
)
def test_wrong_wishes(place: Path, arguments: list[str], says: str) -> None:
    done = locum("pack", *arguments, cwd=place)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not (place / "new").exists()
