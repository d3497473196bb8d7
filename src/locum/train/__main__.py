"""From this machine's own text to a small trained MoE model, resumable at any moment."""

import argparse
import os
import platform
import sys
from dataclasses import replace
from pathlib import Path

MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": str(8 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(16 << 30),
    "MALLOC_TOP_PAD_": str(256 << 20),
    "MALLOC_ARENA_MAX": "2",
}
"""glibc gives big blocks back and takes them again at every step else: a quarter of the time."""


def main(argv: list[str] | None = None) -> int:
    """Train, finish, export. Returns the exit status."""
    asked = _parse(argv)
    if not MALLOC.keys() <= os.environ.keys():
        os.environ.update(MALLOC)
        os.environ.setdefault("OMP_WAIT_POLICY", "active")
        os.execv(sys.executable, [sys.executable, "-m", "locum.train", *(argv or sys.argv[1:])])  # noqa: S606 - us again
    import torch
    from tokenizers import Tokenizer

    from locum.train.corpus import by_domain, documents
    from locum.train.data import Data, write_data
    from locum.train.export import export
    from locum.train.held_out import write_held_out
    from locum.train.loop import Run
    from locum.train.recipe import RECIPES

    torch.set_num_threads(asked.threads)
    if asked.held_out is not None:
        write_held_out(by_domain(documents(), asked.characters), asked.held_out)
        return 0
    if not (asked.data / "data.json").exists():
        _say(f"collecting this machine's text into {asked.data}")
        tokenizer = None if asked.start is None else Tokenizer.from_file(str(asked.start / "tokenizer.json"))
        write_data(by_domain(documents(), asked.characters), asked.data, tokenizer)
    data = Data(asked.data)
    recipe = RECIPES[asked.model]
    recipe = replace(recipe, seed=asked.seed)
    run = Run(recipe, data, say=_say)
    if asked.start is not None and not (asked.state / "state.safetensors").exists():
        run.start_from(asked.start)
        run.save(asked.state)
    if run.resume(asked.state):
        _say(f"going on at step {run.step}, {run.tokens / 1e6:.2f}M tokens, {run.seconds / 60:.0f} min")
    if asked.tokens is not None:
        run.train_to(round(asked.tokens * (1 - recipe.decay)), asked.state)
    elif (steady := asked.minutes * (1 - recipe.decay) - run.seconds / 60) > 0:
        run.train(steady, asked.state)
    if asked.out is not None:
        if asked.tokens is not None:
            run.finish_at(asked.tokens)
        else:
            run.finish(asked.minutes * recipe.decay)
        facts = run.facts() | {"data": data.facts, "machine": f"{platform.machine()}, {os.cpu_count()} cores"}
        export(run.model, data.tokenizer, asked.out, facts)
        _say(f"wrote {asked.out}")
    return 0


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m locum.train", description=__doc__)
    parser.add_argument("--model", default="tiny", choices=["tiny", "tiny-shared", "dense"])
    parser.add_argument("--minutes", type=float, default=75, help="of training in all, with resumed parts")
    parser.add_argument("--tokens", type=int, help="instead of a time: the same data for several models")
    parser.add_argument("--data", type=Path, default=Path("build/train/data"), help="made when missing")
    parser.add_argument(
        "--state", type=Path, default=Path("build/train/state"), help="folder to go on from and to save in"
    )
    parser.add_argument("--start", type=Path, help="an exported model to go on from, where there is no state")
    parser.add_argument("--out", type=Path, help="finish: let the learning rate fall, export here")
    parser.add_argument("--held-out", type=Path, help="write the held-out text here, and do nothing else")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--characters", type=int, default=12_000_000, help="of text per domain, at most")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
