"""A gate in front of the store's one read function: the test lets each read pass, fail or stop short."""

import errno
import os
import queue
from collections.abc import Callable

import pytest

from locum.store import files

PATIENCE = 20.0
"""Seconds until a test that waits for a thread gives up. Never part of a passing run."""


class Gate:
    """Each read of a mover's thread shows up in `arrived` and then waits for a verdict."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.arrived: queue.Queue[tuple[int, int]] = queue.Queue()
        self.verdicts: queue.Queue[str] = queue.Queue()
        self.real: Callable[[int, memoryview, int], int] = files.raw_read
        patch.setattr(files, "raw_read", self._read)

    def _read(self, descriptor: int, buffer: memoryview, offset: int) -> int:
        self.arrived.put((descriptor, offset))
        verdict = self.verdicts.get(timeout=PATIENCE)
        if verdict == "eio":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        if verdict == "bug":
            raise ZeroDivisionError("a bug in the reader")
        return self.real(descriptor, buffer, offset)

    def next(self) -> int:
        """Wait until a thread stands at the gate; the file offset it wants."""
        return self.arrived.get(timeout=PATIENCE)[1]

    def allow(self, verdict: str = "ok") -> None:
        self.verdicts.put(verdict)
