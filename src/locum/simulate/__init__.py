"""The engine with a clock instead of a disk: a trace replayed through the very Ledger. No torch."""

from locum.simulate.cost import Device
from locum.simulate.replay import Setting, Simulated, simulate

__all__ = ["Device", "Setting", "Simulated", "simulate"]
