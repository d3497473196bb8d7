"""Short matched runs that settle the recipe: the same data and steps, one number changed at a time.

`python -m locum.train.sweep --data FOLDER --results FILE` trains each variant that FILE does not hold yet and
writes a table beside it. Several may run at once on files of their own; `--only` picks variants.

Specialised means here: how much a layer's choice of an expert tells about the text's domain, in bits, as a
share of what it could tell; 0 when every domain uses the experts alike.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy

from locum.files import write_text
from locum.train.data import Data
from locum.train.loop import Run
from locum.train.recipe import Recipe

BASE = Recipe(warmup=50, lengths=(256,), balance=0.02)


def _experts(count: int, chosen: int, width: int) -> dict[str, int]:
    return {"num_experts": count, "num_experts_per_tok": chosen, "moe_intermediate_size": width}


VARIANTS: dict[str, Recipe] = {
    "base": BASE,
    "base, seed 1": replace(BASE, seed=1),
    "balance 0": replace(BASE, balance=0.0),
    "balance 0.002": replace(BASE, balance=0.002),
    "balance 0.1": replace(BASE, balance=0.1),
    "16 experts, 2 x 128": replace(BASE, changes=_experts(16, 2, 128)),
    "64 experts, 8 x 32": replace(BASE, changes=_experts(64, 8, 32)),
    "adamw": replace(BASE, optimiser="adamw"),
    "matrices at 12e-3": replace(BASE, matrix_lr=12e-3),
    "matrices at 3e-3": replace(BASE, matrix_lr=3e-3),
}
ROWS = 24
"""Held-out rows of each domain."""


def measure(recipe: Recipe, data: Data, steps: int) -> dict[str, Any]:
    """Train for `steps`, the last fifth at a falling rate, and look at held-out text."""
    run = Run(recipe, data, say=lambda _: None)
    run.train_to(round(steps * (1 - recipe.decay)) * recipe.tokens_per_step)
    run.finish_at(steps * recipe.tokens_per_step)
    bits, told, load_LE = held_out(run, data)
    return {
        "bits_per_byte": bits, "all": sum(bits.values()) / len(bits), "seconds": round(run.seconds, 1),
        "specialised": told, "most": load_LE.max().item(), "least": load_LE.min().item(),
    }  # fmt: skip


@torch.no_grad()
def held_out(run: Run, data: Data) -> tuple[dict[str, float], float, torch.Tensor]:
    """(bits per byte by domain, specialisation, load [L, E]) on held-out rows."""
    length, bits, counts = run.recipe.lengths[0], {}, []
    for domain in data.domains:
        ids = torch.from_numpy(_rows(data.streams[domain, "held-out"], length).astype(np.int64))
        logits = run.model(input_ids=ids[:, :-1], use_cache=False).logits
        nats = cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).item()
        size = data.facts["domains"][domain]["held-out"]
        bits[domain] = nats / math.log(2) * size["tokens"] / size["bytes"]
        counts.append(run.balance.load())
    load_DLE = torch.stack(counts)
    share_DLE = load_DLE / load_DLE.shape[-1]
    mean_LE = share_DLE.mean(0)
    told_LE = (share_DLE * (share_DLE / mean_LE).log().nan_to_num(0, 0, 0)).mean(0)
    return bits, (told_LE.sum(-1).mean() / math.log(len(counts))).item(), load_DLE.mean(0)


def _rows(stream: NDArray[np.uint16], length: int) -> NDArray[np.uint16]:
    starts = np.linspace(0, len(stream) - length - 1, ROWS).astype(np.int64)
    return np.stack([stream[start : start + length + 1] for start in starts])


def table(found: Iterable[dict[str, Any]], tokens: int) -> str:
    """The results as Markdown."""
    lines = [
        "# Matched training runs",
        "",
        f"{tokens / 1e6:.2f} million tokens each, same data, one number changed; held-out bits per byte",
        "(mean of the domains), how much of the domain an expert tells, most and least loaded.",
        "",
        "| variant | bits per byte | tells | most | least |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['variant']} | {row['all']:.3f} | {row['specialised']:.3f} | {row['most']:.2f} "
        f"| {row['least']:.2f} |"
        for row in found
    ]
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    """Run what is missing. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m locum.train.sweep", description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("build/train/data"))
    parser.add_argument("--results", type=Path, required=True, help="JSON lines; the table is beside it")
    parser.add_argument("--steps", type=int, default=160)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), metavar="VARIANT")
    asked = parser.parse_args(argv)
    torch.set_num_threads(asked.threads)
    data, path = Data(asked.data), asked.results
    found = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    for name in asked.only or VARIANTS:
        if any(row["variant"] == name for row in found):
            continue
        found.append({"variant": name} | measure(VARIANTS[name], data, asked.steps))
        write_text(path, "".join(json.dumps(row) + "\n" for row in found))
        write_text(path.with_suffix(".md"), table(found, asked.steps * BASE.tokens_per_step))
        sys.stdout.write(f"{name}: {found[-1]['all']:.3f}\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
