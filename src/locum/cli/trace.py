"""`locum trace`: record what a model's routers do; import such records, or make them up."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Group, Parameter

from locum.cli.flags import MEMORY, RUNNING, Share, Size, number
from locum.cli.output import DEFAULT, Output, OutputOptions, table
from locum.errors import UsageError
from locum.files import require_new

if TYPE_CHECKING:
    from locum.analyze.claims import Verdict
    from locum.engine.tracing import Prompt
    from locum.trace import Trace
    from locum.trace.importers import Imported

_WHAT = Group("What is recorded", sort_key=5)
_SOURCE = Group("What the source is", sort_key=5)
Kind = Literal["csv", "routed-experts", "sglang-recorder"]
"""The keys of `trace.importers.IMPORTERS`, which are not loaded for a help text."""


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class TraceOptions:
    """What `locum trace` was asked to do; fields are named as the flags."""

    output: Annotated[Path, Parameter(name=["--output", "-o"], group=_WHAT, metavar="DIR")]
    """Folder to make. It must not exist."""

    prompts: Annotated[Path | None, Parameter(group=_WHAT, metavar="FILE")] = None
    """Text to run the model on: JSONL with `text` and `domain` in each line, or a prompt a line. Left out,
    the held-out text that ships with locum, in seven domains."""

    max_tokens: Annotated[int, number(_WHAT, "N", gte=1)] = 64
    """Generate this many tokens after each prompt."""

    prompt_tokens: Annotated[int, number(_WHAT, "N", gte=1)] = 256
    """Take so many tokens of each prompt at most."""

    limit: Annotated[int | None, number(_WHAT, "N", gte=1)] = None
    """Only so many prompts, taken evenly from all of them."""

    predict: Annotated[int, number(_WHAT, "LAYERS", gte=0, lte=8)] = 3
    """Ask the routers of so many layers ahead what they foresee, where this model's can be asked."""

    no_scores: Annotated[bool, Parameter(group=_WHAT, show_default=False)] = False
    """Leave out the best router scores, margin and entropy: a smaller trace."""

    private: Annotated[bool, Parameter(group=_WHAT, show_default=False)] = False
    """Leave out the token ids: the trace does not say what the text was."""

    events: Annotated[bool, Parameter(group=_WHAT, show_default=False)] = False
    """Keep what the experts' memory was told and did, line by line; `locum simulate --as-recorded` holds its
    own decisions against it."""

    seed: Annotated[int, number(_WHAT, "N", gte=0, lt=1 << 63)] = 0
    """Start of the random numbers for sampling."""

    memory: Annotated[int | Literal["auto"], Size] = "auto"
    """Bound of the whole process, as for `locum run`."""

    expert_memory: Annotated[str | None, Share] = None
    """The expert arena alone, as for `locum run`."""

    context: Annotated[int | None, number(MEMORY, "TOKENS", gte=1)] = None
    """Tokens to reserve the KV cache for. Left out, 4096, or the model's limit if that is less."""

    threads: Annotated[int | Literal["auto"], number(RUNNING, "N", gte=1)] = "auto"
    """Threads that compute."""


def trace(
    model: str | None = None, /, *, options: TraceOptions, output_options: OutputOptions = DEFAULT
) -> None:
    """Run a model over prompts and record what its routers do, token by token.

    Parameters
    ----------
    model
        A folder in Hugging Face format, a packed folder, a GGUF file or a hub id; left out, the model that
        ships with locum.
    """
    with Output(output_options) as output:
        from locum.model.hub import resolve
        from locum.model.shipped import shipped_model

        folder = shipped_model() if model is None else resolve(model)
        require_new(options.output)  # what is wrong should not have to wait for torch
        from locum.engine import load
        from locum.engine.tracing import Recording, record

        prompts = _prompts(options)
        asked = Recording(
            max_tokens=options.max_tokens, prompt_tokens=options.prompt_tokens, seed=options.seed,
            distances=options.predict, scores=not options.no_scores, tokens=not options.private,
            events=options.events,
        )  # fmt: skip
        with output.working(f"loading {folder.name}"):
            engine = load(
                folder, memory=options.memory, expert_memory=options.expert_memory,
                context=options.context, threads=options.threads,
            )  # fmt: skip
        with engine, output.counting("recording", len(prompts)) as heard:
            found = record(engine, prompts, options.output, asked, heard)
        _tell(found, output)


