"""Loads a model as `locum.load` does and says what that took. Run in a process of its own, not for import.

python -m locum.bench.load_child MODEL MEMORY
"""

import json
import sys
import time
from pathlib import Path


def bytes_from_disk() -> int | None:
    """Bytes read from storage for this process so far, however it asked; None where nobody counts."""
    try:
        lines = Path("/proc/self/io").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("read_bytes:")), None)


def main(model: str, memory: str) -> None:
    """Import first, so that only the loading is timed; then load."""
    import transformers.models.olmoe.modeling_olmoe  # noqa: F401 - what the first load would import

    import locum
    import locum.engine.engine  # with torch and transformers
    from locum.machine.limits import peak_rss

    read, began = bytes_from_disk(), time.perf_counter()
    with locum.load(model, memory=memory):
        seconds, after = time.perf_counter() - began, bytes_from_disk()
    moved = None if read is None or after is None else after - read
    sys.stdout.write(json.dumps({"load_s": seconds, "bytes_read": moved, "peak_rss": peak_rss()}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
