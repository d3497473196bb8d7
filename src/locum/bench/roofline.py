"""The bound on decoding that this machine's disk and memory set, measured beside each run.

A token takes at least what its missed experts take to come from disk, and at least what its weights take to
come from memory; the two overlap at best. Both rates are measured within the same minute as the run,
because virtual disks change their speed by the hour.
"""

from dataclasses import dataclass
from pathlib import Path

from locum.machine.disk import BLOCK_BYTES, THREADS, measure_disk
from locum.machine.memory import measure_memory
from locum.synth.names import Config, tensors
from locum.synth.noise import DTYPES


@dataclass(frozen=True, slots=True)
class Rates:
    """Bytes per second, by direct reads of the checkpoint's own files and from memory."""

    disk: float
    memory: float
    mode: str = "direct"
    block: int = BLOCK_BYTES
    threads: int = THREADS

    @classmethod
    def measure(cls, model: Path, *, block: int = BLOCK_BYTES, threads: int = THREADS) -> "Rates":
        """Measure for about three seconds: the files as the engine reads them, memory with all cores."""
        disk = measure_disk(model, block=block, threads=threads)
        return cls(disk.bytes_s, max(measure_memory().values()), disk.mode, block, threads)

    def mean(self, other: "Rates") -> "Rates":
        """The rates of a run that these two enclose: disk and memory each by the mean of time per byte."""
        return Rates(
            2 / (1 / self.disk + 1 / other.disk),
            2 / (1 / self.memory + 1 / other.memory),
            self.mode,
            self.block,
            self.threads,
        )


@dataclass(frozen=True, slots=True)
class Bound:
    """At most `tok_s` tokens per second, set `by` the disk or the memory."""

    tok_s: float
    by: str


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes of weights that one decoded token needs: `experts` at worst from disk, `backbone` from memory."""

    experts: int
    backbone: int

    @classmethod
    def of(cls, config: Config, dtype: str = "bf16") -> "Traffic":
        """From a config of a shape that `synth` knows. Of the embedding only a row is needed."""
        size, top_k, count = DTYPES[dtype].size, config["num_experts_per_tok"], config["num_experts"]
        experts = backbone = 0
        for spec in tensors(config):
            if spec.is_expert:
                experts += spec.elements
            elif "embed_tokens" not in spec.name or config["tie_word_embeddings"]:
                backbone += spec.elements
        return cls(experts * top_k // count * size, backbone * size)

    def bound(self, rates: Rates, hit_rate: float) -> Bound:
        """The most tokens per second at this hit rate."""
        disk = (1 - hit_rate) * self.experts / rates.disk
        memory = (self.experts + self.backbone) / rates.memory
        return Bound(1 / max(disk, memory), "disk" if disk > memory else "memory")
