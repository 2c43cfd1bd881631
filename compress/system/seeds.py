"""Random streams: every draw has a seed of its own, made of what it is for."""

import hashlib


def stream(*key: object) -> int:
    """A seed for a random stream of its own: 63 bits of the SHA-256 of its key."""
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "little") >> 1
