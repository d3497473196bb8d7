"""`locum synth`: a checkpoint of a known model's shape with random weights."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Group, Parameter

from locum.cli.flags import number
from locum.cli.output import DEFAULT, Output, OutputOptions
from locum.units import format_bytes, format_seconds

_WHAT = Group("What is written", sort_key=5)


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class SynthOptions:
    """What `locum synth` was asked to do; fields are named as the flags."""

    output: Annotated[Path, Parameter(name=["--output", "-o"], group=_WHAT, metavar="DIR")]
    """Folder to make. Must not exist; nothing is there before all of it is."""

    layers: Annotated[int | None, number(_WHAT, "N", gte=1)] = None
    """Only so many layers, for what does not fit on the disk. The rest of the shape stays exact."""

    dtype: Annotated[Literal["bf16", "fp32"], Parameter(group=_WHAT)] = "bf16"
    """Number format of the weights."""

    seed: Annotated[int, number(_WHAT, "N", gte=0, lt=1 << 63)] = 0
    """Start of the random numbers: the same seed writes the same bytes."""


def synth(shape: str, /, *, options: SynthOptions, output_options: OutputOptions = DEFAULT) -> None:
    """Write a checkpoint of a known model's exact shape, with random weights and a tokenizer.

    Parameters
    ----------
    shape
        The name of a shape, such as `olmoe-1b-7b` (a wrong name lists them all), or a `config.json` or a
        model folder of one of their families.
    """
    with Output(output_options) as output:
        from locum.synth.shapes import resolve_shape
        from locum.synth.writer import measure_checkpoint, write_checkpoint

        config = resolve_shape(shape)
        size = measure_checkpoint(config, layers=options.layers, dtype=options.dtype)
        output.note(
            f"{format_bytes(size)} will be written to {options.output}; more is not needed at any time"
        )
        with output.counting("writing", size) as heard:
            written = write_checkpoint(
                config,
                options.output,
                layers=options.layers,
                dtype=options.dtype,
                seed=options.seed,
                progress=lambda done, _: heard(done),
            )
        output.result(
            {
                "path": str(written.path), "bytes": written.bytes, "expert_bytes": written.expert_bytes,
                "parameters": written.parameters, "shards": written.shards, "seconds": written.seconds,
            }
        )  # fmt: skip
        rows = [
            ("parameters", f"{written.parameters:,}"),
            (
                "weights",
                f"{format_bytes(written.bytes)}, {format_bytes(written.expert_bytes)} of them experts",
            ),
            ("files", f"{written.shards}, in {format_seconds(written.seconds)}"),
        ]
        output.report(rows, str(written.path))
