"""Trace in, tables out: what the routing is like, and what follows for caches. No torch."""

from locum.analyze.analysis import METRICS, Analysis, analyze, require

__all__ = ["METRICS", "Analysis", "analyze", "require"]
