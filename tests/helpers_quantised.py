"""Quantised twins of tiny checkpoints, written here by plain arithmetic, beside what their weights stand for.

Each maker takes a float32 matrix [O, I] and gives the tensors that its format stores and the matrix that they
mean. The meaning is worked out number by number with numpy, by nothing that locum uses.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

Made = tuple[dict[str, Tensor], Tensor]
"""(suffix to stored tensor, what they mean)."""

_FP4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_AWQ = (0, 2, 4, 6, 1, 3, 5, 7)


def fp8(weight: Tensor, random: torch.Generator, block: int = 16) -> Made:
    """`weight` in 8-bit floats with a float32 scale per `block` x `block`."""
    rows, columns = weight.shape
    down, across = -(-rows // block), -(-columns // block)
    scales = torch.empty(down, across)
    codes = torch.empty(rows, columns, dtype=torch.float8_e4m3fn)
    means = torch.empty(rows, columns)
    for i in range(down):
        for j in range(across):
            here = (slice(i * block, (i + 1) * block), slice(j * block, (j + 1) * block))
            scales[i, j] = weight[here].abs().max() / 448
            codes[here] = (weight[here] / scales[i, j]).to(torch.float8_e4m3fn)
            means[here] = codes[here].float() * scales[i, j]
    return {"weight": codes, "weight_scale_inv": scales}, means


def fp8_powers(kind: torch.dtype, block: int = 16) -> Callable[[Tensor, torch.Generator], Made]:
    """`fp8` with powers of two as scales: bytes (their exponents and 127), or the dtype of such bytes."""

    def made(weight: Tensor, random: torch.Generator) -> Made:
        rows, columns = weight.shape
        exponents = torch.randint(-12, -4, (-(-rows // block), -(-columns // block)), generator=random)
        codes, means = torch.empty(weight.shape, dtype=torch.float8_e4m3fn), torch.empty(weight.shape)
        for i in range(rows):
            for j in range(columns):
                power = 2.0 ** int(exponents[i // block, j // block])
                codes[i, j] = weight[i, j] / power
                means[i, j] = float(codes[i, j]) * power
        return {"weight": codes, "weight_scale_inv": (exponents + 127).to(torch.uint8).view(kind)}, means

    return made


def scaled(
    kind: torch.dtype, sides: str = "O1", dtype: torch.dtype = torch.float32, symmetric: bool = True
) -> Callable[[Tensor, torch.Generator], Made]:
    """Numbers of 8 bits, floats or integers, that are not packed; `weight_scale` in `dtype`.

    `sides` of the scales: `""` and `1`, one for all; `O` and `O1`, one per output. With a scale of
    activations beside them, which concerns nobody who leaves activations alone.
    """

    def made(weight: Tensor, random: torch.Generator) -> Made:
        rows, columns = weight.shape
        top = 448 if kind.is_floating_point else 127
        shape = {"": (), "1": (1,), "O": (rows,), "O1": (rows, 1)}[sides]
        few = weight.abs().amax(1) if "O" in sides else weight.abs().max()
        scales = (few / top).view(shape).to(dtype)
        zeros = torch.zeros(shape, dtype=torch.int8)
        if not symmetric:
            zeros = torch.randint(-100, 101, shape, generator=random, dtype=torch.int8)
        codes, means = torch.empty(rows, columns, dtype=kind), torch.empty(rows, columns, dtype=torch.float64)
        for row in range(rows):
            scale = float(scales.reshape(-1)[row if "O" in sides else 0])
            zero = int(zeros.reshape(-1)[row if "O" in sides else 0])
            wanted = weight[row] / scale + zero
            codes[row] = (wanted if kind.is_floating_point else wanted.round().clamp(-128, 127)).to(kind)
            means[row] = (codes[row].double() - zero) * scale
        stored = {"weight": codes, "weight_scale": scales, "input_scale": torch.tensor(0.5)}
        if not symmetric:
            stored["weight_zero_point"] = zeros
        return stored, means.float() if kind.is_floating_point else means.to(dtype)

    return made


def packed(
    bits: int, group: int | None, symmetric: bool = True, zeros_packed: bool = True, order: str = ""
) -> Callable[[Tensor, torch.Generator], Made]:
    """compressed-tensors' `pack-quantized` with a bfloat16 scale per `group` inputs (None: per output).

    `order`: `g_idx` with the groups' members `shuffled` over the inputs, or `none`, which -1 stands for.
    """

    def made(weight: Tensor, random: torch.Generator) -> Made:
        rows, columns = weight.shape
        per = group or columns
        groups = columns // per
        group_of = torch.arange(columns) // per
        if order == "shuffled":
            group_of = group_of[torch.randperm(columns, generator=random)]
        largest = torch.stack([weight[:, group_of == group].abs().amax(1) for group in range(groups)], 1)
        scales = (largest / (2 ** (bits - 1) - 1)).bfloat16()
        zeros = torch.zeros(rows, groups, dtype=torch.int64)
        if not symmetric:
            zeros = torch.randint(-3, 4, zeros.shape, generator=random)
        code = (weight / scales.float()[:, group_of]).round() + zeros[:, group_of]
        code = code.clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1).long()
        means = (code - zeros[:, group_of]).bfloat16() * scales[:, group_of]
        half = 2 ** (bits - 1)
        stored = {
            "weight_packed": _words((code + half).numpy(), bits),
            "weight_scale": scales,
            "weight_shape": torch.tensor([rows, columns]),
        }
        if not symmetric:
            words = _words((zeros + half).numpy().T, bits).T.contiguous()
            stored["weight_zero_point"] = words if zeros_packed else zeros.to(torch.int8)
        if order:
            stored["weight_g_idx"] = (
                group_of if order == "shuffled" else torch.full_like(group_of, -1)
            ).int()
        return stored, means

    return made


def gptq(bits: int, group: int, version: int = 1, order: str = "") -> Callable[..., Made]:
    """GPTQ with zero points; `order` as for `packed`, the groups one after the other if empty."""

    def made(weight: Tensor, random: torch.Generator) -> Made:
        outputs, inputs = weight.shape
        group_of = torch.arange(inputs) // group
        if order == "shuffled":
            group_of = group_of[torch.randperm(inputs, generator=random)]
        groups = inputs // group
        top = 2**bits - 1
        codes = torch.randint(0, top + 1, (inputs, outputs), generator=random)
        zeros = torch.randint(0, top + 1, (groups, outputs), generator=random)
        zeros[0, :4] = torch.tensor([0, 0, top, 0])
        scales = (weight.std() * torch.rand(groups, outputs, generator=random) / top).half()
        means = torch.empty(outputs, inputs, dtype=torch.float16)
        for i in range(inputs):
            g = int(group_of[i])
            means[:, i] = scales[g] * (codes[i] - zeros[g]).half()
        words = _words(zeros.numpy(), bits)
        return {
            "qweight": _words(codes.numpy().T, bits).T.contiguous(),
            "qzeros": words if version == 2 else _less_one(words, bits),
            "scales": scales,
            "g_idx": -torch.ones(inputs).int() if order == "none" else group_of.int(),
        }, means

    return made


def awq(weight: Tensor, random: torch.Generator, group: int = 16) -> Made:
    """AWQ's `gemm` packing."""
    outputs, inputs = weight.shape
    codes = torch.randint(0, 16, (inputs, outputs), generator=random)
    zeros = torch.randint(0, 16, (inputs // group, outputs), generator=random)
    scales = (weight.std() * torch.rand(inputs // group, outputs, generator=random) / 15).half()
    means = torch.empty(outputs, inputs, dtype=torch.float16)
    for i in range(inputs):
        means[:, i] = (codes[i] - zeros[i // group]).half() * scales[i // group]

    def ordered(numbers: Tensor) -> Tensor:
        shuffled = numbers.view(len(numbers), -1, 8)[..., list(_AWQ)].reshape(numbers.shape)
        return _words(shuffled.numpy(), 4)

    return {"qweight": ordered(codes), "qzeros": ordered(zeros), "scales": scales}, means


def mxfp4(shape: tuple[int, ...], random: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """(blocks, scales, meaning) of a random gpt-oss tensor that means [E, inputs, outputs]."""
    experts, inputs, outputs = shape
    blocks = torch.randint(0, 256, (experts, outputs, inputs // 32, 16), generator=random, dtype=torch.uint8)
    scales = torch.randint(115, 124, (experts, outputs, inputs // 32), generator=random, dtype=torch.uint8)
    means = np.empty((experts, inputs, outputs), np.float32)
    for e in range(experts):
        for o in range(outputs):
            for i in range(inputs):
                byte = int(blocks[e, o, i // 32, i % 32 // 2])
                code = byte >> 4 if i % 2 else byte & 15
                value = _FP4[code & 7] * (-1 if code & 8 else 1)
                means[e, i, o] = value * 2.0 ** (int(scales[e, o, i // 32]) - 127)
    return blocks, scales, torch.from_numpy(means)


def _words(codes: NDArray[np.integer[Any]], bits: int) -> Tensor:
    """[R, C] to [R, C * bits / 32] int32, the first number in the lowest bits."""
    rows, columns = codes.shape
    per = 32 // bits
    words = np.zeros((rows, -(-columns // per)), np.uint32)
    for c in range(columns):
        words[:, c // per] |= codes[:, c].astype(np.uint32) << np.uint32(bits * (c % per))
    return torch.from_numpy(words.view(np.int32))


def _less_one(words: Tensor, bits: int) -> Tensor:
    """Each word less one in every place, as GPTQModel writes zero points: 0 borrows from the next."""
    ones = sum(1 << place for place in range(0, 32, bits))
    less = [((word & 0xFFFFFFFF) - ones) & 0xFFFFFFFF for word in words.flatten().tolist()]
    return torch.from_numpy(np.array(less, np.uint32).view(np.int32)).view(words.shape)


def twins(
    plain: Path, out: Path, make: Callable[..., Made], declared: dict[str, Any], skip: str = "lm_head"
) -> tuple[Path, Path]:
    """(quantised, dequantised) checkpoints: every linear layer of `plain` through `make`.

    Embeddings, norms, routers, names with `skip` and rows that are no whole groups stay as they are.
    """
    random = torch.Generator().manual_seed(3)
    stored: dict[str, Tensor] = {}
    meant: dict[str, Tensor] = {}
    for name, tensor in sorted(load_file(plain / "model.safetensors").items()):
        linear = name.endswith("proj.weight") and tensor.dim() == 2 and skip not in name
        linear = linear and (make is fp8 or tensor.shape[1] % 16 == 0)
        if not linear:
            stored[name] = meant[name] = tensor
            continue
        pieces, means = make(tensor.float(), random)
        stored |= {name.removesuffix("weight") + suffix: piece for suffix, piece in pieces.items()}
        meant[name] = means.to(tensor.dtype)
    return _write(plain, out, stored, meant, declared)


def gpt_oss_twins(plain: Path, out: Path) -> tuple[Path, Path]:
    """(MXFP4, dequantised) checkpoints of a gpt-oss."""
    random = torch.Generator().manual_seed(3)
    stored: dict[str, Tensor] = {}
    meant: dict[str, Tensor] = {}
    for name, tensor in sorted(load_file(plain / "model.safetensors").items()):
        if ".experts." in name and tensor.dim() == 3:
            blocks, scales, means = mxfp4(tuple(tensor.shape), random)
            stored |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
            meant[name] = means.to(tensor.dtype)
        else:
            stored[name] = meant[name] = tensor
    return _write(plain, out, stored, meant, {"quant_method": "mxfp4"})


def _write(
    plain: Path, out: Path, stored: dict[str, Tensor], meant: dict[str, Tensor], declared: dict[str, Any]
) -> tuple[Path, Path]:
    folders = out / "quantised", out / "dequantised"
    for folder, tensors in zip(folders, (stored, meant), strict=True):
        folder.mkdir(parents=True)
        for path in plain.iterdir():
            if path.suffix == ".json":
                shutil.copy(path, folder)
        contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(contiguous, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((plain / "config.json").read_text())
    config["quantization_config"] = declared
    (folders[0] / "config.json").write_text(json.dumps(config))
    return folders
