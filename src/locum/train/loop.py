"""The training loop: resumable at any moment, by steps of one size.

A state folder holds the newest whole state: weights, moments, counters and curve in one file, replaced by
renaming. The learning rate is constant after warm-up; `finish` branches off from a state and lets it fall to
nothing, so a run can always go on where it stood before its last finish.
"""

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody gives it
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from locum.errors import UsageError
from locum.train.balance import Balance
from locum.train.data import IGNORE, Data
from locum.train.optimise import optimisers
from locum.train.recipe import Recipe

SAVE_SECONDS = 300.0
NOTE_STEPS = 50
CLIP = 1.0


@dataclass
class Run:
    """A model being trained."""

    recipe: Recipe
    data: Data
    say: Callable[[str], None] = print
    step: int = 0
    seconds: float = 0.0
    began: int = 0
    """The step at which the optimisers knew nothing: the learning rate warms up from there."""
    curve: list[dict[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.model = self.recipe.build()
        self.balance = Balance(self.model)
        r = self.recipe
        self.optimisers = optimisers(self.model, r.optimiser, r.lr, r.matrix_lr, r.weight_decay)
        self._recent: list[dict[str, float]] = []
        self._peaks = [[group["lr"] for group in o.param_groups] for o in self.optimisers]

    @property
    def tokens(self) -> int:
        """Tokens trained on so far."""
        return self.step * self.recipe.tokens_per_step

    def one_step(self, scale: float) -> dict[str, float]:
        """One optimiser step at `scale` times the peak learning rate; what it measured."""
        r = self.recipe
        for optimiser, peaks in zip(self.optimisers, self._peaks, strict=True):
            for group, peak in zip(optimiser.param_groups, peaks, strict=True):
                group["lr"] = peak * scale * min(1.0, (self.step - self.began + 1) / r.warmup)
        ids, labels = map(torch.from_numpy, self.data.batch(self.step, *r.shape(self.step), r.mix, r.seed))
        logits = self.model(input_ids=ids[:, :-1], use_cache=False).logits
        loss = F.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORE)
        balance = self.balance.loss()
        (loss + r.balance * balance).backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        for optimiser in self.optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        self.step += 1
        load_LE = self.balance.load()
        measured = {"loss": loss.item(), "balance": balance.item(), "norm": norm.item()}
        if load_LE.numel():
            measured |= {"most": load_LE.max().item(), "least": load_LE.min().item()}
        return measured

    def train(self, minutes: float, state: Path) -> None:
        """Train for `minutes` at the full rate, saving now and then and at the end."""
        end = time.monotonic() + 60 * minutes
        self._train_while(lambda: time.monotonic() < end, state)

    def train_to(self, tokens: int, state: Path | None = None) -> None:
        """Train at the full rate until so many tokens have been seen, saving now and then in `state`."""
        self._train_while(lambda: self.tokens < tokens, state)

    def _train_while(self, more: Callable[[], bool], state: Path | None) -> None:
        saved = time.monotonic()
        while more():
            self._timed_step(1.0)
            if state is not None and time.monotonic() - saved > SAVE_SECONDS:
                self.save(state)
                saved = time.monotonic()
        if state is not None:
            self.save(state)

    def finish(self, minutes: float) -> None:
        """Train for about `minutes` while the learning rate falls to nothing. Nothing is saved."""
        pace = self.seconds / self.step if self.step else 1.0
        self._fall(max(1, round(60 * minutes / pace)))

    def finish_at(self, tokens: int) -> None:
        """Train up to `tokens` in all while the learning rate falls to nothing. Nothing is saved."""
        self._fall(max(1, -(-(tokens - self.tokens) // self.recipe.tokens_per_step)))

    def _fall(self, steps: int) -> None:
        for done in range(steps):
            self._timed_step(1.0 - done / steps)
        self._note(0.0)

    def facts(self) -> dict[str, Any]:
        """What the model's card says of the run."""
        return {
            "recipe": self.recipe.to_json(), "tokens": self.tokens, "steps": self.step,
            "seconds": round(self.seconds), "curve": self.curve, "torch": torch.__version__,
        }  # fmt: skip

    def _timed_step(self, scale: float) -> None:
        begin = time.monotonic()
        self._recent.append(self.one_step(scale))
        self.seconds += time.monotonic() - begin
        if self.step % NOTE_STEPS == 0:
            self._note(scale)

    def _note(self, scale: float) -> None:
        """Put the mean of the steps since the last note on the curve."""
        recent, self._recent = self._recent, []
        if not recent:
            return
        mean = {key: round(sum(m[key] for m in recent) / len(recent), 4) for key in recent[0]}
        self.curve.append({"step": self.step, "tokens": self.tokens, "scale": round(scale, 4), **mean})
        told = " ".join(f"{key} {value:.3f}" for key, value in mean.items())
        self.say(f"step {self.step}, {self.tokens / 1e6:.2f}M tokens, {self.seconds / 60:.1f} min: {told}")

    def save(self, folder: Path) -> None:
        """Write the whole state, replacing the one before at once."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"model.{name}": p.detach() for name, p in self.model.named_parameters()}
        for name, buffer in self.model.named_buffers():
            if name in self.model.state_dict():
                tensors[f"model.{name}"] = buffer
        steps: dict[str, float] = {}
        for number, optimiser in enumerate(self.optimisers):
            for index, values in optimiser.state_dict()["state"].items():
                for key, value in values.items():
                    if isinstance(value, torch.Tensor) and value.dim():
                        tensors[f"optimiser.{number}.{index}.{key}"] = value
                    else:
                        steps[f"{number}.{index}.{key}"] = float(value)
        document = {
            "recipe": self.recipe.to_json(), "step": self.step, "seconds": self.seconds,
            "began": self.began, "curve": self.curve, "scalars": steps,
        }  # fmt: skip
        part = folder / "state.part"
        save_file({k: v.contiguous() for k, v in tensors.items()}, part, {"locum": json.dumps(document)})
        os.replace(part, folder / "state.safetensors")

    def resume(self, folder: Path) -> bool:
        """Go on from the state in `folder`; False when there is none.

        Raises `UsageError` when it is of another recipe: the card would tell of one, the weights of two.
        """
        path = folder / "state.safetensors"
        if not path.exists():
            return False
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            document = json.loads(file.metadata()["locum"])
        tensors = load_file(path)
        self._must_be(document["recipe"], self.recipe.to_json(), path, "recipe")
        weights = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
        missing, extra = self.model.load_state_dict(weights, strict=False)
        assert not extra
        assert all("lm_head" in name for name in missing)  # tied
        for number, optimiser in enumerate(self.optimisers):
            content: dict[int, dict[str, Any]] = {}
            for key, value in tensors.items():
                if key.startswith(f"optimiser.{number}."):
                    _, _, index, name = key.split(".")
                    content.setdefault(int(index), {})[name] = value
            for key, scalar in document["scalars"].items():
                if key.startswith(f"{number}."):
                    _, index, name = key.split(".")
                    content.setdefault(int(index), {})[name] = torch.tensor(scalar)
            optimiser.load_state_dict(
                {"state": content, "param_groups": optimiser.state_dict()["param_groups"]}
            )
        self.step, self.seconds, self.curve = document["step"], document["seconds"], document["curve"]
        self.began = document["began"]
        return True

    def start_from(self, folder: Path) -> None:
        """Go on from an exported model: its weights and its count of steps, optimisers that know nothing.

        Raises `UsageError` when it is of another shape, or its tokenizer is not the one of the data.
        """
        facts = json.loads((folder / "training.json").read_text(encoding="utf-8"))
        self._must_be(facts["recipe"]["config"], self.recipe.to_json()["config"], folder, "model")
        words = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab()
        if words != self.data.tokenizer.get_vocab():
            raise UsageError(
                "the data was made with another tokenizer", where=str(self.data.folder),
                todo="make it anew, in another folder, with the same --start",
            )  # fmt: skip
        with torch.no_grad():
            exported = type(self.model).from_pretrained(folder, dtype=torch.float32).state_dict()
            self.model.load_state_dict(exported)
        self.step = self.began = facts["steps"]
        self.seconds, self.curve = facts["seconds"], facts["curve"]

    @staticmethod
    def _must_be(got: Mapping[str, Any], allowed: Mapping[str, Any], where: Path, kind: str) -> None:
        wanted = json.loads(json.dumps(allowed))  # as it is after a file: lists for tuples
        got, wanted = ({**x, **x.get("config", {}), "config": None} for x in (got, wanted))
        differ = sorted(key for key in {*got, *wanted} if got.get(key) != wanted.get(key))
        if differ:
            raise UsageError(
                f"this is of another {kind}", where=str(where),
                allowed=", ".join(f"{key} {wanted.get(key)}" for key in differ),
                got=", ".join(f"{key} {got.get(key)}" for key in differ),
                todo=f"take another folder, or the {kind} it was made with",
            )  # fmt: skip
