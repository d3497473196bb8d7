"""`locum run`: generate in the terminal."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter, Token

from locum.cli.flags import MEMORY, RUNNING, SAMPLING, Share, Size, number, whole
from locum.cli.output import DEFAULT, Output, OutputOptions
from locum.errors import UsageError
from locum.files import require_new
from locum.policy import EVICTION
from locum.policy.prefetch import PREFETCH
from locum.policy.registry import parse

_EVICTION = """Which expert leaves the arena when another needs its place. (Belady's choice needs the future,
which only the simulator knows.)"""
_PREFETCH = """Which experts are read before they are asked for. `auto` asks the next layer's own router,
where that works; `next-gate:distance=2` asks those of two layers."""


def _policy(names: Iterable[str], words: str) -> Parameter:
    """One of `names`, with parameters (`name:param=value`) or without; policies judge their own."""
    known = ", ".join(names)

    def judge(_type: object, tokens: Sequence[Token]) -> str:
        text = tokens[0].value
        if parse(text)[0] not in known.split(", "):
            raise UsageError("no such policy", where=tokens[0].keyword, allowed=known, got=text)
        return text

    return Parameter(group=RUNNING, metavar="NAME", converter=judge, help=f"{words} [choices: {known}]")


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """What `locum run` was asked to do; fields are named as the flags. None: the model's own default."""

    model: Annotated[str | None, Parameter(parse=False)] = None
    """Folder in Hugging Face format, GGUF file or hub id; None: the model that ships with locum."""

    prompt: Annotated[str | None, Parameter(parse=False)] = None
    """None: chat."""

    memory: Annotated[int | Literal["auto"], Size] = "auto"
    """Bound of the whole process: runtime, backbone, KV cache, staging, workspace and experts. `auto` is the
    smaller of the cgroup's limit and the available memory, less 10%."""

    expert_memory: Annotated[str | None, Share] = None
    """The expert arena alone, as a size or as a share of the routed experts' bytes such as `25%`. Left
    out, it is what `--memory` leaves."""

    context: Annotated[int | None, number(MEMORY, "TOKENS", gte=1)] = None
    """Tokens to reserve the KV cache for, prompt and answer together. Left out, 4096, or the model's limit if
    that is less."""

    max_tokens: Annotated[int | None, number(SAMPLING, "N", gte=1)] = None
    """Generate at most this many tokens."""

    temperature: Annotated[float | None, number(SAMPLING, "X", gte=0)] = None
    """0 always takes the likeliest token. Left out, as the model's generation_config.json says; so it is with
    the flags down to `--repetition-penalty`."""

    top_p: Annotated[float | None, number(SAMPLING, "P", gt=0, lte=1)] = None
    """Sample from the likeliest tokens that make up this probability."""

    top_k: Annotated[int | None, number(SAMPLING, "N", gte=0)] = None
    """Sample from this many of the likeliest tokens; 0: from all."""

    min_p: Annotated[float | None, number(SAMPLING, "P", gte=0, lte=1)] = None
    """Drop tokens less likely than this share of the likeliest one's probability."""

    repetition_penalty: Annotated[float | None, number(SAMPLING, "X", gt=0)] = None
    """Divide the scores of tokens that have appeared; 1 changes nothing."""

    seed: Annotated[int | None, number(SAMPLING, "N", gte=0, lt=1 << 63)] = None
    """Start of the random numbers; left out, a new one each time, which the result names."""

    stop: Annotated[
        tuple[str, ...],
        Parameter(
            group=SAMPLING,
            metavar="TEXT",
            show_default=False,
            allow_leading_hyphen=True,
            env_var_split=whole,
        ),
    ] = ()
    """Stop before this text would be printed. May be given several times."""

    ignore_eos: Annotated[bool, Parameter(group=SAMPLING, show_default=False)] = False
    """Go on after an end token, up to `--max-tokens`."""

    threads: Annotated[int | Literal["auto"], number(RUNNING, "N", gte=1)] = "auto"
    """Threads that compute. `auto` is all cores, and one while another process keeps a core busy."""

    dtype: Annotated[Literal["auto", "bf16", "fp32"], Parameter(group=RUNNING)] = "auto"
    """Precision to compute in. `auto` is the one the checkpoint is stored in."""

    eviction: Annotated[str, _policy((name for name in EVICTION if name != "belady"), _EVICTION)] = "lru"

    prefetch: Annotated[str, _policy(("auto", *PREFETCH), _PREFETCH)] = "auto"

    mover: Annotated[Literal["auto", "direct", "pagecache"], Parameter(group=RUNNING)] = "auto"
    """How experts are read: by direct I/O, or through the page cache. `auto` is direct I/O where it works."""

    trace: Annotated[Path | None, Parameter(group=RUNNING, metavar="DIR")] = None
    """Record what the routers do into this folder, which must not exist; `locum report` shows it."""

    verify: Annotated[Literal["first", "always", "never"], Parameter(group=RUNNING)] = "first"
    """When an expert of a packed folder is compared with its checksum: the first time it is read, every time,
    or not at all. The rest of the model is read once, and compared unless `never`. Other checkpoints have no
    checksums."""


def run(
    model: str | None = None,
    prompt: str | None = None,
    /,
    *,
    options: RunOptions = RunOptions(),
    output_options: OutputOptions = DEFAULT,
) -> None:
    """Generate text in the terminal, or chat.

    Parameters
    ----------
    model
        A folder in Hugging Face format, a packed folder, a GGUF file or a hub id; left out, the model that
        ships with locum.
    prompt
        The text to go on from, or the question for a model with a chat template; left out, chat.
    """
    with Output(output_options) as output:
        from locum.model.hub import resolve

        # a wrong name should not have to wait for torch
        folder = None if model is None else str(resolve(model))
        if options.trace is not None:
            require_new(options.trace)
        from locum.engine import session

        # Any, because to mypy a frozen class is no `Options`; a test compares the fields
        asked: Any = replace(options, model=folder, prompt=prompt)
        session.run(asked, output)
