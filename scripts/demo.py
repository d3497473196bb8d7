"""`make demo`: the main job in one minute, checked against transformers.

locum-tiny writes Python, more or less, with a quarter of its experts in memory. Then transformers loads the
whole model and is driven through the same calls, and the logits of every call are compared bit by bit.
"""

import os
import sys

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is loaded

from locum.bench.identity import recorded, replay, same_bits
from locum.cli.output import Output, OutputOptions
from locum.engine.engine import load
from locum.engine.outcome import Outcome
from locum.engine.session import introduce, known_profile
from locum.model.shipped import shipped_model

PROMPT = 'import os\n\n\ndef read_lines(path):\n    """Return'
TOKENS = 48
MEMORY = "640MiB"
SHARE = "25%"


def main() -> int:
    """Run the demo; 0 when the bits are transformers' own."""
    with Output(OutputOptions()) as output:
        path = shipped_model()
        profile = known_profile(path, output)
        with output.working("loading locum-tiny with a quarter of its experts"):
            engine = load(path, memory=MEMORY, expert_memory=SHARE)
        with engine, recorded(engine.model) as calls:
            introduce(engine, profile, output)
            output.text(PROMPT)
            stream = engine.stream(PROMPT, max_tokens=TOKENS, temperature=0.6, seed=0, ignore_eos=True)
            for piece in stream:
                output.text(piece)
            output.text("\n")
            assert stream.result is not None
            rows = Outcome(engine, stream.result, profile).rows()
        with output.working("asking transformers to do the same with all of it in memory"):
            identical = same_bits(calls, replay(path, calls))
        verdict = f"{'yes' if identical else 'NO'} ({len(calls)} calls compared bit by bit)"
        output.block([*rows, ("identical to transformers", verdict)], "what it took")
    return 0 if identical else 1


if __name__ == "__main__":
    sys.exit(main())
