"""`locum.load()` and what it gives: a model that generates inside a memory budget."""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import torch
from transformers import PreTrainedModel

from locum.backbone.experts import experts_modules, way_of
from locum.backbone.family import model_class, read_config
from locum.backbone.index import expert_index
from locum.backbone.linears import attach_linears
from locum.backbone.load import load_backbone, loading_bytes, resident_bytes
from locum.backbone.routers import find_routers
from locum.backbone.runtime import attach
from locum.engine.cache import request_cache
from locum.engine.defaults import Defaults, read_defaults
from locum.engine.generation import Generation, Job, Stream
from locum.engine.memory import Attention, MemoryPlan, MemoryRequest, in_dtype, plan_memory, replan
from locum.engine.residents import Residents, ResidentsOptions
from locum.engine.sampling import SamplingParams
from locum.engine.steps import Context
from locum.engine.threads import ThreadGovernor, parse_threads
from locum.engine.tokenizer import Tokenizer, load_tokenizer
from locum.errors import LocumError, PromptError, UsageError
from locum.kernels.alignment import FILE_ALIGN, needed_alignment
from locum.kernels.products import Products
from locum.kernels.stored import StoredParameter, holds, torch_dtype
from locum.machine.limits import cpu_count
from locum.machine.profile import cache_folder
from locum.model.checkpoint import Checkpoint
from locum.model.hub import resolve
from locum.model.spec import MoESpec
from locum.native import load as load_native
from locum.store.checks import Verify
from locum.store.index import ExpertIndex
from locum.store.movers import Kind

_LOG = logging.getLogger("locum")


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """Everything `load` takes beside the model; see there."""

    memory: str | int | None = None
    expert_memory: str | int | None = None
    context: int | None = None
    dtype: str = "auto"
    threads: str | int = "auto"
    eviction: str = "lru"
    prefetch: str = "auto"
    mover: Kind = "auto"
    verify: Verify = "first"
    prefill_chunk: int | None = None


