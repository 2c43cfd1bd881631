"""Ways in which a file is damaged."""

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
