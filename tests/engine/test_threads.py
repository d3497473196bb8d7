"""How many threads compute, with a probe that says what we want."""

import logging
from collections.abc import Iterator

import pytest
import torch

from locum.engine.threads import CONTENDED_SECONDS, ThreadGovernor, parse_threads, probe_seconds
from locum.errors import UsageError

QUIET, BUSY = CONTENDED_SECONDS / 20, CONTENDED_SECONDS * 2


@pytest.fixture(autouse=True)
def restore() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("text", "count"), [("auto", None), ("3", 3), (2, 2)])
def test_what_can_be_asked(text: str | int, count: int | None) -> None:
    assert parse_threads(text) == count


@pytest.mark.parametrize("text", ["", "none", "0", "-1", "1.5", 0])
def test_what_cannot(text: str | int) -> None:
    with pytest.raises(UsageError, match="threads"):
        parse_threads(text)


def test_auto_drops_to_one_while_contended_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    takes = iter([QUIET, BUSY, BUSY, QUIET, BUSY])
    governor = ThreadGovernor(None, 2, lambda: next(takes))
    seen = []
    with caplog.at_level(logging.WARNING, logger="locum"):
        for _ in range(5):
            seen.append((governor.settle(), governor.contended, len(caplog.records)))
            assert torch.get_num_threads() == seen[-1][0]
    assert seen == [(2, False, 0), (1, True, 1), (1, True, 1), (2, False, 1), (1, True, 2)]


def test_a_number_is_kept_and_only_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    governor = ThreadGovernor(2, 8, lambda: BUSY)
    with caplog.at_level(logging.WARNING, logger="locum"):
        assert governor.settle() == 2
        assert governor.settle() == 2
    assert governor.contended
    assert torch.get_num_threads() == 2
    assert len(caplog.records) == 1
    assert "--threads" in caplog.text


def test_one_thread_needs_no_probe() -> None:
    def never() -> float:
        raise AssertionError("one thread waits for nobody")

    assert ThreadGovernor(1, 8, never).settle() == 1
    assert ThreadGovernor(None, 1, never).settle() == 1


def test_the_probe_measures_a_real_parallel_call() -> None:
    torch.set_num_threads(2)
    assert 0 < probe_seconds() < 1
