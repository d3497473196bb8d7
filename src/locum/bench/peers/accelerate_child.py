"""What runs inside the memory limit: transformers with accelerate's offload to disk. Not for import.

    python -m locum.bench.peers.accelerate_child MODEL OFFLOAD_FOLDER CPU_BYTES TOKENS PROMPT

Prints one JSON object a line as it goes, so that a process killed half-way has said how far it came.
"""

import json
import sys
import time
from importlib.metadata import version


def say(**facts: object) -> None:
    """One line of the protocol."""
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def main(model_path: str, offload: str, cpu_bytes: str, tokens: str, prompt: str) -> None:
    """Load, then decode greedily token by token, timing each step."""
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    say(
        event="versions",
        torch=torch.__version__,
        transformers=transformers.__version__,
        accelerate=version("accelerate"),
        threads=torch.get_num_threads(),
    )
    began = time.perf_counter()
    tokenizer = AutoTokenizer.from_pretrained(model_path, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(
        model_path,
        dtype="auto",
        device_map="auto",
        max_memory={"cpu": int(cpu_bytes)},
        offload_folder=offload,
        local_files_only=True,
    ).eval()
    places = list(getattr(model, "hf_device_map", {}).values())
    seconds = time.perf_counter() - began
    say(event="loaded", seconds=seconds, modules=len(places), on_disk=places.count("disk"))
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    say(event="prompt", tokens=ids.shape[1])
    cache = None
    with torch.inference_mode():
        for step in range(int(tokens)):
            began = time.perf_counter()
            output = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache, ids = output.past_key_values, output.logits[:, -1].argmax(-1, keepdim=True)
            say(event="step", number=step, seconds=time.perf_counter() - began, token=int(ids[0, 0]))
    say(event="done")


if __name__ == "__main__":
    main(*sys.argv[1:])
