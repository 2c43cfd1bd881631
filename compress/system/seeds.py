"""Random streams: each use has its own seed, made from what it is for."""

import hashlib


def stream(*key: object) -> int:
    """The seed of a random stream: 63 bits of the SHA-256 of its key, which names what the stream is for."""
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "little") >> 1
