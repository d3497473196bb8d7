"""`locum run`: one answer or a chat in the terminal, and the block that says what it cost."""

import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from locum.engine.engine import Engine, load
from locum.engine.generation import Generation
from locum.engine.outcome import Outcome, measured_ceiling, usable_disk_rate
from locum.engine.recording import recording
from locum.errors import LocumError
from locum.machine.measuring import measure
from locum.machine.profile import MachineProfile, load_cached
from locum.model.hub import resolve
from locum.model.shipped import shipped_model
from locum.units import format_bytes, format_rate


class Screen(Protocol):
    """Where words go: `locum.cli.output.Output` in real life."""

    json: bool
    quiet: bool

    def text(self, piece: str) -> None:
        """A piece of the answer."""

    def note(self, message: str) -> None:
        """A line about what is going on."""

    def block(self, rows: Sequence[tuple[str, str]], title: str) -> None:
        """A small table beside the result."""

    def result(self, document: dict[str, object]) -> None:
        """The result for programs."""

    def working(self, label: str) -> Any:
        """A context manager around long work."""


class Options(Protocol):
    """The flags of `locum run`, see `locum.cli.run.RunOptions`."""

    model: str | None
    prompt: str | None
    memory: int | str
    expert_memory: str | None
    context: int | None
    threads: int | str
    dtype: str
    eviction: str
    prefetch: str
    mover: str
    trace: Path | None
    verify: str
    max_tokens: int | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    repetition_penalty: float | None
    seed: int | None
    stop: tuple[str, ...]
    ignore_eos: bool


_CHOICES = (
    "max_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "seed",
)


def run(options: Options, screen: Screen) -> None:
    """Carry out `locum run`. Raises `LocumError`s as `load` and `Engine.stream` do."""
    path = resolve(options.model) if options.model is not None else shipped_model()
    profile = known_profile(path, screen)
    with screen.working(f"loading {path.name}"):
        engine = load(
            path,
            memory=options.memory,
            expert_memory=options.expert_memory,
            context=options.context,
            threads=options.threads,
            dtype=options.dtype,
            eviction=options.eviction,
            prefetch=options.prefetch,
            mover=options.mover,
            verify=options.verify,
        )
    # the trace is closed before the engine, whatever ends the session
    with engine, _recorded(engine, options.trace), _interruptible(engine):
        introduce(engine, profile, screen)
        session = _Session(engine, profile, screen, choices(options))
        prompt = options.prompt
        if prompt is None and not sys.stdin.isatty():
            prompt = sys.stdin.read()
        if prompt is not None:
            session.answer(prompt)
        else:
            session.chat()


def known_profile(path: Path, screen: Screen) -> MachineProfile:
    """This machine's rates, measured now if they never were: in another process, whose memory is not ours.

    The quick figures, which take 3 s; the rest of a profile, which `locum doctor` makes, is used when there.
    """
    profile = load_cached(path)
    folder = path if path.is_dir() else path.parent  # of a GGUF
    if profile is None:
        with screen.working("measuring this machine's disk and memory (once)"):
            command = [sys.executable, "-m", "locum.machine", str(folder)]
            subprocess.run(command, check=False, capture_output=True)  # noqa: S603 - our own module
            profile = load_cached(path) or measure(folder)
    return profile


def choices(options: Options) -> dict[str, Any]:
    """The sampling flags that were given."""
    given = {name: getattr(options, name) for name in _CHOICES}
    if options.stop:
        given["stop"] = options.stop
    if options.ignore_eos:
        given["ignore_eos"] = True
    return {name: value for name, value in given.items() if value is not None}


def introduce(engine: Engine, profile: MachineProfile, screen: Screen) -> None:
    """What this disk and memory allow, and how the memory is split."""
    split = engine.plan.split
    screen.note(f"memory {format_bytes(split.total)} = {split.text()}")
    limits = ", ".join(
        f"{limit.tokens_per_s:.2f} at {limit.hit_rate:.0%}"
        for limit in (measured_ceiling(engine.spec, profile, rate) for rate in (0.0, 0.5, 0.9))
    )
    screen.note(
        f"this disk ({format_rate(usable_disk_rate(engine.spec, profile))}) and memory "
        f"({format_rate(profile.memory_bytes_s)}) allow tokens/s: {limits} hits"
    )


@dataclass
class _Session:
    """The engine at work for one terminal."""

    engine: Engine
    profile: MachineProfile
    screen: Screen
    choices: dict[str, Any]

    def answer(self, prompt: str) -> None:
        """One prompt, one answer, one account."""
        chat = self.engine.tokenizer.has_chat_template
        generation = self._stream([{"role": "user", "content": prompt}] if chat else prompt)
        self.screen.text("\n")
        outcome = Outcome(self.engine, generation, self.profile)
        self.screen.block(outcome.rows(), "what it took")
        self.screen.result(outcome.to_json())
        if generation.finish == "interrupted":
            raise KeyboardInterrupt

    def chat(self) -> None:
        """Read lines, answer each, remember the conversation. Ends with /exit or the end of input."""
        if not self.engine.tokenizer.has_chat_template:
            self.screen.note("this model has no chat template: each line is a text to go on from")
        self.screen.note("/exit ends, /clear forgets the conversation, Ctrl-C stops an answer")
        messages: list[dict[str, str]] = []
        while (line := _read_line()) is not None and line.strip() != "/exit":
            if line.strip() == "/clear":
                messages.clear()
                continue
            if line.strip():
                self._turn(messages, line)

    def _turn(self, messages: list[dict[str, str]], line: str) -> None:
        chat = self.engine.tokenizer.has_chat_template
        messages.append({"role": "user", "content": line})
        try:
            generation = self._stream(messages if chat else line, keep=chat)
        except LocumError as error:
            messages.pop()
            self.screen.note(str(error))
            return
        self.screen.text("\n")
        messages.append({"role": "assistant", "content": generation.text})
        self.screen.note(Outcome(self.engine, generation, self.profile).line())

    def _stream(self, prompt: Any, *, keep: bool = False) -> Generation:
        stream = self.engine.stream(prompt, keep=keep, **self.choices)
        try:
            for piece in stream:
                self.screen.text(piece)
        except BaseException:
            self.screen.text("\n")
            raise
        assert stream.result is not None
        return stream.result


def _read_line() -> str | None:
    try:
        return input("> ")
    except EOFError:
        return None


def _recorded(engine: Engine, folder: Path | None) -> AbstractContextManager[object]:
    return nullcontext() if folder is None else recording(engine, folder)


@contextmanager
def _interruptible(engine: Engine) -> Iterator[None]:
    """Ctrl-C stops the answer before its next step; a second one, or one without an answer, stops
    everything.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        if engine.interrupted or not engine.busy:
            raise KeyboardInterrupt
        engine.interrupt()

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
