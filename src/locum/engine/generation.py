"""One request from prompt to text: the loop, its stream and its account."""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from locum.engine.account import ExpertCounts
from locum.engine.detokenize import Detokenizer
from locum.engine.sampling import Sampler, SamplingParams
from locum.engine.steps import PREFILL_CHUNK, Context, Part, forward, prefill_chunks
from locum.engine.stops import StopMatcher
from locum.errors import NumericsError


@dataclass(frozen=True)
class Generation:
    """The outcome of one request.

    `finish` is `stop` (an end token or a stop string), `length`, or `interrupted`. `ttft_s` seconds to the
    first token; `decode_tok_s` tokens per second after it, None for fewer than two tokens. `prefill` and
    `decode` are the experts' accounts. `threads` computed it, while `contended` said that another process
    kept a core busy; `seed` repeats what was drawn (None: nothing was); `lossless` says that nothing
    changed the model's numbers, neither packing nor the dtype asked for.
    """

    text: str
    tokens: tuple[int, ...]
    prompt_tokens: int
    finish: str
    ttft_s: float | None
    decode_s: float
    prefill: ExpertCounts
    decode: ExpertCounts
    threads: int
    contended: bool
    seed: int | None
    lossless: bool

    @property
    def bytes_read(self) -> int:
        """Bytes read from disk, prompt and answer together."""
        return self.prefill.bytes_read + self.decode.bytes_read

    @property
    def decode_tok_s(self) -> float | None:
        """Tokens per second of the decode steps (the first token belongs to prefill)."""
        steps = len(self.tokens) - 1
        return steps / self.decode_s if steps > 0 and self.decode_s > 0 else None


@dataclass
class Job:
    """Everything one request needs to run.

    `counts` reads the engine's running account of the experts, `stopped` says whether somebody asked to stop
    (looked at before each step), `find_nan` which expert is to blame for NaN logits, `progress(done, total)`
    hears of prompt tokens.
    """

    model: Any
    prompt: list[int]
    context: Context
    params: SamplingParams
    end_tokens: frozenset[int]
    detokenizer: Detokenizer
    counts: Callable[[], ExpertCounts]
    stopped: Callable[[], bool]
    find_nan: Callable[[], str | None]
    progress: Callable[[int, int], None] | None = None
    threads: int = 1
    contended: bool = False
    lossless: bool = True
    chunk: int = PREFILL_CHUNK
    tokens: list[int] = field(default_factory=list)
    seed: int | None = None


class Stream(Iterator[str]):
    """Text as it comes. After the last piece, `result` is the `Generation`.

    When a step fails the error is raised from `next()`; `result` then holds the text so far, marked
    `interrupted`.
    """

    def __init__(self, job: Job, finished: Callable[[], None]) -> None:
        self.result: Generation | None = None
        self.started = False
        """True once the first piece was asked for."""
        self._job, self._finished = job, finished
        self._account = _Account(job)
        self._emitted: list[str] = []
        self._pieces = self._run()

    def __next__(self) -> str:
        self.started = True
        return next(self._pieces)

    def close(self) -> None:
        """Stop here: the request ends and `result` is set. Idempotent."""
        self._pieces.close()
        self._end()

    def _run(self) -> Generator[str]:
        try:
            for piece in _generate(self._job, self._account):
                self._emitted.append(piece)
                if piece:
                    yield piece
        finally:  # also for an error and for Ctrl-C: the text so far is never lost
            self._end()

    def _end(self) -> None:
        if self.result is None:
            self.result = self._account.close("".join(self._emitted))
            self._finished()


class _Account:
    """Clocks and expert counts at the borders between prefill and decode."""

    def __init__(self, job: Job) -> None:
        self.job, self.finish = job, "interrupted"
        self.begin, self.first, self.last = time.perf_counter(), 0.0, 0.0
        self.at_begin = self.at_first = self.at_last = job.counts()

    def token(self) -> None:
        """A step ended with a token."""
        self.last, self.at_last = time.perf_counter(), self.job.counts()
        if not self.first:
            self.first, self.at_first = self.last, self.at_last

    def close(self, text: str) -> Generation:
        job = self.job
        prefilled = self.at_first if self.first else job.counts()
        return Generation(
            text=text,
            tokens=tuple(job.tokens),
            prompt_tokens=len(job.prompt),
            finish=self.finish,
            ttft_s=self.first - self.begin if self.first else None,
            decode_s=self.last - self.first,
            prefill=prefilled - self.at_begin,
            decode=self.at_last - self.at_first,
            threads=job.threads,
            contended=job.contended,
            seed=None if job.params.greedy else job.seed,
            lossless=job.lossless,
        )


def _generate(job: Job, account: _Account) -> Iterator[str]:
    """Pieces of text, some empty."""
    sampler = Sampler(job.params, job.prompt)
    job.seed = sampler.seed
    stops = StopMatcher(job.params.stop)
    pending = job.prompt[job.context.past :]
    while len(job.tokens) < job.params.max_tokens:
        logits_V = _step(job, pending)
        if logits_V is None:
            break
        token = sampler.sample(logits_V)
        job.tokens.append(token)
        account.token()
        if token in job.end_tokens and not job.params.ignore_eos:
            account.finish = "stop"
            break
        text, stopped = stops.push(job.detokenizer.push(token))
        yield text
        if stopped:
            account.finish = "stop"
            return
        pending = [token]
    else:
        account.finish = "length"
    text, _ = stops.push(job.detokenizer.flush())
    yield text + stops.flush()
    if stops.stopped:
        account.finish = "stop"


def _step(job: Job, pending: Sequence[int]) -> Tensor | None:
    """Logits [V] after `pending`, in one step or, for a prompt, in chunks; None when asked to stop before."""
    logits_V = None
    prefilling = not job.tokens
    for chunk in prefill_chunks(pending, job.context.past, job.chunk) if prefilling else [pending]:
        if job.stopped():
            return None
        try:
            logits_V = forward(job.model, [Part(job.context, chunk)])[0]
        except NumericsError as error:
            if (culprit := job.find_nan()) is None:
                raise
            raise NumericsError(
                "NaN among an expert's weights",
                where=culprit,
                todo="The checkpoint is damaged: download it again",
            ) from error
        if prefilling and job.progress is not None:
            job.progress(job.context.past, len(job.prompt))
    return logits_V
