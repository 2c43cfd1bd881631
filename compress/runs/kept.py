"""What was found out about a model on this machine, kept in the cache: it takes seconds, and many runs ask.

In: the kind of finding, and the facts on which it depends. Out: what was found before, if it was.
"""

import contextlib
import json
from pathlib import Path
from typing import Any

from compress.models.create import architecture
from compress.models.published import find_published
from compress.recipe import Member, Student
from compress.system import files
from compress.system.errors import CompressError
from compress.system.hashes import sha256_json


def model_facts(model: Student | Member, image_size: int) -> dict[str, Any]:
    """timm's name, without a tag, and arguments of the recipe's model; of local-dir:PATH what its config.json names.

    Args:
        image_size: pixels a side.

    Raises:
        CompressError: timm has no such model, or its config.json cannot be read.
    """
    name, args = architecture(model, image_size), model.args
    if ":" in name:
        found = find_published(model)
        name, args = found.architecture, found.args
    return {"model": name.split(".")[0], "args": args, "image_size": image_size}


def recalled(kind: str, facts: dict[str, Any]) -> dict[str, Any]:
    """The finding on these facts, or nothing.

    Args:
        kind: the folder of such findings in the cache.
        facts: those of the model, and what else the finding depends on.
    """
    with contextlib.suppress(CompressError, OSError, ValueError):
        content = json.loads(_place(kind, facts).read_text(encoding="utf-8"))
        if isinstance(content, dict):
            return content
    return {}


def keep(kind: str, facts: dict[str, Any], **found: Any) -> None:
    """Writes a finding beside the facts. A cache that cannot be written is no reason not to train."""
    with contextlib.suppress(CompressError, OSError):
        place = _place(kind, facts)
        place.parent.parent.mkdir(parents=True, exist_ok=True)
        files.write_json(place, {**facts, **found})


def _place(kind: str, facts: dict[str, Any]) -> Path:
    return files.cache_folder() / kind / f"{facts['model']}-{sha256_json(facts)[:12]}.json"
