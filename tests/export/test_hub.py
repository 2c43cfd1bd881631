"""`compress push`: timm loads what is made, and huggingface_hub pushes it to a server that stands in for the Hub."""

import base64
import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import timm
import torch
import yaml
from huggingface_hub import ModelCard

from compress import load_student
from tests.conftest import Command, assert_fails


class Hub(ThreadingHTTPServer):
    """Takes a repository in one commit, from whoever has the token."""

    token = "hf_right"

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.created: dict[str, object] = {}
        self.files: dict[str, bytes] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Authorization") != f"Bearer {self.server.token}":
            self._answer(401, {"error": "Invalid username or password."})
        elif self.path == "/api/repos/create":
            self.server.created = json.loads(body)
            self._answer(200, {"url": f"{self.server.url}/me/small", "name": "me/small"})
        elif self.path == "/api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        elif self.path.endswith("/preupload/main"):
            names = [entry["path"] for entry in json.loads(body)["files"]]
            files = [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]
            self._answer(200, {"files": files})
        elif self.path.endswith("/commit/main"):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                elif line["key"] == "deletedFile":
                    del self.server.files[line["value"]["path"]]
            self._answer(200, {"commitUrl": f"{self.server.url}/me/small/commit/1", "commitOid": "1", "success": True})
        else:
            self._answer(404, {"error": self.path})

    def do_GET(self) -> None:
        if "/tree/main" in self.path:
            entries = [{"type": "file", "path": name, "size": 1, "oid": "1"} for name in self.server.files]
            self._answer(200, entries)
            return
        self._answer(200, {"id": "me/small", "modelId": "me/small", "private": True, "siblings": [], "tags": []})

    def _answer(self, status: int, content: object) -> None:
        raw = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def environment(tmp_path: Path, hub: Hub) -> dict[str, str]:
    """Nobody is logged in."""
    return {"HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_TELEMETRY": "1", "HF_TOKEN": ""}


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / finished.name))


@pytest.mark.slow
def test_without_a_token_the_folder_is_written_and_timm_loads_the_student_from_it(
    command: Command, run: Path, environment: dict[str, str], hub: Hub
) -> None:
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    recipe["teacher"] |= {"source": "checkpoint", "checkpoint": "/home/somebody/teacher"}
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    result = command("push", run, "me/small", "--json", cwd=run.parent, **environment)
    assert result.returncode == 0, result.stderr
    outcome = json.loads(result.stdout)
    assert outcome["url"] is None
    assert not hub.files
    folder = run / "hub"
    assert outcome["files"] == ["README.md", "config.json", "model.safetensors", "recipe.yaml"]

    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    size = model.pretrained_cfg["input_size"][-1]
    images = torch.rand(2, 3, size, size)
    torch.testing.assert_close(model(images), load_student(run)(images))

    card = ModelCard.load(folder / "README.md")
    manifest = json.loads((run / "manifest.json").read_text())
    (result_of_card,) = card.data.eval_results
    assert result_of_card.metric_value == pytest.approx(manifest["student_top1"], abs=1e-6)
    assert card.data.library_name == "timm"
    public = yaml.safe_load((folder / "recipe.yaml").read_text())
    assert (public["data"]["root"], public["teacher"]["checkpoint"]) == (None, "teacher")


@pytest.mark.slow
def test_with_a_token_the_hub_gets_the_files_of_the_folder(
    command: Command, run: Path, environment: dict[str, str], hub: Hub
) -> None:
    token = {"HF_TOKEN": hub.token}
    dry = command("push", run, "me/small", "--dry-run", cwd=run.parent, **environment | token)
    assert dry.returncode == 0, dry.stderr
    assert not hub.files
    hub.files["onnx/student.int8.onnx"] = b"of an earlier push, with other weights"
    result = command("push", run, "me/small", "--private", cwd=run.parent, **environment | token)
    assert result.returncode == 0, result.stderr
    assert hub.created.get("visibility") == "private" or hub.created.get("private") is True  # old and new clients
    folder = run / "hub"
    assert hub.files == {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow
def test_a_token_that_the_hub_refuses_and_a_name_that_is_none_are_one_line_each(
    command: Command, run: Path, environment: dict[str, str]
) -> None:
    wrong = {"HF_TOKEN": "hf_wrong"}
    refused = command("push", run, "me/small", cwd=run.parent, **environment | wrong)
    assert_fails(refused, 4, "me/small", "hf auth whoami")
    assert_fails(command("push", run, "a/b/c", cwd=run.parent, **environment), 2, "a/b/c")
