"""Turning what a person calls a model into a folder: a path as it is, a hub id through `huggingface_hub`."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from locum.errors import CheckpointError, ModelError, UsageError
from locum.model.checkpoint import INDEX, SINGLE, read_json
from locum.model.shipped import NAME as SHIPPED
from locum.model.shipped import shipped_model

SMALL = ("*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken")
"""Config, tokenizer and chat template files. Code (`*.py`) and pickles (`*.bin`, `*.pt`) stay on the hub."""
ELSEWHERE = ("*/*.json", "*/*.txt", "*/*.model", "*/*.tiktoken")
"""Copies in subfolders (`original/`, `onnx/`) that transformers does not read."""

_NETWORK = {"httpx", "httpx2", "httpcore", "huggingface_hub"}
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9][A-Za-z0-9_.-]*(@[A-Za-z0-9][A-Za-z0-9_./-]*)?")


def resolve(model: str | Path) -> Path:
    """The folder or GGUF file of a model: itself, or what the hub has as `org/name` or `org/name@revision`.

    `locum-tiny` is the model that ships with locum, unless there is a folder of that name.

    A hub id is downloaded into the hub's cache, progress and resuming included; only what a checkpoint needs
    is fetched, the weights as the index names them. With `HF_HUB_OFFLINE=1` nothing but the cache is used.

    Raises `UsageError` when it is neither a folder, a GGUF file nor an id, `ModelError` when the hub does not
    have it, does not give it, or cannot be reached and the cache does not have it.
    """
    if (asked := split_id(model)) is not None:
        return _download(*asked)
    folder = Path(model).expanduser()
    return shipped_model() if str(model) == SHIPPED and not folder.is_dir() else folder


def split_id(model: str | Path) -> tuple[str, str | None] | None:
    """(repository, revision) of a hub id; None for what is here already, else raises `UsageError`."""
    name = str(model)
    folder = Path(model).expanduser()
    if (folder.is_dir() and name) or name == SHIPPED:  # pathlib takes an empty name for the current folder
        return None
    if folder.suffix == ".gguf" and folder.exists():
        return None
    if folder.is_file():
        raise UsageError(
            "a model is a folder or a GGUF file",
            allowed="a folder in Hugging Face format, or a file that ends in .gguf",
            got=f"the file {name}",
        )
    if not _ID.fullmatch(name):
        raise UsageError(
            "no such model folder",
            allowed=f"a folder, a hub id such as org/name, or {SHIPPED}",
            got=repr(name),
        )
    repository, _, revision = name.partition("@")
    return repository, revision or None


def _download(repository: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    with hub_errors(repository, revision):
        folder = Path(
            snapshot_download(
                repository, revision=revision, allow_patterns=list(SMALL), ignore_patterns=list(ELSEWHERE)
            )
        )
        # the commit just found, so that both calls mean the same files even if the branch moves meanwhile
        snapshot_download(repository, revision=folder.name, allow_patterns=weight_names(folder))
    return folder


def weight_names(folder: Path) -> list[str]:
    """Which weight files to fetch: those of the index; without one the usual file, or whatever there is."""
    index = read_json(folder / INDEX)
    if index is None:
        return [SINGLE, "model-*.safetensors"]
    weight_map = index.get("weight_map")
    names = sorted(set(map(str, weight_map.values()))) if isinstance(weight_map, dict) else []
    if not names or not all(name.endswith(".safetensors") for name in names):
        raise CheckpointError("the index names no safetensors files", where=folder / INDEX)
    return names


@contextmanager
def hub_errors(repository: str, revision: str | None) -> Iterator[None]:
    """Turn the hub's exceptions into ours, with a remedy."""
    from huggingface_hub import errors

    name = f"{repository}@{revision}" if revision else repository
    where = "the Hugging Face hub"
    try:
        yield
    except errors.GatedRepoError as error:
        todo = f"Accept its terms on its page, then log in with `hf auth login` ({_brief(error)})"
        raise ModelError(f"access to {name} is restricted", where=where, todo=todo) from error
    except errors.RepositoryNotFoundError as error:
        todo = "Check the spelling; a private model needs `hf auth login`"
        raise ModelError(f"there is no model {name}", where=where, todo=todo) from error
    except errors.RevisionNotFoundError as error:
        todo = "Give a branch, a tag or a commit of it"
        raise ModelError(f"there is no revision {name}", where=where, todo=todo) from error
    except (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError) as error:
        todo = "Connect once to download it (HF_HUB_OFFLINE unset), or point at a folder"
        what = f"{name} is not in the cache and the hub was not reached"
        raise ModelError(what, got=_brief(error), todo=todo) from error
    except errors.EntryNotFoundError as error:
        raise ModelError(f"a file of {name} is missing", where=where, got=_brief(error)) from error
    except errors.HFValidationError as error:
        raise UsageError("not a hub id", allowed="org/name", got=repr(name)) from error
    except Exception as error:  # httpx or httpx2, whichever the installed version is built on
        if not isinstance(error, OSError) and type(error).__module__.split(".")[0] not in _NETWORK:
            raise
        todo = "Try again: finished and half-finished files are kept"
        raise ModelError(f"downloading {name} failed", where=where, got=_brief(error), todo=todo) from error


def _brief(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