def _prompts(options: TraceOptions) -> "list[Prompt]":
    from locum.engine.tracing import Prompt
    from locum.evaluate.texts import read_texts, shipped_texts

    if options.prompts is None:
        found = [Prompt(text.text, text.domain) for text in shipped_texts()]
    elif options.prompts.name.removesuffix(".gz").endswith(".jsonl"):
        found = [Prompt(text.text, text.domain) for text in read_texts(options.prompts)]
    else:
        (text,) = read_texts(options.prompts)
        found = [Prompt(line) for line in text.text.splitlines() if line.strip()]
    if options.limit is None or options.limit >= len(found):
        return found
    return [found[n * len(found) // options.limit] for n in range(options.limit)]


def _tell(trace: "Trace", output: Output, **more: object) -> None:
    meta = trace.meta
    experts, top_k = max(meta.experts), max(meta.top_k)
    output.result(
        {
            "path": str(trace.path), "tokens": trace.rows, "layers": len(meta.experts), "experts": experts,
            "top_k": top_k, "requests": meta.requests, "columns": list(trace.provides), **more,
        }
    )  # fmt: skip
    rows = [
        ("tokens", f"{trace.rows:,} of {meta.requests:,} requests"),
        ("routing", f"{len(meta.experts)} layers, {experts} experts, {top_k} chosen"),
        ("look at it", f"locum report {trace.path} -o report.html"),
    ]
    output.report(rows, str(trace.path))


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOptions:
    """What `locum trace import` was asked to do; fields are named as the flags."""

    output: Annotated[Path, Parameter(name=["--output", "-o"], group=_SOURCE, metavar="DIR")]
    """Folder to make. It must not exist."""

    kind: Annotated[Kind | None, Parameter(name="--from", group=_SOURCE)] = None
    """What the source is; left out, its ending says it: `.csv`; `.jsonl` for answers of vLLM or SGLang that
    hold `routed_experts`; `.pt` for files of SGLang's recorder."""

    name: Annotated[str, Parameter(group=_SOURCE, metavar="MODEL")] = ""
    """The model's name, for the report."""

    moe_layers: Annotated[str | None, Parameter(group=_SOURCE, metavar="3-60")] = None
    """Numbers of the MoE layers. Left out: all whose ids can be a choice."""

    layers: Annotated[int | None, number(_SOURCE, "N", gte=1)] = None
    """Layers of the model, dense ones included: SGLang's answers do not say it."""

    experts: Annotated[int | None, number(_SOURCE, "N", gte=1)] = None
    """Routed experts per layer. Left out: as many as are seen."""

    top_k: Annotated[int | None, number(_SOURCE, "N", gte=1)] = None
    """Experts a token chooses: SGLang's answers do not say it."""

    private: Annotated[bool, Parameter(group=_SOURCE, show_default=False)] = False
    """Leave out the token ids."""


def import_(source: Path, /, *, options: ImportOptions, output_options: OutputOptions = DEFAULT) -> None:
    """Make a trace of what another engine wrote: CSV, answers of vLLM or SGLang, SGLang's recorder files.

    Parameters
    ----------
    source
        The file, or the folder with all ranks' files of a `per_pass` recording.
    """
    with Output(output_options) as output:
        from locum.trace import Trace
        from locum.trace.importers import Hints, read

        require_new(options.output)
        hints = Hints(
            model=options.name, moe_layers=_numbers(options.moe_layers), layers=options.layers,
            experts=options.experts, top_k=options.top_k, tokens=not options.private,
        )  # fmt: skip
        with output.working(f"reading {source}"):
            found = read(source, hints, _load, options.kind)
            _write(options.output, found)
        for note in found.notes:
            output.note(note)
        _tell(Trace(options.output), output)


def _write(folder: Path, found: "Imported") -> None:
    """Write what was imported, whole or not at all: a half would look like a whole one."""
    from locum.trace import TraceWriter

    writer = TraceWriter(folder, found.meta)
    try:
        for rows in found.rows:
            writer.add(rows)
        writer.close()
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _load(path: Path) -> object:
    """torch is loaded only for its own files."""
    from locum.engine.torch_files import load_plain

    return load_plain(path)


def _numbers(text: str | None) -> tuple[int, ...] | None:
    """`3-5,9` as (3, 4, 5, 9). Raises `UsageError`."""
    if text is None:
        return None
    found: list[int] = []
    for part in text.split(","):
        low, dash, high = part.partition("-")
        try:
            found += range(int(low), (int(high) if dash else int(low)) + 1)
        except ValueError as error:
            allowed = "numbers and ranges, such as 3-60"
            raise UsageError(
                "not a list of layers", where="--moe-layers", allowed=allowed, got=text
            ) from error
    return tuple(sorted(set(found)))


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class SynthTraceOptions:
    """What `locum trace synth` was asked to do; fields are named as the flags."""

    output: Annotated[Path, Parameter(name=["--output", "-o"], group=_WHAT, metavar="DIR")]
    """Folder to make. It must not exist."""

    profile: Annotated[str, Parameter(group=_WHAT, metavar="NAME")] = "uniform"
    """What the routing is to be like; a wrong name lists them all."""

    tokens: Annotated[int, number(_WHAT, "N", gte=1)] = 100_000
    """How many tokens."""

    seed: Annotated[int, number(_WHAT, "N", gte=0, lt=1 << 63)] = 0
    """Start of the random numbers: the same seed makes the same trace."""


def synth_(*, options: SynthTraceOptions, output_options: OutputOptions = DEFAULT) -> None:
    """Make up a trace of random routing, to try things on, and say how near it is to published figures."""
    with Output(output_options) as output:
        from locum.analyze.claims import judge
        from locum.trace import Trace, TraceWriter
        from locum.trace.profiles import find
        from locum.trace.synthetic import synthesise, synthetic_meta

        profile = find(options.profile)
        meta = synthetic_meta(options.profile, profile, options.seed)
        with TraceWriter(options.output, meta) as out, output.counting("writing", options.tokens) as heard:
            for rows in synthesise(profile, options.tokens, seed=options.seed):
                out.add(rows)
                heard(out.rows)
        made = Trace(options.output)
        with output.working("measuring"):
            verdicts = judge(made, profile.claims)
        _tell(made, output, claims=[verdict.to_json() for verdict in verdicts])
        _tell_claims(verdicts, output)


def _tell_claims(verdicts: "Sequence[Verdict]", output: Output) -> None:
    from locum.analyze.claims import SAMPLE

    rows = [verdict.words() for verdict in verdicts]
    if rows:
        output.show(table(rows, ["claim", "published", "here", ""], "Beside what was published"))
    if missed := [verdict.claim.name for verdict in verdicts if verdict.met is False]:
        output.warn(f"not as published: {', '.join(missed)}")
    if any(verdict.got is None for verdict in verdicts):
        output.warn(f"too short to be held against what was published: --tokens {SAMPLE} is enough")


def build() -> App:
    """The verb with its two others."""
    app = App(name="trace", usage="Usage: locum trace [MODEL] -o DIR [OPTIONS]", version_flags=[])
    app.default(trace)
    app.command(import_, name="import", usage="Usage: locum trace import SOURCE -o DIR [OPTIONS]")
    app.command(synth_, name="synth", usage="Usage: locum trace synth -o DIR [OPTIONS]")
    return app
