"""What an MoE checkpoint is: `MoESpec` from `config.json` and safetensors headers alone. No torch."""

from locum.model.budget import MemorySplit, fixed_parts, minimum_memory, split
from locum.model.checkpoint import Checkpoint
from locum.model.header import TensorInfo
from locum.model.hub import resolve
from locum.model.inspect import Inspection, inspect
from locum.model.spec import MoELayer, MoESpec

__all__ = [
    "Checkpoint",
    "Inspection",
    "MemorySplit",
    "MoELayer",
    "MoESpec",
    "TensorInfo",
    "fixed_parts",
    "inspect",
    "minimum_memory",
    "resolve",
    "split",
]
