"""stub"""

from collections.abc import Sequence
from pathlib import Path


def hub_file(repo: str, names: Sequence[str], *, revision: str | None = None) -> Path:
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(repo, names[0], revision=revision))


def check_published(model: str) -> None:
    return None
