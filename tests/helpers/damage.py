"""Ways in which a file is damaged."""

import struct
import zlib
from pathlib import Path


def truncate(path: Path) -> None:
    """Takes its last 30 bytes away: of a PNG more than the mark of its end."""
    path.write_bytes(path.read_bytes()[:-30])


def flip_a_bit(path: Path) -> None:
    """One, in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def not_an_image(path: Path) -> None:
    path.write_text("hello")


def huge(path: Path) -> None:
    """A whole PNG of 12,000 x 9,000 black pixels in 13 kB, which Pillow alone would read."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 12_000, 9_000, 1, 0, 0, 0, 0)  # one bit a pixel
    body = zlib.compress(bytes(9_000 * (1 + 12_000 // 8)))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b""))


def a_link_to_nowhere(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere.png")
