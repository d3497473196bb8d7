"""The public Python surface. A change here is a change of what people's programs rely on."""

import locum
from locum import errors

FROZEN = {
    "load", "inspect", "__version__",
    "LocumError", "UsageError", "ModelError", "NotMoEError", "UnsupportedError", "CheckpointError",
    "BudgetError", "LoadError", "NumericsError", "PromptError", "PolicyError", "Trace", "TraceError",
}  # fmt: skip


def test_the_names() -> None:
    assert set(locum.__all__) == FROZEN
    assert sorted(locum.__all__) == locum.__all__
    assert set(dir(locum)) == FROZEN


def test_every_name_is_there() -> None:
    for name in locum.__all__:
        assert getattr(locum, name) is not None
    assert callable(locum.load)
    assert callable(locum.inspect)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    assert not hasattr(locum, "lode")


def test_every_error_is_public_and_a_locum_error() -> None:
    ours = {name: value for name, value in vars(errors).items() if isinstance(value, type)}
    assert set(ours) == {name for name in FROZEN if name.endswith("Error")}
    for name, value in ours.items():
        assert issubclass(value, errors.LocumError)
        assert getattr(locum, name) is value
