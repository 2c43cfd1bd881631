"""A server on this machine that misbehaves as it is told, and archives for it to serve, hostile ones among them."""

import io
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Members = list[tuple[str, bytes]]


class Server(ThreadingHTTPServer):
    """Serves `content` at every path and notes the ranges that it is asked for.

    `behaviour` is what goes wrong:
        cut, stall   half of the content, then the end, or nothing for a second
        missing      404
        no ranges    the whole content, whatever range is asked for
        http:...     a redirect to that address
    """

    content, behaviour = b"", ""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.ranges: list[str | None] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/archive"

    def close(self) -> None:
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        behaviour, content = self.server.behaviour, self.server.content
        requested = self.headers.get("Range")
        self.server.ranges.append(requested)
        if behaviour == "missing":
            self.send_error(404)
            return
        if behaviour.startswith("http:"):
            self.send_response(302)
            self.send_header("Location", behaviour)
            self.end_headers()
            return
        start = int(requested.removeprefix("bytes=").removesuffix("-")) if requested else 0
        if behaviour == "no ranges":
            start = 0
        if start and start >= len(content):
            self.send_error(416)
            return
        body = content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if behaviour in ("cut", "stall") else body)
        if behaviour == "stall":
            self.wfile.flush()
            time.sleep(2)


def make_tar(members: Members, change: Callable[[tarfile.TarInfo], None] = lambda _: None) -> bytes:
    """change: what is done to the entry of the last member."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            if name == members[-1][0]:
                change(info)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def make_zip(members: Members, mode: int = 0) -> bytes:
    """mode: the file mode of the last member, where it is not 0."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            info = zipfile.ZipInfo(name)
            if name == members[-1][0]:
                info.external_attr = mode << 16
            archive.writestr(info, content)
    return buffer.getvalue()


def link(kind: bytes) -> Callable[[tarfile.TarInfo], None]:
    """Turns an entry into a link of that kind, to a place outside."""

    def change(info: tarfile.TarInfo) -> None:
        info.type, info.linkname, info.size = kind, "../../secret", 0

    return change
