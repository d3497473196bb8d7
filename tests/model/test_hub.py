"""`resolve`: folders, and hub ids against a small hub of our own on 127.0.0.1 through the real client."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import huggingface_hub
import pytest
from huggingface_hub import errors

from helpers_checkpoint import qwen3_moe, write_checkpoint
from locum.errors import CheckpointError, ModelError, UsageError
from locum.model import Checkpoint, MoESpec, resolve

COMMIT = "c0ffee" + "0" * 34


class Hub:
    """A hub with one model, `org/model`, and some that answer with errors. Serves the client's API."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.served: list[str] = []
        """Files sent, by path, `@offset` added for those asked for from an offset."""
        self.cut: dict[str, int] = {}
        """Files whose transfer breaks off after so many bytes, once."""
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub.answer(self, body=True)

            def do_HEAD(self) -> None:
                hub.answer(self, body=False)

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def answer(self, request: BaseHTTPRequestHandler, *, body: bool) -> None:
        path = unquote(urlsplit(request.path).path)
        if "org/gated" in path:
            self.error(request, 403, "GatedRepo")
        elif "org/broken" in path:
            self.error(request, 500, None)
        elif "org/model" not in path:
            self.error(request, 404, "RepoNotFound")
        elif path.startswith("/api/models/org/model/revision/"):
            if path.rsplit("/", 1)[1] in ("main", "v1", COMMIT):
                self.json(request, {"id": "org/model", "sha": COMMIT, "siblings": []})
            else:
                self.error(request, 404, "RevisionNotFound")
        elif path.startswith("/api/models/org/model/tree/"):
            self.json(
                request, [self.entry(file) for file in sorted(self.folder.rglob("*")) if file.is_file()]
            )
        elif path.startswith(f"/org/model/resolve/{COMMIT}/"):
            self.file(request, path.removeprefix(f"/org/model/resolve/{COMMIT}/"), body=body)
        else:
            self.error(request, 404, "EntryNotFound")

    def entry(self, file: Path) -> dict[str, Any]:
        content = file.read_bytes()
        name = file.relative_to(self.folder).as_posix()
        return {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}

    def file(self, request: BaseHTTPRequestHandler, name: str, *, body: bool) -> None:
        content = (self.folder / name).read_bytes()
        asked = request.headers.get("Range")
        first, _, last = asked.removeprefix("bytes=").partition("-") if asked else ("0", "", "")
        start, end = int(first), min(int(last or len(content)) + 1, len(content))
        request.send_response(206 if asked else 200)
        request.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        request.send_header("X-Repo-Commit", COMMIT)
        request.send_header("Content-Length", str(end - start))
        if asked:
            request.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(content)}")
        request.end_headers()
        if not body:
            return
        self.served.append(f"{name}[:{end}]" if last else f"{name}@{start}" if start else name)
        cut = self.cut.pop(name, None)
        request.wfile.write(content[start : min(end, cut or end)])
        if cut is not None:
            request.close_connection = True

    def json(self, request: BaseHTTPRequestHandler, document: object) -> None:
        text = json.dumps(document).encode()
        request.send_response(200)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(text)))
        request.end_headers()
        request.wfile.write(text)

    def error(self, request: BaseHTTPRequestHandler, status: int, code: str | None) -> None:
        request.send_response(status)
        if code:
            request.send_header("X-Error-Code", code)
            request.send_header("X-Error-Message", f"the hub says {code}")
        request.send_header("Content-Length", "0")
        request.end_headers()


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    folder = tmp_path / "origin"
    config, tensors = qwen3_moe()
    write_checkpoint(folder, config, tensors, shards=3)
    extras = {
        "generation_config.json": b'{"top_k": 1}',
        "tokenizer.json": b'{"version": 1}',
        "tokenizer.model": b"x",
        "merges.txt": b"a b",
        "chat_template.jinja": b"{{ messages }}",
        "additional_chat_templates/rag.jinja": b"{{ x }}",
        "modeling_evil.py": b"raise SystemExit('never')",
        "pytorch_model.bin": b"pickle",
        "training_args.bin": b"pickle",
        "weights.pt": b"pickle",
        "data.pkl": b"pickle",
        "consolidated.safetensors": b"a second copy of the weights",
        "original/model.safetensors": b"a third copy",
        "original/config.json": b"{}",
        "README.md": b"words",
    }
    for name, content in extras.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    served = Hub(folder)
    yield served
    served.close()


