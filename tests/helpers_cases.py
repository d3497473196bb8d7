"""How many cases a property is tried on: a few in the fast tests, thousands in the long form."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings


def few(cases: int) -> Callable[[Any], Any]:
    """For a fast test."""
    return settings(max_examples=cases, deadline=None)


def thousands(test: Any) -> Any:
    """For the same property in the long form."""
    return pytest.mark.check(settings(max_examples=2000, deadline=None)(test))
