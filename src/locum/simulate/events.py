"""Hold the Ledger against the events of a recording: told the same, it must do the same."""

from collections.abc import Sequence
from itertools import chain

from locum.errors import TraceError
from locum.policy.prefetch import create_for as create_prefetch
from locum.residency.decision import Decision
from locum.residency.ledger import Ledger
from locum.simulate.replay import Setting, key_space, ledger_of, take_up
from locum.trace import Trace
from locum.trace.events import EventRow


def replay_events(trace: Trace) -> int:
    """Replay the events of a recording, budgets that changed on the way included. Returns how many there are.

    Raises `TraceError` where the trace has none, or at the first that comes out differently: then the trace
    was changed, or another version of locum decides otherwise.
    """
    snapshot = trace.snapshot
    if snapshot is None or not trace.has_events:
        raise TraceError("the trace holds no events", where=trace.path, todo="Record it with --events")
    setting = Setting.of(snapshot)
    top_k = max(trace.meta.top_k)
    prefetcher = create_prefetch(setting.prefetch, top_k, **setting.prefetch_params)
    ledger, _ = ledger_of(key_space(trace.meta), setting, top_k * prefetcher.distance)
    take_up(snapshot, ledger)
    count = 0
    for count, event in enumerate(trace.events(), 1):
        did = _told(ledger, event)
        if did is not None and [list(part) for part in did] != [list(part) for part in event.outcome]:
            raise TraceError(
                "the Ledger decides differently from the recording", where=f"{trace.path}, event {count}",
                allowed=_words(event.outcome), got=_words(did),
            )  # fmt: skip
    return count


def _told(ledger: Ledger, event: EventRow) -> Decision | None:
    """Tell the Ledger what the event says. Returns what it did, None where it does nothing."""
    numbers = event.numbers
    match event.kind:
        case "request":
            ledger.request(numbers[0], bool(numbers[1]))
        case "step":
            ledger.step(*numbers)
        case "forecast":
            ahead, layer = numbers
            ledger.forecast(ahead, layer, event.keys, event.values)
        case "acquire":
            return ledger.acquire(numbers[0], event.keys, {"counts": [int(count) for count in event.values]})
        case "want":
            ledger.want(zip(event.keys, map(int, event.values), strict=True))
        case "set_budget":
            return ledger.set_budget(*numbers)
        case "set_speculation":
            return ledger.set_speculation(*numbers)
        case "discard":
            return ledger.discard(event.keys)
        case _:
            raise TraceError("no such event", allowed="the kinds of this version", got=event.kind)
    return None


def _words(outcome: Sequence[Sequence[int]]) -> str:
    names = [name for name, part in zip(Decision._fields, outcome, strict=True) for _ in part]
    return ", ".join(f"{name} {key}" for name, key in zip(names, chain(*outcome), strict=True)) or "nothing"