def ask(home: Path, models: list[str], call: str = "resolve(model)", **environment: str) -> list[list[str]]:
    """Resolve in a process of its own, as the client reads its settings once. [kind, text] for each model."""
    code = (
        "import json, sys\n"
        "from locum.errors import LocumError\n"
        "from pathlib import Path\n"
        "from locum.model import resolve\n"
        "from locum.model.glance import glance\n"
        "out = []\n"
        "for model in sys.argv[1:]:\n"
        "    try:\n"
        f"        out.append(['Path', str({call})])\n"
        "    except LocumError as error:\n"
        "        out.append([type(error).__name__, str(error)])\n"
        "assert 'torch' not in sys.modules\n"
        "print(json.dumps(out))\n"
    )
    settings = {"HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    run = subprocess.run(
        [sys.executable, "-c", code, *models],
        env={**inherited, **settings, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    outcome: list[list[str]] = json.loads(run.stdout)
    return outcome


def test_download_then_cache_then_offline(hub: Hub, tmp_path: Path) -> None:
    home = tmp_path / "home"
    [[kind, text], [_, tagged]] = ask(home, ["org/model", "org/model@v1"], HF_ENDPOINT=hub.url)
    assert kind == "Path", text
    folder = Path(text)
    assert tagged == text
    wanted = {
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer.model",
        "merges.txt",
        "chat_template.jinja",
        "additional_chat_templates/rag.jinja",
        "model.safetensors.index.json",
        *(f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)),
    }
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == wanted
    assert sorted(hub.served) == sorted(wanted)  # each once: the second call was served from the cache
    assert Checkpoint.open(folder).tensors == Checkpoint.open(hub.folder).tensors

    hub.served.clear()
    assert ask(home, ["org/model"], HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="1") == [["Path", text]]
    assert hub.served == []


def test_a_broken_transfer_is_an_error_and_resumes(hub: Hub, tmp_path: Path) -> None:
    chunk = 10 << 20  # the client writes what arrives in pieces of this size
    config, tensors = qwen3_moe(vocab=200_000, hidden=64)
    write_checkpoint(hub.folder, config, tensors, shards=3)
    name = "model-00001-of-00003.safetensors"
    hub.cut[name] = 2 * chunk + 500
    first, second = ask(tmp_path / "home", ["org/model", "org/model"], HF_ENDPOINT=hub.url)
    attempts = [file for file in hub.served if file.startswith(name)]
    assert attempts[0] == name
    assert attempts[1:] == [f"{name}@{2 * chunk}"]  # what had arrived is not sent again
    assert hub.served.count("model-00002-of-00003.safetensors") == 1
    assert second[0] == "Path", second
    assert (Path(second[1]) / name).read_bytes() == (hub.folder / name).read_bytes()
    assert first[0] == "Path" or "Try again" in first[1]


def test_errors_of_the_hub_are_ours(hub: Hub, tmp_path: Path) -> None:
    asked = ["org/absent", "org/gated", "org/model@nope", "org/broken"]
    absent, gated, revision, broken = ask(tmp_path / "home", asked, HF_ENDPOINT=hub.url)
    assert absent[0] == gated[0] == revision[0] == broken[0] == "ModelError"
    assert "there is no model org/absent" in absent[1]
    assert "access to org/gated is restricted" in gated[1]
    assert "hf auth login" in gated[1]
    assert "there is no revision org/model@nope" in revision[1]
    assert "org/broken is not in the cache" in broken[1]


def test_offline_and_not_cached(hub: Hub, tmp_path: Path) -> None:
    [[kind, text]] = ask(tmp_path / "home", ["org/model"], HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="1")
    assert kind == "ModelError"
    assert "not in the cache" in text
    assert "HF_HUB_OFFLINE" in text
    assert hub.served == []


def test_no_network(hub: Hub, tmp_path: Path) -> None:
    hub.close()
    [[kind, text]] = ask(tmp_path / "home", ["org/model"], HF_ENDPOINT=hub.url)
    assert kind == "ModelError"
    assert "the hub was not reached" in text


def test_an_index_of_pickles_downloads_no_weights(hub: Hub, tmp_path: Path) -> None:
    (hub.folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "pytorch_model.bin"}}')
    [[kind, text]] = ask(tmp_path / "home", ["org/model"], HF_ENDPOINT=hub.url)
    assert kind == "CheckpointError"
    assert "safetensors" in text
    assert not any(name.endswith((".bin", ".safetensors")) for name in hub.served)


def test_one_file_without_an_index(hub: Hub, tmp_path: Path) -> None:
    for path in hub.folder.glob("model*"):
        path.unlink()
    config, tensors = qwen3_moe()
    write_checkpoint(hub.folder, config, tensors)
    [[kind, text]] = ask(tmp_path / "home", ["org/model"], HF_ENDPOINT=hub.url)
    assert kind == "Path", text
    assert [path.name for path in Path(text).glob("*.safetensors")] == ["model.safetensors"]


def test_a_folder_is_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "org" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert resolve(tmp_path) == tmp_path
    assert resolve("org/model") == Path("org/model")  # a folder wins over a hub id of the same name
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve("~/org/model") == tmp_path / "org" / "model"


@pytest.mark.parametrize(
    "model",
    [
        "",
        "no-slash",
        "/no/such/folder",
        "a/b/c",
        "../x/y",
        "org/",
        "org/model@",
        "org/mo del",
        "-x/y",
        "o/m\n",
    ],
)
def test_neither_folder_nor_id(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: pytest.fail("asked the hub"))
    with pytest.raises(UsageError, match="org/name"):
        resolve(model)


