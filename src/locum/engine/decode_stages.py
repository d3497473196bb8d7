"""The decoders of the `tokenizers` library as streaming stages. `detokenize` chains them.

A stage takes one piece at a time and returns the pieces that nothing to come can change; `finish` returns
the rest. Before ByteLevel or Fuse a piece is one token, and where tokens are cut matters; behind them a piece
is a part of one text, and it must not matter. `build_stages` knows which decoder may stand where, and returns
None for a chain it cannot follow exactly.
"""

import codecs
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from tokenizers import Regex, decoders


class Stage(Protocol):
    """One streaming step: pieces in, settled pieces out."""

    def feed(self, piece: str) -> Sequence[str]:
        """Take a piece, return what is settled."""
        ...

    def finish(self) -> Sequence[str]:
        """The text has ended: return what was held back."""
        ...


StageFactory = Callable[[], Stage]


class Each:
    """A function of one piece, and perhaps another one for the first piece of all."""

    def __init__(self, rest: Callable[[str], str], first: Callable[[str], str] | None = None) -> None:
        self._rest, self._next = rest, first or rest

    def feed(self, piece: str) -> Sequence[str]:
        """Map one piece."""
        apply, self._next = self._next, self._rest
        return (apply(piece),)

    def finish(self) -> Sequence[str]:
        """Nothing is held back."""
        return ()


class LastDiffers:
    """A suffix becomes a space, but nothing at the end of the text: one token is held back."""

    def __init__(self, suffix: str) -> None:
        self._suffix = suffix
        self._held: str | None = None

    def feed(self, piece: str) -> Sequence[str]:
        """Release the token before this one."""
        held, self._held = self._held, piece
        return () if held is None else (held.replace(self._suffix, " "),)

    def finish(self) -> Sequence[str]:
        """Release the last token, its suffix dropped."""
        return () if self._held is None else (self._held.replace(self._suffix, ""),)


class ByteRuns:
    """Runs of `<0xNN>` tokens: one string if the whole run is UTF-8, else one U+FFFD a byte.

    A run is judged as a whole, so it is held back until a token of another kind ends it.
    """

    _BYTE = re.compile(r"<0x(\+[0-9a-fA-F]|[0-9a-fA-F]{2})>")

    def __init__(self) -> None:
        self._run = bytearray()

    def feed(self, piece: str) -> Sequence[str]:
        """Collect a byte, or end the run."""
        match = self._BYTE.fullmatch(piece)
        if match is None:
            return (*self.finish(), piece)
        self._run.append(int(match[1], 16))
        return ()

    def finish(self) -> Sequence[str]:
        """End the run."""
        run, self._run = bytes(self._run), bytearray()
        try:
            return (run.decode("utf-8"),) if run else ()
        except UnicodeDecodeError:
            return ("\ufffd",) * len(run)


class Bytes:
    """Byte-level tokens as UTF-8. What cannot be part of a character becomes U+FFFD, as in the library."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, piece: str) -> Sequence[str]:
        """Add the token's bytes, return the whole characters."""
        try:
            raw = bytes([BYTE_OF_CHAR[char] for char in piece])
        except KeyError:  # an added token, written as it is
            raw = piece.encode("utf-8")
        return (self._decoder.decode(raw),)

    def finish(self) -> Sequence[str]:
        """An unfinished character becomes one U+FFFD."""
        return (self._decoder.decode(b"", True),)


class TextReplace:
    """`str.replace` on a stream: the end of the text that may be the start of `old` is held back."""

    def __init__(self, old: str, new: str) -> None:
        self._old, self._new, self._held = old, new, ""

    def feed(self, piece: str) -> Sequence[str]:
        """Replace what is complete."""
        *done, rest = (self._held + piece).split(self._old)
        keep = min(len(rest), len(self._old) - 1)
        while not self._old.startswith(rest[len(rest) - keep :]):
            keep -= 1
        settled = len(rest) - keep
        self._held = rest[settled:]
        return ("".join(part + self._new for part in done) + rest[:settled],)

    def finish(self) -> Sequence[str]:
        """Release what never became `old`."""
        return (self._held,)


class TextStrip:
    """Drop up to `start` leading and `stop` trailing `char`s of the text."""

    def __init__(self, char: str, start: int, stop: int) -> None:
        self._char, self._start, self._stop, self._held = char, start, stop, ""

    def feed(self, piece: str) -> Sequence[str]:
        """Drop at the front, hold back at the end."""
        while self._start and piece:
            if piece[0] != self._char:
                self._start = 0
                break
            piece, self._start = piece[1:], self._start - 1
        text = self._held + piece
        tail = len(text) - len(text.rstrip(self._char)) if self._char else 0
        settled = len(text) - min(tail, self._stop)
        self._held = text[settled:]
        return (text[:settled],)

    def finish(self) -> Sequence[str]:
        """What is held back is what the end loses."""
        return ()


def build_stages(spec: dict[str, Any] | None) -> list[StageFactory] | None:
    """Stage factories for a decoder given as its JSON (`None`: tokens are joined by a space).

    Returns None when the chain holds something that cannot be streamed exactly.
    """
    if spec is None:
        return [lambda: Each(lambda token: " " + token, lambda token: token)]
    stages: list[StageFactory] = []
    joined = False
    for part in _flat(spec):
        kind = part.get("type")
        if kind == "Fuse":
            joined = True
            continue
        stage = _text_stage(part) if joined else _token_stage(part)
        if stage is None:
            return None
        stages.append(stage)
        joined = joined or kind == "ByteLevel"
    return stages


def _flat(spec: dict[str, Any]) -> Iterable[dict[str, Any]]:
    if spec.get("type") != "Sequence":
        yield spec
        return
    for part in spec["decoders"]:
        yield from _flat(part)


def _token_stage(part: dict[str, Any]) -> StageFactory | None:
    alone: decoders.Decoder
    match part["type"]:
        case "ByteFallback":
            return ByteRuns
        case "ByteLevel":
            return Bytes
        case "BPEDecoder":
            return lambda: LastDiffers(part["suffix"])
        case "Replace":
            old = part["pattern"]
            pattern = old["String"] if "String" in old else Regex(old["Regex"])
            alone = decoders.Replace(pattern, part["content"])
        case "Strip":
            return lambda: Each(lambda token: _stripped(token, part))
        case "Metaspace":
            alone = decoders.Metaspace(part["replacement"], part["prepend_scheme"], part.get("split", True))
        case "WordPiece":
            alone = decoders.WordPiece(part["prefix"], part["cleanup"])
        case _:
            return None
    # every token by itself, the first one perhaps in its own way: so an empty one goes before the others
    return lambda: Each(lambda token: alone.decode(["", token]), lambda token: alone.decode([token]))


def _text_stage(part: dict[str, Any]) -> StageFactory | None:
    match part["type"]:
        case "Replace" if part["pattern"].get("String"):
            return lambda: TextReplace(part["pattern"]["String"], part["content"])
        case "Strip":
            return lambda: TextStrip(part["content"], part["start"], part["stop"])
        case _:
            return None


def _stripped(text: str, part: dict[str, Any]) -> str:
    stage = TextStrip(part["content"], part["start"], part["stop"])  # the library panics on short tokens
    return "".join(stage.feed(text))


def _byte_of_char() -> dict[str, int]:
    """Byte-level alphabets write printable Latin-1 bytes as they are, the n-th other as chr(256 + n)."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + n): byte for n, byte in enumerate(others)}


BYTE_OF_CHAR = _byte_of_char()
