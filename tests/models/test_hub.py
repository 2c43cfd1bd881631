"""Files of the Hugging Face Hub: what it answers, or that it does not, and what our one line then says.

huggingface_hub reads its environment where it is imported, so each case is a process of its own.
"""

import os
import resource
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.helpers.command import assert_fails
from tests.helpers.hub import COMMIT, Hub

REPO, NAME = "timm/small.a1_in1k", "model.safetensors"
CONTENT = bytes(range(256)) * 1000
PROGRAM = """
import sys
from compress.models.hub import hub_file
from compress.system.console import show_log
from compress.system.errors import CompressError
show_log()
repo, revision, *names = sys.argv[1:]
try:
    print(hub_file(repo, names, revision=revision or None))
except CompressError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(error.code)
"""

Result = subprocess.CompletedProcess[str]
Ask = Callable[..., Result]


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub()
    server.files = {f"{REPO}/{NAME}": CONTENT}
    yield server
    server.close()


@pytest.fixture
def ask(hub: Hub, tmp_path: Path) -> Ask:
    """Asks for files of a repository in a new process, whose cache is in tmp_path."""
    kept = {name: value for name, value in os.environ.items() if "proxy" not in name.lower() and name[:3] != "HF_"}
    kept |= {"HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": hub.url}

    def run(
        *names: str, repo: str = REPO, revision: str = "", preexec: Callable[[], None] | None = None, **env: str
    ) -> Result:
        command = [sys.executable, "-c", PROGRAM, repo, revision, *(names or (NAME,))]
        return subprocess.run(
            command, env={**kept, **env}, capture_output=True, text=True, timeout=120, preexec_fn=preexec
        )

    return run


def found(result: Result) -> bytes:
    assert result.returncode == 0, result.stderr
    return Path(result.stdout.strip()).read_bytes()


def assert_one_line(result: Result, code: int, *words: str) -> None:
    assert_fails(result, code, *words)
    assert len(result.stderr.splitlines()) == 1, result.stderr


HEAD = f"HEAD /{REPO}/resolve/main/{NAME}"
GET = f"GET /{REPO}/resolve/{COMMIT}/{NAME}"


def test_a_file_is_downloaded_once_and_then_needs_no_network(ask: Ask, hub: Hub) -> None:
    hub.behaviour = "warn"
    result = ask()
    assert found(result) == CONTENT
    assert result.stderr == f"weights: downloading {REPO}/{NAME}, 0.3 MB\n"
    assert hub.requests == [HEAD, GET]
    hub.requests.clear()
    for env in ({}, {"HF_HUB_OFFLINE": "1"}):
        again = ask(**env)
        assert found(again) == CONTENT
        assert (again.stdout, again.stderr) == (result.stdout, "")
    assert not hub.requests


def test_what_is_in_the_cache_is_what_huggingface_hub_finds_there(ask: Ask, hub: Hub, tmp_path: Path) -> None:
    path = ask().stdout.strip()
    program = f"""
from huggingface_hub import hf_hub_download, scan_cache_dir
(repo,) = scan_cache_dir().repos
(revision,) = repo.revisions
assert (repo.repo_id, revision.refs, len(revision.files)) == ({REPO!r}, {{"main"}}, 1)
assert not scan_cache_dir().warnings
print(hf_hub_download({REPO!r}, {NAME!r}))
"""
    env = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    result = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=120)
    assert result.stdout.strip() == path, result.stderr


def test_the_first_name_that_the_repository_has_is_taken_and_one_in_the_cache_comes_before(ask: Ask, hub: Hub) -> None:
    hub.files[f"{REPO}/pytorch_model.bin"] = b"torch"
    assert found(ask("open_clip.safetensors", "pytorch_model.bin", NAME)) == b"torch"
    asked = [request.split("/")[-1] for request in hub.requests]
    assert asked == ["open_clip.safetensors", "pytorch_model.bin", "pytorch_model.bin"]
    hub.requests.clear()
    assert found(ask(NAME, "pytorch_model.bin")) == b"torch"
    assert not hub.requests


def test_a_revision_and_a_token_are_handed_on(ask: Ask, hub: Hub) -> None:
    assert found(ask(revision="v1", HF_TOKEN="hf_secret")) == CONTENT
    assert hub.requests == [HEAD.replace("main", "v1"), GET]
    assert hub.tokens == {"Bearer hf_secret"}
    hub.requests.clear()
    assert found(ask(revision="v1")) == found(ask(revision=COMMIT)) == CONTENT
    assert not hub.requests


def test_a_download_that_breaks_off_goes_on_where_it_was(ask: Ask, hub: Hub) -> None:
    hub.behaviour = "cut"
    result = ask()
    assert_fails(result, 4, f"{REPO}/{NAME} broke off at 128,000 of 256,000 bytes", "Run it again")
    assert len(hub.requests) == 2
    hub.behaviour = ""
    hub.requests.clear()
    result = ask()
    assert found(result) == CONTENT
    assert "from 0.1 MB on" in result.stderr
    assert hub.requests == [HEAD, f"{GET} bytes=128000-"]


