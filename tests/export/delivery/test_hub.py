"""`compress push`: timm loads what is made, and huggingface_hub pushes it to a server that stands in for the Hub."""

import base64
import json
import shutil
import sys
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
from compress.runs.folder import Run
from compress.system.distribution import DISTRIBUTION
from compress.system.errors import MachineError
from export import export_run
from export.benchmark import AccuracyResult, NotRun, write_benchmark
from export.tensorrt import LIBRARIES, tensorrt
from tests.helpers.benchmarked import benchmarked
from tests.helpers.command import Command, assert_fails


class Hub(ThreadingHTTPServer):
    """Keeps repositories for whoever has the token, who is the user "me". Of a path each part counts."""

    token = "hf_right"

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, dict[str, bytes]] = {}
        """By repository."""
        self.private: set[str] = set()

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
            self._create(json.loads(body))
        elif self.path == "/api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        elif self._repository("/preupload/main"):
            names = [entry["path"] for entry in json.loads(body)["files"]]
            files = [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]
            self._answer(200, {"files": files})
        elif repo := self._repository("/commit/main"):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.server.files[repo][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                elif line["key"] == "deletedFile":
                    del self.server.files[repo][line["value"]["path"]]
            self._answer(200, {"commitUrl": f"{self.server.url}/{repo}/commit/1", "commitOid": "1", "success": True})
        else:
            self._answer(404, {"error": self.path})

    def do_GET(self) -> None:
        if repo := self._repository("/tree/main"):
            entries = [{"type": "file", "path": name, "size": 1, "oid": "1"} for name in self.server.files[repo]]
            self._answer(200, entries)
        elif repo := self._repository():
            about = {"id": repo, "modelId": repo, "private": repo in self.server.private, "siblings": [], "tags": []}
            self._answer(200, about)
        else:
            self._answer(404, {"error": self.path})

    def _create(self, asked: dict[str, object]) -> None:
        repo = f"{asked['organization'] or 'me'}/{asked['name']}"
        answer = {"url": f"{self.server.url}/{repo}", "name": repo}
        if repo in self.server.files:
            self._answer(409, answer | {"error": "You already created this model repo"})
            return
        self.server.files[repo] = {}
        if asked.get("visibility") == "private" or asked.get("private"):  # new and old clients
            self.server.private.add(repo)
        self._answer(200, answer)

    def _repository(self, rest: str = "") -> str | None:
        """The repository of the path /api/models/REPOSITORY and the rest; None where it is another path."""
        path = self.path.partition("?")[0]
        return next((repo for repo in self.server.files if path == f"/api/models/{repo}{rest}"), None)

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


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_without_a_token_the_folder_is_written_and_timm_loads_the_student_from_it(
    command: Command, run: Path, environment: dict[str, str], hub: Hub
) -> None:
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    recipe["teacher"] |= {"source": "checkpoint", "checkpoint": "/home/somebody/teacher"}
    recipe["teacher"]["ensemble"] = [{"model": "resnet18", "source": "finetune", "weights": "/home/somebody/other.pth"}]
    recipe["student"] |= {"pretrained": "/home/somebody/weights", "model": "local-dir:/home/somebody/student"}
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    result = command("push", run, "me/small", "--json", cwd=run.parent, **environment)
    assert result.returncode == 0, result.stderr
    outcome = json.loads(result.stdout)
    assert outcome["url"] is None
    assert not hub.files
    folder = run / "hub"
    assert outcome["files"] == ["README.md", "config.json", "model.safetensors", "recipe.yaml"]
    where_compress_is = (
        f"# compress is part of {DISTRIBUTION}; the package named compress on PyPI is another project.\n"
        "# Install it from its source checkout: pip install PATH"
    )
    assert f"{where_compress_is}\nimport compress" in (folder / "README.md").read_text()

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
    assert public["teacher"]["ensemble"][0]["weights"] == "other.pth"
    assert (public["student"]["pretrained"], public["student"]["model"]) == ("weights", "local-dir:student")
    assert "somebody" not in (folder / "recipe.yaml").read_text() + (folder / "README.md").read_text()


@pytest.mark.slow
def test_with_a_token_the_hub_gets_the_files_of_the_folder(
    command: Command, run: Path, environment: dict[str, str], hub: Hub
) -> None:
    token = {"HF_TOKEN": hub.token}
    dry = command("push", run, "me/small", "--dry-run", cwd=run.parent, **environment | token)
    assert dry.returncode == 0, dry.stderr
    assert not hub.files
    result = command("push", run, "me/small", "--private", cwd=run.parent, **environment | token)
    assert result.returncode == 0, result.stderr
    assert hub.private == {"me/small"}
    assert hub.files == {"me/small": files_in(run / "hub")}


@pytest.mark.slow
def test_a_token_that_the_hub_refuses_and_a_name_that_is_none_are_one_line_each(
    command: Command, run: Path, environment: dict[str, str]
) -> None:
    wrong = {"HF_TOKEN": "hf_wrong"}
    refused = command("push", run, "me/small", cwd=run.parent, **environment | wrong)
    assert_fails(refused, 4, "me/small", "hf auth whoami")
    assert_fails(command("push", run, "a/b/c", cwd=run.parent, **environment), 2, "a/b/c")


@pytest.mark.slow
def test_a_name_without_a_user_is_refused_and_leaves_no_repository_behind(
    command: Command, run: Path, environment: dict[str, str], hub: Hub
) -> None:
    result = command("push", run, "small", cwd=run.parent, **environment | {"HF_TOKEN": hub.token})
    assert_fails(result, 2, "'small'", "you/small")
    assert not hub.files


@pytest.mark.slow
def test_a_repository_that_exists_is_pushed_to_again_but_not_as_private_where_it_is_public(
    command: Command, run: Path, environment: dict[str, str], hub: Hub
) -> None:
    token = {"HF_TOKEN": hub.token}
    earlier = {"onnx/student.int8.onnx": b"of an earlier push, with other weights"}
    hub.files = {"me/public": dict(earlier), "me/own": dict(earlier)}
    hub.private = {"me/own"}
    result = command("push", run, "me/public", "--private", cwd=run.parent, **environment | token)
    assert_fails(result, 2, "me/public", "public", "settings", "another name")
    assert hub.files["me/public"] == earlier
    for arguments in (("me/public",), ("me/own", "--private")):
        result = command("push", run, *arguments, cwd=run.parent, **environment | token)
        assert result.returncode == 0, result.stderr
        assert hub.files[arguments[0]] == files_in(run / "hub")


@pytest.mark.slow
def test_the_card_has_what_was_measured_and_the_onnx_files_go_as_they_were_exported(
    command: Command,
    finished: Path,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    environment: dict[str, str],
    hub: Hub,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source, benchmark = benchmarked(finished, tmp_path_factory.getbasetemp() / "benchmarked")
    run = Run(tmp_path / source.path.name)
    shutil.copytree(source.path, run.path)
    private = NotRun(reason="cannot open '/home/some body/teacher.engine'")
    more = benchmark.candidates[-1].model_copy(update={"name": "other", "memory": private, "latency": private})
    warnings = ["/home/somebody/CINIC-10 holds 2,000 pictures."]
    told = {"warnings": warnings, "candidates": [*benchmark.candidates, more]}
    write_benchmark(run, benchmark.model_copy(update=told))
    for library in LIBRARIES:
        monkeypatch.setitem(sys.modules, library, None)
    tensorrt.cache_clear()
    with pytest.raises(MachineError):  # no engines, but the ONNX file for them
        export_run(run, formats=("onnx", "trt"), precisions=("fp32", "fp16", "int8"), preprocess=True, threads=1)
    result = command("push", run.path, "me/small", cwd=tmp_path, **environment | {"HF_TOKEN": hub.token})
    assert result.returncode == 0, result.stderr
    pushed = hub.files["me/small"]
    assert b"> \xe2\x9a\xa0 CINIC-10 holds" in pushed["README.md"]
    assert b"cannot open 'teacher.engine'" in pushed["README.md"]
    assert b"/home" not in pushed["README.md"]
    exported = files_in(run.path / "export")
    assert {"student.int8.trt.onnx", "student.pixels.onnx"} < set(exported)  # which stay here
    names = ("student.onnx", "student.fp16.onnx", "student.int8.onnx")
    assert {name: content for name, content in pushed.items() if name.startswith("onnx/")} == {
        f"onnx/{name}": exported[name] for name in names
    }

    rows = [line.strip("| ").split(" | ") for line in pushed["README.md"].decode().splitlines() if line[:1] == "|"]
    head = next(row for row in rows if row[:2] == ["model", "top-1"])
    table = {row[0].removesuffix(" ★"): dict(zip(head, row, strict=True)) for row in rows if len(row) == len(head)}
    assert {"teacher.torch", "student.torch", *names} <= set(table)
    for candidate in benchmark.candidates:
        row = table[candidate.name]
        assert isinstance(candidate.accuracy, AccuracyResult)
        top1 = float(row["top-1"].removesuffix(" (proxy)").removesuffix(" %"))
        assert top1 == pytest.approx(100 * candidate.accuracy.top1.value, abs=0.006)
        assert float(row["MB"]) == pytest.approx(candidate.size_bytes / 1e6, abs=0.006)
        if isinstance(candidate.latency, NotRun):
            assert row["p50 ms"] == "not run"
        else:
            (latency,) = [one for one in candidate.latency if (one.scope, one.batch) == ("model", 1)]
            assert float(row["p50 ms"]) == pytest.approx(latency.p50_ms.value, rel=0.01)
            assert float(row["p90 ms"]) == pytest.approx(latency.p90_ms.value, rel=0.01)
