"""Fixtures shared by all rooms."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

# before anything imports torch: helper threads that spin would slow every other process on the machine
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`checkpoints(family, "float32", **overrides)`: a tiny checkpoint, made once a session. Read-only."""
    made: dict[object, Path] = {}

    def get(family: str, dtype: str = "float32", **overrides: object) -> Path:
        import torch

        from helpers_models import make_checkpoint

        key = (family, dtype, repr(sorted(overrides.items())))
        if key not in made:
            path = tmp_path_factory.mktemp(f"{family}-{dtype}")
            made[key] = make_checkpoint(family, path, getattr(torch, dtype), **overrides)
        return made[key]

    return get
