"""Packed folders: the bits of what was packed, of what the numbers in the file mean, and what damage does."""

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xxhash
from gguf import GGMLQuantizationType as Kind
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from helpers_cli import environment
from helpers_gguf import write_gguf
from helpers_laws import Subject, reference, same_bits, swapped
from helpers_models import FAMILIES
from helpers_quantised import awq, fp8, gpt_oss_twins, gptq, twins
from locum.backbone.index import expert_index
from locum.backbone.load import load_backbone
from locum.engine.chat import find_templates
from locum.engine.engine import load
from locum.engine.tokenizer import load_tokenizer
from locum.errors import CheckpointError, LoadError, LocumError, NumericsError, UsageError
from locum.model.checkpoint import Checkpoint
from locum.model.inspect import inspect
from locum.model.packed import index_digest
from locum.model.spec import MoESpec
from locum.pack import PackOptions, pack, planned_source
from locum.store.layout import Layout
from locum.synth.plan import plan_checkpoint
from locum.synth.shapes import shape
from locum.synth.writer import write_plan

Packs = Callable[..., Path]


@pytest.fixture(scope="session")
def packs(checkpoints: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Packs:
    """`packs(family, dtype, **options)`: the packed folder of a tiny checkpoint, made once. Read-only."""
    made: dict[object, Path] = {}

    def get(family: str, dtype: str = "bfloat16", **options: Any) -> Path:
        key = family, dtype, repr(sorted(options.items()))
        if key not in made:
            made[key] = tmp_path_factory.mktemp("packs") / "packed"
            pack(checkpoints(family, dtype), made[key], PackOptions(**options))
        return made[key]

    return get


def index_of(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / "index.json").read_text())
    return document


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_packed_as_stored_is_the_model(
    packs: Packs, checkpoints: Callable[..., Path], family: str, dtype: str
) -> None:
    folder, expected = packs(family, dtype), reference(checkpoints(family, dtype))
    subject = Subject(folder)
    for slots, prefetch in ((1, "none"), (4, "next-gate"), (1000, "none")):
        assert same_bits(subject.run(slots, prefetch=prefetch).logits, expected.logits)
    assert not same_bits(swapped_without_checks(subject), expected.logits)


def swapped_without_checks(subject: Subject) -> list[Tensor]:
    """Experts 0 and 1 exchanged, and nobody looks at the checksums."""
    good = subject.index
    try:
        from dataclasses import replace

        subject.index = replace(good, layers=tuple(replace(layer, checksums=()) for layer in good.layers))
        return swapped(subject).logits
    finally:
        subject.index = good


@pytest.mark.parametrize("form", ["fp8", "gptq", "awq", "mxfp4"])
def test_quantised_checkpoints_stay_as_they_are(
    checkpoints: Callable[..., Path], tmp_path: Path, form: str
) -> None:
    declared: dict[str, dict[str, Any]] = {
        "fp8": {"quant_method": "fp8", "weight_block_size": [16, 16]},
        "gptq": {"quant_method": "gptq", "bits": 4},
        "awq": {"quant_method": "awq", "bits": 4, "version": "gemm"},
    }
    if form == "mxfp4":
        quantised, meant = gpt_oss_twins(checkpoints("gpt_oss", "bfloat16", shard="1GB"), tmp_path)
    else:
        make = {"fp8": fp8, "gptq": gptq(4, 16), "awq": awq}[form]
        plain = checkpoints("qwen3_moe", "bfloat16", shard="1GB")
        quantised, meant = twins(plain, tmp_path, make, declared[form])
    result = pack(quantised, tmp_path / "packed")
    assert result.precision.startswith(form)
    assert same_bits(Subject(tmp_path / "packed").run(4).logits, reference(meant).logits)
    # and on from there: a packed folder is a model like any other
    again = pack(tmp_path / "packed", tmp_path / "floats", PackOptions(experts="bf16"))
    assert again.precision == "bf16"
    assert same_bits(Subject(tmp_path / "floats").run(4).logits, reference(meant).logits)