class Engine:
    """A loaded model. Use as a context manager, or `close()` it.

    `model` is the transformers model itself: its own `generate`, or lm-eval, run on the same experts. One
    thread at a time may use an engine.
    """

    def __init__(
        self,
        *,
        path: Path,
        spec: MoESpec,
        model: PreTrainedModel,
        residents: Residents,
        tokenizer: Tokenizer,
        defaults: Defaults,
        plan: MemoryPlan,
        governor: ThreadGovernor,
        products: Products,
        config_hash: str,
        lossless: bool,
    ) -> None:
        self.lossless = lossless
        self.path, self.spec, self.model, self.config_hash = path, spec, model, config_hash
        self.tokenizer, self.defaults, self.plan = tokenizer, defaults, plan
        self.residents = residents
        self._governor = governor
        self.products = products
        experts = [len(layer.experts) for layer in residents.index.layers]
        self._closing = ExitStack()  # each step is taken even if another fails
        self._closing.callback(residents.close)
        self._closing.callback(attach_linears(model, products, find_routers(model)))
        self._closing.callback(attach(model, residents, experts, products.linear))
        self._requests = 0
        self._running: Stream | None = None
        self._kept: tuple[tuple[int, ...], Context] | None = None
        self._stop = False
        self._closed = False

    def generate(
        self, prompt: str | Sequence[int] | Sequence[Mapping[str, Any]], **choices: Any
    ) -> Generation:
        """Generate to the end; see `stream`."""
        stream = self.stream(prompt, **choices)
        for _ in stream:
            pass
        assert stream.result is not None
        return stream.result

    def stream(
        self,
        prompt: str | Sequence[int] | Sequence[Mapping[str, Any]],
        *,
        progress: Callable[[int, int], None] | None = None,
        keep: bool = False,
        **choices: Any,
    ) -> Stream:
        """Start a request and return its text as it comes.

        `prompt`: text to go on from, token ids, or a chat as `[{"role": ..., "content": ...}]`. `choices` are
        fields of `SamplingParams`; what is left out is as the model's generation_config.json says. `progress`
        hears (tokens done, tokens) of the prompt. `keep` remembers what the model has seen, for a next
        prompt that begins with this one and its answer, as in a chat. Raises `PromptError` for a prompt
        that is empty or does not fit the context, `UsageError` for a bad choice or while another stream of
        this engine is open.
        """
        self._require_idle()
        tokens = self.encode(prompt)
        params = self._params(len(tokens), choices)
        self._stop = False
        number, self._requests = self._requests, self._requests + 1
        job = Job(
            model=self.model,
            prompt=tokens,
            context=self._context(tokens),
            params=params,
            end_tokens=self.defaults.end_tokens,
            detokenizer=self.tokenizer.detokenizer(),
            counts=self.residents.counts,
            stopped=lambda: self._stop,
            find_nan=self.residents.find_nan,
            progress=progress,
            threads=self._governor.settle(),
            contended=self._governor.contended,
            lossless=self.lossless,
            chunk=self.plan.chunk,
        )
        self.residents.request(number, True)

        def finished() -> None:
            self._running = None
            if keep:
                self._kept = ((*job.prompt, *job.tokens), job.context)
            if not self._closed:
                self.residents.request(number, False)

        self._running = Stream(job, finished)
        return self._running

    def _context(self, tokens: Sequence[int]) -> Context:
        """A fresh context, or the kept one when `tokens` go on from exactly what it has seen."""
        kept, self._kept = self._kept, None
        if kept is not None:
            seen, context = kept
            if 0 < context.past < len(tokens) and tuple(tokens[: context.past]) == seen[: context.past]:
                return context
        return Context(request_cache(self.model.config))

    def encode(self, prompt: str | Sequence[int] | Sequence[Mapping[str, Any]]) -> list[int]:
        """The token ids of a prompt; a chat goes through the model's template. Raises `PromptError`."""
        if not isinstance(prompt, str) and prompt and isinstance(prompt[0], Mapping):
            return self.tokenizer.encode_chat(cast("Sequence[Mapping[str, Any]]", prompt))
        return self.tokenizer.encode(cast("str | Sequence[int]", prompt))

    def interrupt(self) -> None:
        """Ask the running request to stop before its next step. Safe from a signal handler."""
        self._stop = True

    @property
    def busy(self) -> bool:
        """True while a stream is open."""
        return self._running is not None

    @property
    def interrupted(self) -> bool:
        """True once `interrupt` was called for the running request."""
        return self._stop

    @property
    def memory_limit(self) -> int:
        """Bytes the whole process may take."""
        return self.plan.limit

    @property
    def arena_limit(self) -> int:
        """Bytes the expert arena may take."""
        return self.residents.split.budget

    @property
    def arena_bytes(self) -> int:
        """Bytes the expert arena takes now."""
        return self.residents.arena.committed_bytes

    def close(self) -> None:
        """Stop, free the arena and close the files. Idempotent; the model's experts raise afterwards."""
        if self._closed:
            return
        if self._running is not None:
            self._running.close()
        self._closed = True
        self._closing.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _require_idle(self) -> None:
        if self._closed:
            raise LocumError("the engine is closed", todo="Load the model again")
        if self._running is not None and not self._running.started:
            self._running.close()  # thrown away before its first piece
        if self._running is not None:
            raise UsageError(
                "another stream of this engine is still open",
                todo="Finish it, or close() it, before the next",
            )

    def _params(self, prompt_tokens: int, choices: Mapping[str, Any]) -> SamplingParams:
        room = self.plan.context - prompt_tokens
        if room < 1:
            raise PromptError(
                "the prompt is longer than the context",
                allowed=f"at most {self.plan.context - 1} tokens",
                got=f"{prompt_tokens} tokens",
                todo=f"Shorten it, or load with more --context (at most {self.spec.context_length})",
            )
        params = self.defaults.params(**choices)
        if choices.get("max_tokens") is not None and params.max_tokens > room:
            _LOG.warning("the context has room for %d tokens, not %d", room, params.max_tokens)
        return replace(params, max_tokens=min(params.max_tokens, room))


