"""A server on this machine that stands in for the Hugging Face Hub where files are downloaded."""

import hashlib
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_REFUSALS = {
    "missing": (404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}),
    "no revision": (404, {"X-Error-Code": "RevisionNotFound"}),
    "no repository": (401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}),
    "unknown": (401, {}),
    "gated": (403, {"X-Error-Code": "GatedRepo"}),
    "token": (401, {"X-Error-Message": "Invalid credentials in Authorization header"}),
    "forbidden": (403, {}),
    "strange": (404, {}),
    "busy": (503, {}),
    "limited": (429, {"Retry-After": "3600"}),
}


class Hub(ThreadingHTTPServer):
    """Serves `files`, each at /REPOSITORY/resolve/main/NAME and at its commit, and notes what it is asked.

    `behaviour` is what it does instead:
        missing, no revision, no repository, unknown, gated, token, forbidden, busy, limited   an answer of the Hub
        strange             404 without the Hub's headers
        hang, hang at get   it takes the request, or that of the content, and never answers
        cut                 half of what is asked for, then the end
        other bytes         content of the same length
        no hub              200 without the Hub's headers
        wait for two        content comes once two have asked for the file
        warn                as usual, with a warning for people
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        """By REPOSITORY/NAME."""
        self.behaviour = ""
        self.requests: list[str] = []
        """METHOD PATH, with the range that is asked for."""
        self.tokens: set[str | None] = set()
        self.closing = threading.Event()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def close(self) -> None:
        self.closing.set()
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        requested = self.headers.get("Range")
        self.server.requests.append(f"{self.command} {self.path}{f' {requested}' if requested else ''}")
        self.server.tokens.add(self.headers.get("Authorization"))
        behaviour, get = self.server.behaviour, self.command == "GET"
        if behaviour == "hang" or (behaviour == "hang at get" and get):
            self.server.closing.wait(60)
            return
        while behaviour == "wait for two" and get and sum("HEAD" in each for each in self.server.requests) < 2:
            time.sleep(0.01)
        if behaviour in _REFUSALS:
            self._send(*_REFUSALS[behaviour])
            return
        repo, _, rest = self.path[1:].partition("/resolve/")
        content = self.server.files.get(f"{repo}/{rest.partition('/')[2]}")
        if content is None:
            self._send(*_REFUSALS["missing"])
            return
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
        if behaviour == "no hub":
            headers = {}
        if behaviour == "warn":
            headers["X-HF-Warning"] = "a topic; a warning for people"
        if behaviour == "other bytes":
            content = content[::-1]
        start = int(requested.removeprefix("bytes=").removesuffix("-")) if requested else 0
        if start and start >= len(content):
            self._send(416, {})
            return
        body = content[start:]
        self._send(206 if start else 200, headers, body, body[: len(body) // 2] if behaviour == "cut" else body)

    def _send(self, status: int, headers: dict[str, Any], body: bytes = b"", sent: bytes = b"") -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": len(body)}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(sent)
            self.wfile.flush()
            if len(sent) < len(body):
                time.sleep(0.1)