def test_a_file_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"GGUF")
    with pytest.raises(UsageError, match="a model is a folder"):
        resolve(tmp_path / "model.bin")


@pytest.mark.parametrize(
    ("error", "ours"),
    [
        (OSError(28, "No space left on device"), ModelError),
        (ConnectionResetError("peer"), ModelError),
        (errors.HFValidationError("bad"), UsageError),
        (errors.XetDownloadError("xet"), ModelError),
        (CheckpointError("ours"), CheckpointError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (ZeroDivisionError(), ZeroDivisionError),
    ],
)
def test_every_failure_of_the_client_has_a_type(
    error: BaseException, ours: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **kwargs: object) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(ours) as caught:
        resolve("org/model")
    assert type(caught.value) is ours


def test_the_weights_are_of_the_commit_that_the_index_came_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / COMMIT
    folder.mkdir()
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "x.safetensors"}}')
    calls: list[dict[str, Any]] = []

    def fake(repository: str, **options: Any) -> str:
        calls.append({"repository": repository, **options})
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake)
    assert resolve("org/model@branch") == folder
    assert [call["repository"] for call in calls] == ["org/model"] * 2
    assert [call["revision"] for call in calls] == ["branch", COMMIT]
    assert calls[1]["allow_patterns"] == ["x.safetensors"]
    patterns = [*calls[0]["allow_patterns"], *calls[1]["allow_patterns"]]
    assert not any(pattern.endswith((".bin", ".pt", ".pkl", ".py", "*")) for pattern in patterns)


def test_a_glance_fetches_headers_only(hub: Hub, tmp_path: Path) -> None:
    home, call = tmp_path / "home", f"glance(model, Path({str(tmp_path / 'headers')!r}))"
    [[kind, text]] = ask(home, ["org/model@v1"], call, HF_ENDPOINT=hub.url)
    assert kind == "Path"
    fetched = [name for name in hub.served if ".safetensors" in name and not name.endswith(".json")]
    assert len(fetched) == 3
    assert all(name.endswith("]") for name in fetched)  # asked for by range, never whole
    seen, real = Checkpoint.open(text), Checkpoint.open(hub.folder)
    assert MoESpec.of(seen) == MoESpec.of(real)
    assert {name: info.shape for name, info in seen.tensors.items()} == {
        name: info.shape for name, info in real.tensors.items()
    }
    # the same again needs neither weights nor the hub; running it does not take hollow files for real ones
    hub.served.clear()
    assert ask(home, ["org/model@v1"], call, HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="1") == [[kind, text]]
    assert not hub.served
    [[kind, whole]] = ask(home, ["org/model"], HF_ENDPOINT=hub.url)
    assert kind == "Path"
    assert whole != text
    # what is downloaded already is looked at where it lies
    assert ask(home, ["org/model"], call, HF_ENDPOINT=hub.url) == [["Path", whole]]


def test_a_glance_at_nothing(hub: Hub, tmp_path: Path) -> None:
    call = f"glance(model, Path({str(tmp_path / 'headers')!r}))"
    asked = ["org/absent", "no such thing", str(hub.folder)]
    absent, neither, folder = ask(tmp_path / "home", asked, call, HF_ENDPOINT=hub.url)
    assert absent[0] == "ModelError"
    assert neither[0] == "UsageError"
    assert folder == ["Path", str(hub.folder)]
    assert not (tmp_path / "headers").exists()


def test_a_glance_cut_off_leaves_nothing(hub: Hub, tmp_path: Path) -> None:
    hub.cut = {file.name: 40 for file in hub.folder.glob("model-00002*.safetensors")}
    call = f"glance(model, Path({str(tmp_path / 'headers')!r}))"
    [[kind, text]] = ask(tmp_path / "home", ["org/model"], call, HF_ENDPOINT=hub.url)
    assert kind == "ModelError", text
    assert not (tmp_path / "headers").exists()


def test_a_glance_at_one_file_without_an_index(hub: Hub, tmp_path: Path) -> None:
    for file in hub.folder.glob("model*"):
        file.unlink()
    config, tensors = qwen3_moe()
    write_checkpoint(hub.folder, config, tensors)
    home, call = tmp_path / "home", f"glance(model, Path({str(tmp_path / 'headers')!r}))"
    [[kind, text]] = ask(home, ["org/model"], call, HF_ENDPOINT=hub.url)
    assert kind == "Path", text
    assert MoESpec.of(Checkpoint.open(text)) == MoESpec.of(Checkpoint.open(hub.folder))
    [[_, whole]] = ask(home, ["org/model"], HF_ENDPOINT=hub.url)
    assert whole != text
    assert ask(home, ["org/model"], call, HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="1") == [["Path", whole]]
