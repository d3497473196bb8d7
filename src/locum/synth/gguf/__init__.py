"""A planned checkpoint's weights as one GGUF file, with no checkpoint in between. No torch."""

from locum.synth.gguf.plan import GgufPlan, plan_gguf
from locum.synth.gguf.writer import write_gguf

__all__ = ["GgufPlan", "plan_gguf", "write_gguf"]