def test_of_two_processes_one_downloads_and_the_other_waits_for_it(ask: Ask, hub: Hub) -> None:
    hub.behaviour = "wait for two"
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda _: ask(HF_HUB_ETAG_TIMEOUT="60"), range(2)))
    assert found(results[0]) == found(results[1]) == CONTENT
    assert sorted(hub.requests) == [GET, HEAD, HEAD]


def test_bytes_other_than_the_hub_s_are_never_cached(ask: Ask, hub: Hub) -> None:
    hub.behaviour = "other bytes"
    assert_fails(ask(), 4, "arrived damaged", "Run it again")
    hub.behaviour = ""
    assert found(ask()) == CONTENT


def test_a_damaged_file_that_was_deleted_is_downloaded_again(ask: Ask, hub: Hub) -> None:
    path = Path(ask().stdout.strip())
    path.resolve().write_bytes(CONTENT[:1000])
    path.unlink()
    assert found(ask()) == CONTENT


COMMAND = f"`hf download {REPO} {NAME} config.json --local-dir FOLDER`"
SETTING = "set student.pretrained or teacher.weights to that folder"
REFUSALS = {
    "missing": (3, (f"{REPO} has no {NAME}",)),
    "no revision": (3, (f"{REPO} has no revision",)),
    "no repository": (3, (f"{REPO} does not exist", "is private", "hf auth login")),
    "unknown": (3, (f"{REPO} does not exist", "is private", "hf auth login")),
    "gated": (4, (f"{REPO} is gated", f"https://huggingface.co/{REPO}", "hf auth login")),
    "token": (4, ("refuses the token", REPO, "hf auth login")),
    "forbidden": (4, (REPO, "403 Forbidden", COMMAND, SETTING)),
    "strange": (4, (REPO, "404 Not Found", COMMAND, SETTING)),
    "busy": (4, (REPO, "503 Service Unavailable", COMMAND, SETTING)),
    "limited": (4, (REPO, "429 Too Many Requests", COMMAND, SETTING)),
    "no hub": (4, (REPO, "does not answer as the Hugging Face Hub does", COMMAND, SETTING)),
    "hang": (4, (REPO, "no answer within 1 s", COMMAND, SETTING)),
}


@pytest.mark.parametrize("behaviour", REFUSALS)
def test_a_refusal_is_one_line_and_the_hub_is_asked_once(ask: Ask, hub: Hub, behaviour: str) -> None:
    hub.behaviour = behaviour
    code, words = REFUSALS[behaviour]
    assert_one_line(ask(HF_HUB_ETAG_TIMEOUT="1"), code, *words)
    assert hub.requests == [HEAD]


def test_content_that_never_comes_is_one_line(ask: Ask, hub: Hub) -> None:
    hub.behaviour = "hang at get"
    assert_one_line(ask(HF_HUB_ETAG_TIMEOUT="1"), 4, "no answer within 1 s", COMMAND)
    assert hub.requests == [HEAD, GET]


def test_without_a_network_the_line_says_how_another_machine_fetches_it(ask: Ask, hub: Hub) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{free.getsockname()[1]}"
        assert_one_line(ask(HF_ENDPOINT=closed), 4, "Connection refused", COMMAND, SETTING)
        assert_one_line(ask(HTTP_PROXY=closed), 4, "Connection refused", COMMAND, SETTING)
    assert_one_line(ask(HF_ENDPOINT="http://hub.invalid"), 4, "hub.invalid", COMMAND, SETTING)
    assert_one_line(ask(HF_HUB_OFFLINE="1"), 4, "not in the cache, and HF_HUB_OFFLINE", COMMAND, SETTING)
    of_config = ask("config.json", revision="v1", HF_HUB_OFFLINE="1")
    assert_one_line(of_config, 4, f"{NAME} config.json --revision v1 --local-dir")
    of_other = ask("open_clip.bin", HF_HUB_OFFLINE="1")
    assert_one_line(of_other, 4, f"{REPO} open_clip.bin --local-dir FOLDER`", "to FOLDER/open_clip.bin")
    assert not hub.requests


def test_a_cache_that_cannot_be_written_is_one_line(ask: Ask, hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert_one_line(ask(HF_HUB_CACHE=str(tmp_path / "file" / "hub")), 4, "cannot write", "file/hub", "HF_HOME")
    assert_one_line(ask(HF_HOME=str(tmp_path / "file" / "home")), 4, "cannot read", "file/home/token", "HF_HOME")


def test_a_disk_that_is_full_is_an_error_and_the_download_goes_on_later(ask: Ask, hub: Hub) -> None:
    def small_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    assert_fails(ask(preexec=small_disk), 4, "cannot write", "File too large", "Free space there")
    assert found(ask()) == CONTENT
    assert hub.requests[-1] == f"{GET} bytes=100000-"


def test_names_that_are_none_are_wrong_usage(ask: Ask, hub: Hub) -> None:
    assert_one_line(ask(repo="a/b/c"), 2, "'a/b/c'")
    assert_one_line(ask("../secret"), 2, "'../secret'")
    assert_one_line(ask(revision="../../x"), 2, "'../../x'")
    assert not hub.requests
