"""`locum pack`: a model as a packed folder, whose experts are each one read."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Group, Parameter

from locum.cli.flags import number
from locum.cli.output import DEFAULT, Output, OutputOptions
from locum.files import require_new
from locum.units import format_bytes, format_seconds

_WHAT = Group("What is written", sort_key=5)
Precision = Literal["stored", "bf16", "fp16", "fp32", "int8", "int4"]


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class PackFlags:
    """What `locum pack` was asked to do; fields are named as the flags."""

    output: Annotated[Path, Parameter(name=["--output", "-o"], group=_WHAT, metavar="DIR")]
    """Folder to make. It must not exist, not even as a link; nothing is there before all of it is."""

    bits: Annotated[Precision, Parameter(group=_WHAT)] = "stored"
    """Precision of the experts. `stored` changes no bit of the model, quantised or not; `int8` and `int4`
    round to nearest in groups and lose something."""

    backbone: Annotated[Precision | None, Parameter(group=_WHAT)] = None
    """Precision of everything else. Left out, as it is, or the floats that `--bits` names. `int8` and `int4`
    shrink the linear layers in the file; in memory they are floats again."""

    group: Annotated[int, number(_WHAT, "N", gte=8, lte=1024)] = 64
    """With `int8` and `int4`, so many weights beside each other in a row of a matrix share one scale: a power
    of two. Fewer lose less and take more room, 16 bits for each scale. Where N does not divide a row, half as
    many share one, and so on; a row that 8 does not divide stays as it is."""


def pack(model: str, /, *, options: PackFlags, output_options: OutputOptions = DEFAULT) -> None:
    """Write a model as a packed folder: each expert is one aligned read and has a checksum.

    The folder runs by itself wherever a model is asked for.

    Parameters
    ----------
    model
        A folder in Hugging Face format, quantised or not, a packed folder, a GGUF file or a hub id.
    """
    with Output(output_options) as output:
        from locum.model.hub import resolve

        folder = resolve(model)
        require_new(options.output)  # what is wrong should not have to wait for torch
        from locum.pack import Packing, PackOptions

        asked = PackOptions(experts=options.bits, backbone=options.backbone, group=options.group)
        with output.working(f"looking at {folder.name}"):
            packing = Packing(folder, asked)
        size = format_bytes(packing.total)
        output.note(f"{size} will be written to {options.output}; more is not needed at any time")
        with output.counting("packing", packing.total) as heard:
            packed = packing.write(options.output, lambda done, _: heard(done))
        output.result(
            {
                "path": str(packed.path), "bytes": packed.bytes, "expert_bytes": packed.expert_bytes,
                "experts": packed.experts, "precision": packed.precision, "backbone": packed.backbone,
                "lossless": packed.lossless, "seconds": packed.seconds,
            }
        )  # fmt: skip
        rows = [
            ("experts", f"{packed.experts:,} in {packed.precision}, {format_bytes(packed.expert_bytes)}"),
            ("in all", f"{format_bytes(packed.bytes)}, in {format_seconds(packed.seconds)}"),
        ]
        output.report(rows, str(packed.path))