def means(folder: Path, layer: dict[str, Any], expert: int) -> dict[str, Tensor]:
    """What the bytes of an expert mean, worked out with numpy from the words of the format alone."""
    place = layer["experts"][expert]
    with open(folder / index_of(folder)["files"][place["file"]]["name"], "rb") as file:
        file.seek(place["offset"])
        data = file.read(place["length"])
    assert xxhash.xxh3_64_hexdigest(data) == place["xxh3"]
    found = {}
    for view in layer["tensors"]:
        (matrix,) = view["matrices"]
        pieces = {piece["role"]: piece for piece in matrix["pieces"]}
        form, _, placement = matrix["form"].partition("+")
        if form == "raw":
            (piece,) = pieces.values()
            raw = np.frombuffer(data, np.uint16, int(np.prod(piece["shape"])), piece["at"])
            found[view["name"]] = torch.from_numpy(raw.astype(np.uint32) << 16).view(torch.float32)
            found[view["name"]] = found[view["name"]].reshape(piece["shape"])
            continue
        bits, group = int(form[3]), int(form.partition("-g")[2])
        codes, scales = pieces["codes"], pieces["scales"]
        rows, groups = scales["shape"]
        high = np.frombuffer(data, np.uint16, rows * groups, scales["at"]).astype(np.uint32) << 16
        scale = high.view(np.float32).reshape(rows, groups)
        stored = np.frombuffer(data, np.uint8, int(np.prod(codes["shape"])), codes["at"])
        values = np.empty((rows, groups * group), np.float32)
        for row in range(rows):
            for column in range(groups * group):
                g, i = divmod(column, group)
                if bits == 8:
                    code = int(stored[row * groups * group + column].astype(np.int8))
                else:
                    byte = int(stored[row * groups * group // 2 + g * group // 2 + i % (group // 2)])
                    code = (byte >> 4 if i >= group // 2 else byte & 15) - 8
                values[row, column] = np.float32(code) * scale[row, g]
        assert placement in ("", "transposed")
        found[view["name"]] = torch.from_numpy(values.T.copy() if placement else values)
    return found


def simulated(folder: Path, source: Path, out: Path) -> Path:
    """A plain checkpoint whose experts are what the packed folder's numbers mean."""
    shutil.copytree(source, out)
    tensors = load_file(out / "model.safetensors")
    for layer in index_of(folder)["layers"]:
        for expert in range(len(layer["experts"])):
            for name, meant in means(folder, layer, expert).items():
                value = meant.to(torch.bfloat16)
                stem = layer["origin"]
                if f"{stem}.{name}" in tensors:
                    tensors[f"{stem}.{name}"][expert] = value
                elif name == "gate_up_proj":
                    gate, up = value.chunk(2)
                    tensors[f"{stem}.{expert}.gate_proj.weight"] = gate.contiguous()
                    tensors[f"{stem}.{expert}.up_proj.weight"] = up.contiguous()
                else:
                    tensors[f"{stem}.{expert}.{name}.weight"] = value
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    return out


@pytest.mark.parametrize("bits", ["int8", "int4"])
@pytest.mark.parametrize("family", ["qwen3_moe", "deepseek_v3", "gpt_oss"])
def test_small_integers_are_the_simulated_weights(
    checkpoints: Callable[..., Path], tmp_path: Path, family: str, bits: str
) -> None:
    source = checkpoints(family, "bfloat16", shard="1GB")
    result = pack(source, tmp_path / "packed", PackOptions(experts=bits))
    assert bits in result.precision
    twin = simulated(tmp_path / "packed", source, tmp_path / "simulated")
    expected = reference(twin)
    subject = Subject(tmp_path / "packed")
    for slots in (1, 4, 1000):
        assert same_bits(subject.run(slots).logits, expected.logits)
    assert not same_bits(expected.logits, reference(source).logits)


def test_a_quantised_backbone_is_what_its_numbers_mean(
    checkpoints: Callable[..., Path], tmp_path: Path
) -> None:
    source = checkpoints("qwen3_moe", "bfloat16", shard="1GB")
    pack(source, tmp_path / "packed", PackOptions(backbone="int8"))
    stored = load_file(tmp_path / "packed" / "backbone.safetensors")
    shutil.copytree(source, tmp_path / "simulated")
    tensors = load_file(source / "model.safetensors")
    linear = [name.removesuffix(".codes") for name in stored if name.endswith(".codes")]
    assert {name.split(".")[-2] for name in linear} >= {"q_proj", "k_proj", "v_proj", "o_proj"}
    assert not any("gate.weight" in name or "embed" in name or "lm_head" in name for name in linear)
    for name in linear:
        codes, scales = stored[f"{name}.codes"], stored[f"{name}.scales"]
        each = codes.shape[1] // scales.shape[1]
        tensors[name] = (codes.float() * scales.float().repeat_interleave(each, 1)).bfloat16()
    save_file(tensors, tmp_path / "simulated" / "model.safetensors", metadata={"format": "pt"})
    got = Subject(tmp_path / "packed").run(4)
    assert same_bits(got.logits, reference(tmp_path / "simulated").logits)
    spec = MoESpec.of(Checkpoint.open(tmp_path / "packed"))
    assert spec.params == MoESpec.of(Checkpoint.open(source)).params
    assert spec.backbone_resident_bytes == MoESpec.of(Checkpoint.open(source)).backbone_resident_bytes


@pytest.mark.parametrize("family", FAMILIES)
def test_inspect_finds_the_same_model(packs: Packs, checkpoints: Callable[..., Path], family: str) -> None:
    found, source = inspect(packs(family)).spec, inspect(checkpoints(family, "bfloat16")).spec
    for field in ("family", "params", "active_params", "experts", "top_k", "moe_layers", "kv", "dtype"):
        assert getattr(found, field) == getattr(source, field), field
    assert found.runnable
    assert found.quantization is None
    index = expert_index(Checkpoint.open(packs(family)))
    assert tuple(len(layer.experts) for layer in index.layers) == found.experts


def test_one_read_brings_an_expert(packs: Packs) -> None:
    subject = Subject(packs("olmoe", experts="int4"))
    with subject.residents(4) as residents:
        assert all(residents.layout.image_start(key) == 0 for key in range(8))
        assert residents.layout.staged_experts == 0
    for number, layer in enumerate(index_of(packs("olmoe", experts="int4"))["layers"]):
        offsets = [expert["offset"] for expert in layer["experts"]]
        assert all(offset % 4096 == 0 for offset in offsets), number
        gaps = {b - a for a, b in itertools.pairwise(offsets)}
        assert gaps == {-(-layer["image_bytes"] // 4096) * 4096}, "experts of a layer lie side by side"


@pytest.fixture
def damaged(packs: Packs, tmp_path: Path) -> Path:
    """One bit of expert 3 of the second MoE layer is wrong."""
    folder = tmp_path / "damaged"
    shutil.copytree(packs("olmoe"), folder)
    place = index_of(folder)["layers"][1]["experts"][3]
    with open(folder / "experts-00000.bin", "r+b") as file:
        file.seek(place["offset"] + place["length"] - 5)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
    return folder


@pytest.mark.parametrize("mover", ["direct", "pagecache"])
@pytest.mark.parametrize("verify", ["first", "always"])
def test_a_flipped_bit_names_the_expert(damaged: Path, verify: str, mover: str) -> None:
    with pytest.raises(LoadError) as caught:
        Subject(damaged).run(1000, verify=verify, mover=mover)
    place = index_of(damaged)["layers"][1]["experts"][3]
    assert re.fullmatch(
        r"expert 3 of model\.layers\.1\.mlp\.experts is damaged in \S+/experts-00000\.bin "
        rf"at byte {place['offset']}; expected checksum {place['xxh3']}; got [0-9a-f]{{16}}\. "
        r"Copy the folder again, or pack the model again\.",
        str(caught.value),
    ), "nothing is said twice"


def test_nobody_looks_when_told_not_to(damaged: Path) -> None:
    Subject(damaged).run(1000, verify="never")


@pytest.mark.parametrize(("verify", "caught"), [("first", False), ("always", True)])
def test_when_an_expert_is_looked_at(packs: Packs, tmp_path: Path, verify: str, caught: bool) -> None:
    folder = tmp_path / "late"
    shutil.copytree(packs("olmoe"), folder)
    subject = Subject(folder)
    place = index_of(folder)["layers"][0]["experts"][0]
    with subject.residents(1, verify=verify, mover="pagecache") as residents:

        def read() -> None:
            for expert in (0, 1):  # the second takes the only place of the first
                residents.step(torch.zeros(1, 1), {})
                with residents.acquire(0, {expert: 1}, torch.zeros(1, 64)) as lease:
                    for _ in lease:
                        pass

        read()
        with open(folder / "experts-00000.bin", "r+b") as file:
            file.seek(place["offset"])
            file.write(b"\xff" * 64)
        if caught:
            with pytest.raises(LoadError, match="expert 0"):
                read()
        else:
            read()


def test_the_command_line_and_a_folder_that_moved(packs: Packs, tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    shutil.copytree(packs("qwen3_moe"), folder)
    command = [sys.executable, "-m", "locum", "inspect", str(folder), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=True)
    assert json.loads(done.stdout)["layout"] == "packed"


@pytest.mark.parametrize("moment", ["experts", "backbone", "config"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_interrupted_or_out_of_space_leaves_nothing(
    checkpoints: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
    error: BaseException,
) -> None:
    from locum.pack import writer

    calls = []

    def fail(*args: object, **kwargs: object) -> None:
        calls.append(args)
        raise error

    monkeypatch.setattr(writer.Packing, f"write_{moment}", fail)
    wanted = KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else LocumError
    with pytest.raises(wanted, match="disk is full" if wanted is LocumError else None):
        pack(checkpoints("olmoe", "bfloat16"), tmp_path / "packed")
    assert calls
    assert list(tmp_path.iterdir()) == []


def test_killed_on_the_way_leaves_nothing_that_loads(
    checkpoints: Callable[..., Path], tmp_path: Path
) -> None:
    source = checkpoints("olmoe", "bfloat16")
    script = (
        "import sys\nfrom pathlib import Path\nfrom locum.pack import pack\n"
        "def stop(done, total):\n    print('going', flush=True)\n    sys.stdin.read()\n"
        "pack(Path(sys.argv[1]), Path(sys.argv[2]), progress=stop)\n"
    )
    target = tmp_path / "packed"
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(source), str(target)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment(),
    )
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdout.readline()
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdin.close()
    child.stdout.close()
    assert not target.exists()
    for left in tmp_path.iterdir():
        with pytest.raises(LocumError):
            Checkpoint.open(left)
    begun = time.monotonic()
    pack(source, target)  # what is left is in nobody's way
    assert time.monotonic() - begun < 60
    assert Checkpoint.open(target).packed is not None


def test_too_little_space_is_said_before_anything_is_written(
    checkpoints: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1 << 20))
    with pytest.raises(LocumError, match=r"not enough disk space.*free at the peak"):
        pack(checkpoints("olmoe", "bfloat16"), tmp_path / "packed")
    assert list(tmp_path.iterdir()) == []


def changed(folder: Path, name: str, at: int = 5, bit: int = 1) -> None:
    """One bit of the backbone's tensor `name` is wrong."""
    path = folder / "backbone.safetensors"
    data = bytearray(path.read_bytes())
    length = int.from_bytes(data[:8], "little")
    begin, _ = json.loads(data[8 : 8 + length])[name]["data_offsets"]
    data[8 + length + begin + at] ^= bit
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({}, "model.layers.1.mlp.gate.weight"),
        ({"backbone": "int4"}, "model.layers.1.self_attn.q_proj.weight.scales"),
    ],
)
def test_a_flipped_bit_names_the_tensor_of_the_backbone(
    packs: Packs, tmp_path: Path, options: dict[str, Any], name: str
) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(packs("olmoe", **options), folder)
    changed(folder, name)
    checkpoint, damage = Checkpoint.open(folder), re.escape(f"tensor {name} is damaged")
    for verify in ("first", "always"):
        with pytest.raises(CheckpointError, match=damage):
            load_backbone(checkpoint, verify=verify)
    load_backbone(checkpoint, verify="never")
    with pytest.raises(CheckpointError, match=damage):  # a new checksum would hide it for ever
        pack(folder, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_the_checksum_of_a_tensor_is_of_its_bytes_dtype_and_shape(packs: Packs) -> None:
    folder = packs("olmoe", backbone="int8")
    raw = (folder / "backbone.safetensors").read_bytes()
    data = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:data])
    del header["__metadata__"]
    expected = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        text = f"{entry['dtype']} {json.dumps(entry['shape'])}".encode()
        expected[name] = xxhash.xxh3_64_hexdigest(text + raw[data + begin : data + end])
    assert index_of(folder)["backbone"] == expected


@pytest.mark.parametrize(("old", "new"), [('"I8"', '"U8"'), ("norm.weight", "norm.weighs")])
def test_a_header_that_lies_is_found(packs: Packs, tmp_path: Path, old: str, new: str) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(packs("olmoe", backbone="int8"), folder)
    path = folder / "backbone.safetensors"
    path.write_bytes(path.read_bytes().replace(old.encode(), new.encode(), 1))
    with pytest.raises(CheckpointError, match=r"is damaged|disagree about"):
        load_backbone(Checkpoint.open(folder))


def test_damage_is_not_packed_anew(damaged: Path, tmp_path: Path) -> None:
    for bits in ("stored", "int8"):
        with pytest.raises(LoadError, match=r"expert 3 of model\.layers\.1\.mlp\.experts is damaged"):
            pack(damaged, tmp_path / "again", PackOptions(experts=bits))


def with_weight(source: Path, folder: Path, name: str, value: float) -> Path:
    """The checkpoint with one weight changed."""
    shutil.copytree(source, folder)
    tensors = load_file(folder / "model.safetensors")
    tensors[name][3, 3] = value
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


EXPERT, TABLE = "model.layers.2.mlp.experts.5.up_proj.weight", "model.embed_tokens.weight"
LINEAR = "model.layers.0.self_attn.q_proj.weight"


@pytest.mark.parametrize(
    ("name", "where"), [(EXPERT, r"gate_up_proj of expert 5 of model\.layers\.2"), (TABLE, TABLE)]
)
def test_fp16_has_no_room_for_large_weights(
    checkpoints: Callable[..., Path], tmp_path: Path, name: str, where: str
) -> None:
    source = checkpoints("olmoe", "bfloat16", shard="1GB")
    large = with_weight(source, tmp_path / "large", name, -1e5)
    with pytest.raises(
        NumericsError, match=f"too large.* in {where}.*65504.*got 99840.*bf16 instead"
    ) as caught:
        pack(large, tmp_path / "packed", PackOptions(experts="fp16"))
    assert "damage" not in str(caught.value)
    assert not (tmp_path / "packed").exists()
    pack(
        with_weight(source, tmp_path / "fits", name, -65504.0 + 200),
        tmp_path / "packed",
        PackOptions(experts="fp16"),
    )


@pytest.mark.parametrize(
    ("name", "options"),
    [
        (EXPERT, {"experts": "int8"}),
        (EXPERT, {"experts": "fp32"}),
        (LINEAR, {"backbone": "int8"}),
        (TABLE, {"backbone": "fp16"}),
    ],
)
@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_weights_that_are_no_numbers(
    checkpoints: Callable[..., Path], tmp_path: Path, name: str, options: dict[str, str], value: float
) -> None:
    source = with_weight(checkpoints("olmoe", "bfloat16", shard="1GB"), tmp_path / "source", name, value)
    place = r"expert 5 of model\.layers\.2" if name == EXPERT else name
    with pytest.raises(NumericsError, match=f"NaN or infinity .*{place}.*damaged"):
        pack(source, tmp_path / "packed", PackOptions(**options))
    assert not (tmp_path / "packed").exists()


@pytest.mark.parametrize(
    ("options", "word"),
    [({"experts": "int3"}, "int3"), ({"backbone": "fp8"}, "fp8"), ({"group": 48}, "48"), ({"group": 4}, "4")],
)
def test_bad_options(
    checkpoints: Callable[..., Path], tmp_path: Path, options: dict[str, Any], word: str
) -> None:
    with pytest.raises(UsageError, match=word):
        pack(checkpoints("olmoe", "bfloat16"), tmp_path / "packed", PackOptions(**options))


def test_the_folder_must_be_new(checkpoints: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "mine").write_text("dear")
    with pytest.raises(UsageError, match="exists"):
        pack(checkpoints("olmoe", "bfloat16"), tmp_path / "packed")
    assert (tmp_path / "packed" / "mine").read_text() == "dear"


def test_files_are_split(checkpoints: Callable[..., Path], tmp_path: Path) -> None:
    source = checkpoints("olmoe", "bfloat16")
    pack(source, tmp_path / "packed", PackOptions(file_bytes=100_000))
    files = index_of(tmp_path / "packed")["files"]
    assert len(files) > 2
    assert all(file["bytes"] <= 100_000 for file in files)
    assert same_bits(Subject(tmp_path / "packed").run(4).logits, reference(source).logits)


def paths_of(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON document."""
    inner = document.items() if isinstance(document, dict) else enumerate(document)
    found = [path] if path else []
    for key, value in inner:
        found.append((*path, key))
        if isinstance(value, dict | list):
            found += paths_of(value, (*path, key))
    return found


values = st.one_of(st.none(), st.integers(-(2**70), 2**70), st.text(max_size=4), st.just([]), st.just({}))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), forged=st.booleans())
def test_a_damaged_index_is_never_believed(
    packs: Packs, tmp_path: Path, data: st.DataObject, forged: bool
) -> None:
    folder = tmp_path / "index"
    if not folder.exists():
        shutil.copytree(packs("olmoe", experts="int4"), folder)
    document = index_of(packs("olmoe", experts="int4"))
    path = data.draw(st.sampled_from(paths_of(document)))
    value = data.draw(values)
    place = document
    for key in path[:-1]:
        place = place[key]
    same = place[path[-1]] == value
    place[path[-1]] = value
    if forged:  # by somebody who knows how the checksum is made
        document.pop("sha256", None)
        document["sha256"] = index_digest(document)
    (folder / "index.json").write_text(json.dumps(document))
    try:
        checkpoint = Checkpoint.open(folder)
        assert MoESpec.of(checkpoint).experts == (8, 8, 8)
        Layout(expert_index(checkpoint))
    except LocumError:
        return
    assert forged or same


@pytest.mark.parametrize(
    "text",
    ["{}", "[1]", '{"schema": "shop.catalogue/1"}', '{"schema": 7}', "not JSON at all", "[" * 100_000, ""],
)
def test_an_index_of_others_is_none_of_ours(
    checkpoints: Callable[..., Path], tmp_path: Path, text: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(checkpoints("olmoe", "bfloat16"), folder)
    (folder / "index.json").write_text(text)
    assert Checkpoint.open(folder).packed is None
    assert MoESpec.of(Checkpoint.open(folder)).runnable


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("locum.pack/2", "locum.pack/1", r"another format.*locum\.pack/2; got locum\.pack/1"),
        ("}", "", "not valid JSON"),
    ],
)
def test_an_index_of_ours_is_told_from_others(
    packs: Packs, tmp_path: Path, old: str, new: str, says: str
) -> None:
    shutil.copytree(packs("olmoe"), tmp_path / "packed")
    path = tmp_path / "packed" / "index.json"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(CheckpointError, match=says):
        Checkpoint.open(path.parent)


def forged(packs: Packs, folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A packed folder whose index was changed by somebody who knows how its checksum is made."""
    shutil.copytree(packs("olmoe", experts="int4"), folder)
    document = index_of(folder)
    change(document)
    document.pop("sha256")
    document["sha256"] = index_digest(document)
    (folder / "index.json").write_text(json.dumps(document))
    return folder


FORMS = (
    "fp8-0x0 fp8-1x0 fp8-16 fp8-axb fp8--1x-1 fp4-0x0 int4-g0 int4-g1 int4-g-2 int8-g0 int8-g "
    "int8-g99999999999999999999 packed-0 packed--3 packed-x packed-3 packed-99999999999999 gptq1-0 "
    "raw+interleaved-0 raw+woven-0 raw+interleaved--1 raw+interleaved-x raw+woven-99999999999999999999 mxfp4 "
    "gptq1-x gptq2-64 gptq2-99999999999999 gguf- gguf-F99 gguf-Q4_K gguf-Q5_0 gguf_latent-x "
    "gguf_joined-Q8_0xQ8_0 raw+ +raw nonsense"
)


@pytest.mark.parametrize("form", FORMS.split())
def test_a_forged_form_is_refused(packs: Packs, tmp_path: Path, form: str) -> None:
    roles = ("zeros", "weight", "blocks", "first", "second", "keys", "values")

    def change(document: dict[str, Any]) -> None:
        (matrix,) = document["layers"][0]["tensors"][0]["matrices"]
        codes = next(piece for piece in matrix["pieces"] if piece["role"] == "codes")
        matrix["form"] = form
        matrix["pieces"] += [codes | {"role": role} for role in roles]

    with pytest.raises(LocumError):
        expert_index(Checkpoint.open(forged(packs, tmp_path / "forged", change)))


@pytest.mark.parametrize("place", ["experts", "backbone"])
@pytest.mark.parametrize("text", ["int4\x1b[2J", "int4\n", "\u202eint4", "\x00"])
def test_a_precision_that_cannot_be_printed(packs: Packs, tmp_path: Path, place: str, text: str) -> None:
    def change(document: dict[str, Any]) -> None:
        document["precision"][place] = text

    with pytest.raises(CheckpointError, match="cannot be printed") as caught:
        Checkpoint.open(forged(packs, tmp_path / "forged", change))
    assert str(caught.value).isprintable()


def _again(values: list[Any]) -> None:
    values.append(values[0])


TWICE: dict[str, Callable[[dict[str, Any]], None]] = {
    "layer": lambda document: _again(document["layers"]),
    "tensor": lambda document: _again(document["layers"][1]["tensors"]),
    "piece": lambda document: _again(document["layers"][1]["tensors"][0]["matrices"][0]["pieces"]),
    "file": lambda document: _again(document["files"]),
    "expert": lambda document: document["layers"][1]["experts"].__setitem__(
        3, document["layers"][1]["experts"][2]
    ),
}


@pytest.mark.parametrize("what", TWICE)
def test_an_index_that_says_something_twice(packs: Packs, tmp_path: Path, what: str) -> None:
    with pytest.raises(CheckpointError, match=f"{what}.*twice"):
        Checkpoint.open(forged(packs, tmp_path / "forged", TWICE[what]))


def test_a_key_that_is_there_twice(packs: Packs, tmp_path: Path) -> None:
    folder = forged(packs, tmp_path / "forged", lambda document: None)
    text = (folder / "index.json").read_text()
    (folder / "index.json").write_text(text.replace('"precision"', '"precision": 1, "precision"', 1))
    with pytest.raises(CheckpointError, match="'precision' twice"):
        Checkpoint.open(folder)


@pytest.mark.parametrize("keep", [0, 100, -1])
def test_a_truncated_file_is_refused(packs: Packs, tmp_path: Path, keep: int) -> None:
    folder = tmp_path / "short"
    shutil.copytree(packs("olmoe"), folder)
    path = folder / "experts-00000.bin"
    os.truncate(path, keep if keep >= 0 else path.stat().st_size + keep)
    with pytest.raises(CheckpointError, match=r"experts-00000\.bin"):
        Checkpoint.open(folder)
    path.unlink()
    with pytest.raises(CheckpointError, match="no such file"):
        Checkpoint.open(folder)


@pytest.mark.parametrize("family", ["qwen3_moe", "mixtral", "gpt_oss", "granitemoeshared"])
def test_a_gguf_unfolds(tmp_path: Path, family: str) -> None:
    # the blocks stay as they are; tokenizer, template and defaults get files of their own
    sampling = {"general.sampling.temp": 0.25}
    written = write_gguf(family, tmp_path, Kind.Q4_0, torch.bfloat16, extra=sampling)
    result = pack(written.path, tmp_path / "packed")
    assert (
        Checkpoint.open(tmp_path / "packed").generation_config
        == Checkpoint.open(written.path).generation_config
    )
    assert (Checkpoint.open(tmp_path / "packed").generation_config or {})["temperature"] == 0.25
    assert "gguf" in result.precision
    got = Subject(tmp_path / "packed", torch.bfloat16).run(4)
    assert same_bits(got.logits, reference(written.meaning, torch.bfloat16).logits)
    ours, theirs = load_tokenizer(tmp_path / "packed"), load_tokenizer(written.path)
    assert ours.encode("the sea 42") == theirs.encode("the sea 42")
    assert find_templates(tmp_path / "packed") == find_templates(written.path)


@pytest.mark.parametrize("locality", [None, 1.0])
def test_a_plan_packs_to_the_bytes_of_its_checkpoint(tmp_path: Path, locality: float | None) -> None:
    plan = plan_checkpoint(shape("tiny-olmoe"), layers=2, locality=locality)
    write_plan(plan, tmp_path / "model", seed=3)
    options = PackOptions(experts="int4", backbone="int8")
    pack(tmp_path / "model", tmp_path / "read", options)
    with planned_source(plan, 3, "model") as source:
        pack(source, tmp_path / "planned", options)
    names = sorted(path.name for path in (tmp_path / "read").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "planned").iterdir())
    for name in names:
        assert (tmp_path / "planned" / name).read_bytes() == (tmp_path / "read" / name).read_bytes(), name
    with planned_source(plan, 4, "model") as source:
        pack(source, tmp_path / "other", options)
    one, other = (tmp_path / name / "experts-00000.bin" for name in ("planned", "other"))
    assert one.read_bytes() != other.read_bytes()


def test_small_integers_stay_close_and_more_bits_closer(tmp_path: Path) -> None:
    # against the plain checkpoint of the same seed; another seed is what "not close" looks like
    plan = plan_checkpoint(shape("tiny-qwen3"), layers=2)
    write_plan(plan, tmp_path / "model", seed=3)
    plain = Subject(tmp_path / "model").run(1000).logits[0].float().log_softmax(-1)

    def distance(bits: str, seed: int) -> float:
        with planned_source(plan, seed, "model") as source:
            pack(source, tmp_path / f"{bits}-{seed}", PackOptions(experts=bits))
        got = Subject(tmp_path / f"{bits}-{seed}").run(1000).logits[0].float().log_softmax(-1)
        return float((plain.exp() * (plain - got)).sum(-1).mean())

    eight, four, other = distance("int8", 3), distance("int4", 3), distance("int8", 4)
    assert distance("bf16", 3) == 0.0
    assert eight < 0.1 * four
    assert four < 0.2 * other


@pytest.mark.parametrize("kind", [pytest.param("bf16", marks=pytest.mark.check), "int4"])
def test_packing_a_plan_takes_little_memory(tmp_path: Path, kind: str) -> None:
    # experts of 88 MB and a table of 131 MB, 1.3 GB in all, in a process that may take less than 2 GiB
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from locum.synth.shapes import shape\nfrom locum.synth.plan import plan_checkpoint\n"
        "from locum.pack import PackOptions, pack, planned_source\n"
        "plan = plan_checkpoint(shape('mixtral-8x7b', num_local_experts=3), layers=1)\n"
        "with planned_source(plan, 0, 'm') as source:\n"
        "    pack(source, Path(sys.argv[1]), PackOptions(experts=sys.argv[2]))\n"
        "text = Path('/proc/self/status').read_text()\n"
        "print(next(line.split()[1] for line in text.splitlines() if line.startswith('VmHWM')))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "packed"), kind],
        capture_output=True, text=True, check=True, env=environment(),
    )  # fmt: skip
    shutil.rmtree(tmp_path / "packed")
    assert int(done.stdout) * 1024 < 2 << 30


def test_all_that_the_model_needs_comes_along(checkpoints: Callable[..., Path], tmp_path: Path) -> None:
    source, packed = tmp_path / "source", tmp_path / "packed"
    shutil.copytree(checkpoints("olmoe", "bfloat16"), source)
    (source / "additional_chat_templates").mkdir()
    small = {
        "tokenizer.json": "{}" + " " * (17 << 20),  # as long as those of large vocabularies
        "tokenizer_config.json": '{"a": 1}',
        "chat_template.jinja": "chat",
        "additional_chat_templates/tool_use.jinja": "tools",
        "merges.txt": "a b",
        "tokenizer.model": "sentencepiece",
        "qwen.tiktoken": "tiktoken",
        "README.md": "card",
        "LICENSE": "free",
    }
    for name, text in small.items():
        (source / name).write_text(text)
    (source / "pytorch_model.bin").write_text("weights")
    pack(source, packed)
    assert {name: (packed / name).read_text() for name in small} == small
    assert (packed / "generation_config.json").read_bytes() == (
        source / "generation_config.json"
    ).read_bytes()
    assert (source / "model.safetensors.index.json").exists()
    assert {path.name for path in packed.iterdir()} - {Path(name).parts[0] for name in small} == {
        "config.json", "generation_config.json", "index.json", "backbone.safetensors", "experts-00000.bin"
    }  # fmt: skip


def test_a_backbone_is_quantised_only_where_that_is_asked_for(packs: Packs) -> None:
    folder = packs("olmoe", experts="int4")
    assert index_of(folder)["precision"]["backbone"] == "stored"
    assert {tensor.dtype for tensor in load_file(folder / "backbone.safetensors").values()} == {
        torch.bfloat16
    }


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("fp16", torch.float16)])
def test_floats_are_floats_throughout(
    checkpoints: Callable[..., Path], tmp_path: Path, precision: str, dtype: torch.dtype
) -> None:
    pack(checkpoints("olmoe", "bfloat16"), tmp_path / "packed", PackOptions(experts=precision))
    stored = load_file(tmp_path / "packed" / "backbone.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {dtype}
    assert MoESpec.of(Checkpoint.open(tmp_path / "packed")).dtype == str(dtype).removeprefix("torch.")


@pytest.mark.parametrize(
    ("dtype", "options", "lossless"),
    [
        ("bfloat16", {}, True),
        ("bfloat16", {"experts": "bf16"}, True),
        ("bfloat16", {"experts": "fp32"}, True),
        ("bfloat16", {"backbone": "bf16"}, True),
        ("bfloat16", {"experts": "fp16"}, False),  # its smallest numbers are larger
        ("bfloat16", {"experts": "int8"}, False),
        ("bfloat16", {"experts": "int4"}, False),
        ("bfloat16", {"backbone": "int8"}, False),
        ("bfloat16", {"backbone": "fp16"}, False),
        ("float32", {}, True),
        ("float32", {"experts": "bf16"}, False),
        ("float32", {"experts": "bf16", "backbone": "stored"}, False),
    ],
)
def test_what_is_lossless(
    checkpoints: Callable[..., Path], tmp_path: Path, dtype: str, options: dict[str, Any], lossless: bool
) -> None:
    packed, again = tmp_path / "packed", tmp_path / "again"
    assert pack(checkpoints("olmoe", dtype), packed, PackOptions(**options)).lossless is lossless
    assert pack(packed, again).lossless  # of what it was given
    for folder in (packed, again):  # while a folder answers for all that happened
        found = Checkpoint.open(folder).packed
        assert found is not None
        assert found.lossless is lossless


def test_what_a_quantised_checkpoint_means_is_not_lost(
    checkpoints: Callable[..., Path], tmp_path: Path
) -> None:
    quantised, _ = twins(
        checkpoints("qwen3_moe", "bfloat16", shard="1GB"),
        tmp_path,
        gptq(4, 16),
        {"quant_method": "gptq", "bits": 4},
    )
    for bits, lossless in (("stored", True), ("bf16", True), ("fp16", False), ("int8", False)):
        assert pack(quantised, tmp_path / bits, PackOptions(experts=bits)).lossless is lossless


@pytest.mark.parametrize(
    ("stored", "bits", "dtype", "lossless"),
    [
        ("bf16", None, "auto", True),
        ("bf16", None, "fp32", True),
        ("fp32", None, "bf16", False),
        ("bf16", "stored", "auto", True),
        ("bf16", "int4", "auto", False),
        ("bf16", "int4", "fp32", False),
    ],
)
def test_an_answer_says_whether_numbers_were_changed(
    tmp_path: Path, stored: str, bits: str | None, dtype: str, lossless: bool
) -> None:
    folder = write_plan(plan_checkpoint(shape("tiny-olmoe"), layers=1, dtype=stored), tmp_path / "model").path
    if bits is not None:
        folder = pack(folder, tmp_path / "packed", PackOptions(experts=bits)).path
    with load(folder, memory="1GiB", dtype=dtype, threads=1) as engine:
        assert engine.generate("hello", max_tokens=1).lossless is lossless


def test_what_is_kept_in_another_dtype_has_its_reasons(
    checkpoints: Callable[..., Path], tmp_path: Path
) -> None:
    source = tmp_path / "source"
    shutil.copytree(checkpoints("olmoe", "bfloat16", shard="1GB"), source)
    tensors = load_file(source / "model.safetensors")
    exact = {name: tensor.float() for name, tensor in tensors.items() if name.endswith("mlp.gate.weight")}
    save_file({**tensors, **exact}, source / "model.safetensors", metadata={"format": "pt"})
    pack(source, tmp_path / "packed", PackOptions(experts="fp16"))
    stored = load_file(tmp_path / "packed" / "backbone.safetensors")
    assert {name for name, tensor in stored.items() if tensor.dtype == torch.float32} == exact.keys()
    assert {tensor.dtype for name, tensor in stored.items() if name not in exact} == {torch.float16}


def test_a_made_backbone_is_in_the_dtype_of_the_model_or_the_one_asked_for(
    checkpoints: Callable[..., Path], tmp_path: Path
) -> None:
    plain, declared = checkpoints("qwen3_moe", "float16", shard="1GB"), {"quant_method": "gptq", "bits": 4}
    quantised, _ = twins(plain, tmp_path, gptq(4, 16), declared)
    for backbone, dtype in (("stored", torch.float16), ("fp32", torch.float32)):
        pack(quantised, tmp_path / backbone, PackOptions(backbone=backbone))
        stored = load_file(tmp_path / backbone / "backbone.safetensors")
        assert {tensor.dtype for tensor in stored.values()} == {dtype}
