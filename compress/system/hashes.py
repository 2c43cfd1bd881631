"""A hash that names plain data. Light to import: recipes use it."""

import hashlib
import json


def sha256_json(content: object) -> str:
    """SHA-256 of plain data as JSON with sorted keys, as 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
