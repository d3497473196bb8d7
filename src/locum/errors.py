"""The exception tree. Every error a user can cause is one of these; an `assert` is a bug of ours.

LocumError
├── UsageError          asked wrongly (exit code 2): a flag, a value, a combination
├── ModelError          the checkpoint cannot be run
│   ├── NotMoEError         a dense model
│   ├── UnsupportedError    a family, layout or quantisation locum does not run (yet)
│   └── CheckpointError     files missing, truncated, lying, or at odds with the config
├── BudgetError         the memory asked for is below the minimum (`minimum` in bytes)
├── LoadError           an expert could not be read while running
├── NumericsError       NaN in weights or logits
├── PromptError         a prompt or chat that the model cannot take
├── PolicyError         a policy broke its contract
└── TraceError          a trace that cannot be read, or lacks what is asked of it
"""


class LocumError(Exception):
    """An error with a remedy. The message is one paragraph: what, where, allowed, got, what to do.

    Each argument after `what` is a clause and may be left out; all are kept as attributes.
    """

    def __init__(
        self,
        what: str,
        *,
        where: object = None,
        allowed: object = None,
        got: object = None,
        todo: str | None = None,
    ) -> None:
        self.what, self.where, self.allowed, self.got, self.todo = what, where, allowed, got, todo
        clauses = [what.rstrip(".")]
        if where is not None:
            clauses[0] += f" in {where}"
        if allowed is not None:
            clauses.append(f"expected {allowed}")
        if got is not None:
            clauses.append(f"got {got}")
        message = "; ".join(clauses) + "."
        if todo:
            message += f" {todo.rstrip('.')}."
        super().__init__(message)

    def __reduce__(self) -> tuple[object, ...]:
        # by default the class would be called with the message alone, and a worker process would die of it
        return _again, (type(self), self.args, self.__dict__)


def _again(cls: type[LocumError], args: tuple[object, ...], state: dict[str, object]) -> LocumError:
    """An error as another process raised it."""
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(state)
    return error


class UsageError(LocumError):
    """Asked wrongly: a flag, a value or a combination that makes no sense (exit code 2)."""


class ModelError(LocumError):
    """The checkpoint cannot be run."""


class NotMoEError(ModelError):
    """The model has no routed experts."""


class UnsupportedError(ModelError):
    """A family, layout or quantisation that locum does not run."""


class CheckpointError(ModelError):
    """Files are missing, truncated, lying, or at odds with the config."""


class BudgetError(LocumError):
    """The memory asked for is below the minimum. `minimum` is that minimum in bytes."""

    def __init__(self, what: str, *, minimum: int, **clauses: object) -> None:
        self.minimum = minimum
        super().__init__(what, **clauses)  # type: ignore[arg-type]


class LoadError(LocumError):
    """An expert could not be read while running."""


class NumericsError(LocumError):
    """NaN in weights or logits."""


class PromptError(LocumError):
    """A prompt or chat that the model cannot take."""


class PolicyError(LocumError):
    """A policy broke its contract."""


class TraceError(LocumError):
    """A trace that is damaged, contradicts itself, or lacks what is asked of it."""
