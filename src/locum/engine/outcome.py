"""What one answer cost, beside what this machine allows: for people, and for `--json`."""

from dataclasses import asdict, dataclass

from locum.engine.engine import Engine
from locum.engine.generation import Generation
from locum.machine.ceiling import Ceiling, ceiling
from locum.machine.limits import peak_rss
from locum.machine.profile import MachineProfile
from locum.model.spec import MoESpec
from locum.units import format_bytes, format_seconds


def usable_disk_rate(spec: MoESpec, profile: MachineProfile) -> float:
    """Bytes per second that the disk gives at best for experts of this model's size."""
    return profile.best_disk_rate(max(spec.expert_bytes))


def measured_ceiling(spec: MoESpec, profile: MachineProfile, hit_rate: float) -> Ceiling:
    """The bound on decoded tokens per second of this model on this machine at a hit rate."""
    return ceiling(
        hit_rate=hit_rate,
        expert_bytes=spec.active_bytes_per_token,
        backbone_bytes=spec.backbone_bytes_per_token,
        disk_bytes_s=usable_disk_rate(spec, profile),
        memory_bytes_s=profile.memory_bytes_s,
    )


@dataclass(frozen=True)
class Outcome:
    """One `Generation` of `engine`, measured against `profile`."""

    engine: Engine
    generation: Generation
    profile: MachineProfile

    @property
    def ceiling_tok_s(self) -> float | None:
        """The bound at the share of experts that stayed in memory; None without decode steps."""
        rate = self.generation.decode.kept_rate
        return None if rate is None else measured_ceiling(self.engine.spec, self.profile, rate).tokens_per_s

    def line(self) -> str:
        """One line, after an answer in a chat."""
        speed, rate = self.generation.decode_tok_s, self.generation.decode.hit_rate
        parts = [f"{len(self.generation.tokens)} tokens"]
        if speed is not None:
            parts.append(f"{speed:.2f} tokens/s")
        if rate is not None:
            parts.append(f"{rate:.0%} hits")
        parts.append(f"{format_bytes(self.generation.bytes_read)} read")
        return ", ".join(parts)

    def rows(self) -> list[tuple[str, str]]:
        """(name, value) lines of the block."""
        got, engine = self.generation, self.engine
        speed, bound, decode = got.decode_tok_s, self.ceiling_tok_s, got.decode
        rows = [
            ("tokens", f"{len(got.tokens)} after a prompt of {got.prompt_tokens}, ended by {got.finish}"),
            ("first token", "none" if got.ttft_s is None else f"after {format_seconds(got.ttft_s)}"),
        ]
        if speed is not None and bound is not None:
            rows.append(("decode", f"{speed:.2f} tokens/s, ceiling {bound:.2f} ({speed / bound:.0%} of it)"))
        if decode.hit_rate is not None:
            share = f" ({decode.staged} of them prefetched)" if decode.staged else ""
            rows.append(
                ("hit rate", f"{decode.hit_rate:.1%} of {decode.requests} experts while decoding{share}")
            )
        rows += [
            (
                "bytes read",
                f"{format_bytes(got.bytes_read)} ({format_bytes(got.prefill.bytes_read)} for the prompt)",
            ),
            ("waited for disk", format_seconds(got.prefill.stall + decode.stall)),
            (
                "expert arena",
                f"{format_bytes(engine.arena_bytes)} of at most {format_bytes(engine.arena_limit)}",
            ),
            ("process peak", f"{format_bytes(peak_rss())} of {format_bytes(engine.memory_limit)} --memory"),
            ("threads", f"{got.threads}" + (" (another process keeps a core busy)" if got.contended else "")),
            ("products", engine.products.describe()),
            ("lossless", "yes" if got.lossless else "no"),
        ]
        return rows

    def to_json(self) -> dict[str, object]:
        """The object that `locum run --json` prints. Sizes in bytes, times in seconds."""
        got, engine, options = self.generation, self.engine, self.engine.residents.options
        return {
            "text": got.text,
            "tokens": len(got.tokens),
            "token_ids": list(got.tokens),
            "prompt_tokens": got.prompt_tokens,
            "finish": got.finish,
            "ttft_s": got.ttft_s,
            "decode_tok_s": got.decode_tok_s,
            "ceiling_tok_s": self.ceiling_tok_s,
            "hit_rate": got.decode.hit_rate,
            "stall_s": got.prefill.stall + got.decode.stall,
            "bytes_read": got.bytes_read,
            "prefill": got.prefill.to_json(),
            "decode": got.decode.to_json(),
            "peak_rss": peak_rss(),
            "memory": engine.memory_limit,
            "split": asdict(engine.plan.split),
            "expert_memory": engine.arena_limit,
            "arena_bytes": engine.arena_bytes,
            "threads": got.threads,
            "contended": got.contended,
            "seed": got.seed,
            "eviction": options.eviction,
            "prefetch": engine.residents.prefetch,
            "mover": engine.residents.mover_kind,
            "dtype": str(engine.model.dtype).removeprefix("torch."),
            "products": engine.products.describe(),
            "lossless": got.lossless,
            "model": str(engine.path),
            "config_hash": engine.config_hash,
        }