def load(
    model: str | Path,
    *,
    memory: str | int | None = None,
    progress: Callable[[str], None] | None = None,
    residents_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> Engine:
    """Load a model into a memory budget.

    `model`: a folder in Hugging Face format, a packed folder, a GGUF file, or a hub id. `memory` bounds the
    whole process (`"8GiB"`, bytes, or None for the smaller of the cgroup's limit and the available memory,
    less 10%). Further options: `expert_memory` (the arena alone, a size or a share such as `"25%"`),
    `context` (tokens to reserve the KV cache for), `dtype` (`auto`, `bf16`, `fp32`), `threads` (a number or
    `auto`), `eviction`, `prefetch`, `mover`, `verify` (packed folders: `first`, `always`, `never`),
    `prefill_chunk`. `progress` hears what is being done.

    Raises `ModelError` for a checkpoint that cannot be run, `BudgetError` when the memory is below the
    minimum.
    """
    asked = LoadOptions(memory=memory, **options)
    return _load(resolve(model), asked, progress or (lambda what: None), dict(residents_options or {}))


_DTYPES = {"auto": None, "bf16": torch.bfloat16, "fp32": torch.float32}


def expert_alignment(index: ExpertIndex, model: PreTrainedModel, threads: Sequence[int]) -> int:
    """The alignment in bytes at which this model's experts give the bits that aligned weights give."""
    views = [view for layer in index.layers for view in layer.tensors]
    if not any(StoredParameter(view).in_place(model.dtype) for view in views):
        return FILE_ALIGN  # they are made for each use, in memory of torch's own
    _, module = next(experts_modules(model))
    # experts with a way of their own may multiply from either side
    sides = {bool(module.is_transposed)} if way_of(module).forward is None else {False, True}
    shapes = [view.shape for view in views]
    return max(needed_alignment(shapes, model.dtype, transposed=side, threads=threads) for side in sides)


def expert_products(index: ExpertIndex, model: PreTrainedModel, threads: Sequence[int]) -> Products:
    """Products for these numbers of threads that have tried this model's experts."""
    products = Products(load_native(), threads)
    _, module = next(experts_modules(model))
    if not module.is_transposed:
        for layer in index.layers:
            for view in layer.tensors:
                products.try_shape(view.shape, model.dtype)
    return products


def made_bytes(index: ExpertIndex, dtype: torch.dtype) -> int:
    """The most memory that a parameter of an expert takes where it is made at each use."""
    views = {view for layer in index.layers for view in layer.tensors}
    return max(StoredParameter(view).made_bytes(dtype) for view in views)


def _load(path: Path, asked: LoadOptions, tell: Callable[[str], None], extra: dict[str, Any]) -> Engine:
    if asked.dtype not in _DTYPES:
        raise UsageError("no such dtype", allowed=", ".join(_DTYPES), got=repr(asked.dtype))
    governor = ThreadGovernor(parse_threads(asked.threads), cpu_count())
    tell("reading the checkpoint's headers")
    checkpoint = Checkpoint.open(path)
    spec = MoESpec.of(checkpoint).require_runnable()
    lossless = checkpoint.packed is None or checkpoint.packed.lossless
    if (dtype := _DTYPES[asked.dtype]) is not None:
        lossless = lossless and holds(dtype, torch_dtype(spec.dtype))
        spec = in_dtype(spec, str(dtype).removeprefix("torch."))
    tokenizer = load_tokenizer(path, vocab_size=spec.vocab_size)
    defaults = read_defaults(path, vocab_size=spec.vocab_size, tokenizer_eos=tokenizer.eos)
    for warning in defaults.warnings:
        _LOG.warning("%s", warning)
    config = read_config(checkpoint)
    attention = Attention.of(config, eager=not model_class(config)._supports_sdpa)
    request = MemoryRequest(asked.memory, asked.expert_memory, asked.context)
    tell("indexing the experts")
    index = expert_index(checkpoint, cache_folder() / "index" / f"{checkpoint.identity[:24]}.json")
    computed = torch_dtype(spec.dtype)
    spec = replace(spec, backbone_resident_bytes=resident_bytes(checkpoint, computed))
    plan = plan_memory(
        spec,
        attention,
        request,
        made_bytes=made_bytes(index, computed),
        loading_bytes=loading_bytes(checkpoint, computed),
    )
    tell("loading the backbone")
    model = load_backbone(checkpoint, dtype, asked.verify)
    plan = replan(spec, plan, request)
    if asked.prefill_chunk is not None:
        plan = replace(plan, chunk=asked.prefill_chunk)
    threads = (1, governor.asked or governor.cores)
    products = expert_products(index, model, threads)
    options = ResidentsOptions(
        arena_bytes=plan.split.experts,
        align=expert_alignment(index, model, threads),
        eviction=asked.eviction,
        prefetch=asked.prefetch,
        mover=asked.mover,
        verify=asked.verify,
        **extra,
    )
    residents = Residents(index, model, max(spec.top_k), options)
    return Engine(
        path=path,
        spec=spec,
        model=model,
        residents=residents,
        tokenizer=tokenizer,
        defaults=defaults,
        plan=plan,
        governor=governor,
        products=products,
        config_hash=checkpoint.config_hash,
        lossless=lossless,
    )
