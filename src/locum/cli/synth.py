"""`locum synth`: a checkpoint of a known model's shape with random weights."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Group, Parameter

from locum.cli.flags import number
from locum.cli.output import DEFAULT, Output, OutputOptions
from locum.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from locum.pack import PackResult
    from locum.synth.gguf import GgufPlan
    from locum.synth.names import Config
    from locum.synth.plan import Outline, Plan
    from locum.synth.writer import Written

_WHAT = Group("What is written", sort_key=5)


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class SynthOptions:
    """What `locum synth` was asked to do; fields are named as the flags."""

    output: Annotated[Path, Parameter(name=["--output", "-o"], group=_WHAT, metavar="DIR")]
    """Folder to make. It must not exist, not even as a link; nothing is there before all of it is."""

    layers: Annotated[int | None, number(_WHAT, "N", gte=1)] = None
    """Only so many layers, for what does not fit on the disk. The rest of the shape stays exact."""

    locality: Annotated[float | None, number(_WHAT, "GAMMA", gte=0, lte=8)] = None
    """How much alike the tokens of sampled text choose experts: 0 is uniform routing, with 1 a cache of half
    of the experts has about 85% hits, with 3 nearly all. Left out: what plain random weights give."""

    dtype: Annotated[Literal["bf16", "fp32"], Parameter(group=_WHAT)] = "bf16"
    """Number format of the weights."""

    gguf: Annotated[bool, Parameter(group=_WHAT, show_default=False)] = False
    """Write the same weights as one GGUF file, `model.gguf` in the folder, and nothing else."""

    bits: Annotated[Literal["bf16", "fp16", "fp32", "int8", "int4"] | None, Parameter(group=_WHAT)] = None
    """Write a packed folder, the experts in this precision: what `locum pack --bits` would make of the
    checkpoint, which is not written on the way. With --gguf, how its matrices are stored: int8 is Q8_0, int4
    is Q4_0."""

    seed: Annotated[int, number(_WHAT, "N", gte=0, lt=1 << 63)] = 0
    """Start of the random numbers: the same seed writes the same bytes."""


def _outlined(shape: str) -> tuple["Config", "Outline"]:
    """The config asked for, and who names its tensors: torch is loaded only where transformers has to."""
    from locum.synth.names import tensors
    from locum.synth.shapes import is_exact, resolve_shape

    config = resolve_shape(shape)
    if is_exact(config):
        return config, tensors
    from locum.backbone.outline import completed, outline

    return completed(config), outline


def _say_size(size: int, options: SynthOptions, output: Output) -> None:
    output.note(f"{format_bytes(size)} will be written to {options.output}; more is not needed at any time")


def _packed(plan: "Plan", options: SynthOptions, shape: str, output: Output) -> None:
    """Write the plan as a packed folder."""
    from locum.pack import Packing, PackOptions, planned_source

    assert options.bits is not None
    name = f"synth {shape}, seed {options.seed}"
    with planned_source(plan, options.seed, name) as source:
        with output.working("planning"):
            packing = Packing(source, PackOptions(experts=options.bits))
        _say_size(packing.total, options, output)
        with output.counting("writing", packing.total) as heard:
            packed = packing.write(options.output, lambda done, _: heard(done))
    _say_written(packed, output, parameters=plan.parameters, precision=packed.precision)


def _say_written(written: "PackResult | Written", output: Output, **further: int | str) -> None:
    """The result; `further` is what only this form of it has."""
    output.result(
        {
            "path": str(written.path), "bytes": written.bytes, "expert_bytes": written.expert_bytes,
            **further, "seconds": written.seconds,
        }
    )  # fmt: skip
    rows = [
        *((name, f"{value:,}" if isinstance(value, int) else value) for name, value in further.items()),
        ("weights", f"{format_bytes(written.bytes)}, {format_bytes(written.expert_bytes)} of them experts"),
        ("written", f"in {format_seconds(written.seconds)}"),
    ]
    output.report(rows, str(written.path))


def _as_gguf(plan: "Plan", bits: str | None) -> "GgufPlan":
    from locum.synth.gguf import plan_gguf
    from locum.synth.shapes import is_exact

    if is_exact(plan.config):
        return plan_gguf(plan, bits)
    from locum.backbone.outline import described

    return plan_gguf(plan, bits, described(plan.config))


def synth(shape: str, /, *, options: SynthOptions, output_options: OutputOptions = DEFAULT) -> None:
    """Write a checkpoint of a known model's exact shape, with random weights and a tokenizer.

    Parameters
    ----------
    shape
        The name of a shape, such as `olmoe-1b-7b` (a wrong name lists them all), or a `config.json` or a
        model folder of any family that locum runs.
    """
    with Output(output_options) as output:
        from locum.synth.gguf import write_gguf
        from locum.synth.plan import plan_checkpoint
        from locum.synth.writer import write_plan

        config, outline = _outlined(shape)
        plan = plan_checkpoint(
            config, layers=options.layers, dtype=options.dtype, locality=options.locality, outline=outline
        )
        if options.bits is not None and not options.gguf:
            _packed(plan, options, shape, output)
            return
        file = _as_gguf(plan, options.bits) if options.gguf else None
        size = file.bytes if file else plan.bytes
        _say_size(size, options, output)
        with output.counting("writing", size) as heard:
            if file:
                written = write_gguf(
                    file, options.output, seed=options.seed, progress=lambda done, _: heard(done)
                )
            else:
                written = write_plan(
                    plan, options.output, seed=options.seed, progress=lambda done, _: heard(done)
                )
        _say_written(written, output, parameters=written.parameters, shards=written.shards)
