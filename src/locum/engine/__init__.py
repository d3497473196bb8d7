"""Generation: requests, caches, steps, sampling, decode streams; `locum.load()`."""

from locum.engine.engine import Engine, load
from locum.engine.generation import Generation, Stream

__all__ = ["Engine", "Generation", "Stream", "load"]
