"""The model that locum runs when none is named: small, random, made on the spot in seconds. No torch."""

import hashlib
import json
import shutil
import tempfile
from pathlib import Path

from locum.files import write_json
from locum.synth.shapes import shape
from locum.synth.writer import write_checkpoint

SCHEMA = "locum.demo/1"
_RECIPE = 1
"""Goes up whenever the same config would give other bytes."""


def _digests(folder: Path) -> dict[str, str]:
    found = {}
    for path in sorted(folder.iterdir()):
        with path.open("rb") as content:
            found[path.name] = hashlib.file_digest(content, "sha256").hexdigest()
    return found


def _intact(folder: Path, record: Path) -> bool:
    """True when the folder holds exactly the files recorded when it was made."""
    try:
        document = json.loads(record.read_text(encoding="utf-8"))
        return (
            isinstance(document, dict)
            and document.get("schema") == SCHEMA
            and document.get("files") == _digests(folder)
        )
    except (OSError, ValueError):
        return False


def demo_model(cache_dir: str | Path) -> Path:
    """The folder of the demo checkpoint below `cache_dir`, made when it is not there or not intact.

    56 MiB of bf16: the OLMoE family, 8 layers of 32 experts, 4 used by a token. The weights are random, so
    the text is nonsense, but every step of running a model is real. Raises `LocumError` when the disk is
    too full.
    """
    cache, config = Path(cache_dir), shape("demo")
    identity = hashlib.sha256(json.dumps([_RECIPE, config], sort_keys=True).encode()).hexdigest()[:12]
    folder, record = cache / f"demo-{identity}", cache / f"demo-{identity}.json"
    if _intact(folder, record):
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    # Made apart and moved in, so that two that start together both end with a whole model.
    with tempfile.TemporaryDirectory(dir=cache, prefix=".demo-") as apart:
        made = write_checkpoint(config, Path(apart) / "model").path
        write_json(record, {"schema": SCHEMA, "files": _digests(made)}, indent=2)
        if not _intact(folder, record):  # otherwise another process moved its own in meanwhile
            shutil.rmtree(folder, ignore_errors=True)
            made.rename(folder)
    return folder
