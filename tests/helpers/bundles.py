"""Changing bundles as someone does who makes one by hand: all hashes fit again."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from export.records import BundledModel, BundleManifest


def bundle_manifest(default: str, *others: str, files: dict[str, str] | None = None) -> BundleManifest:
    """The manifest of a bundle with these models, and next to nothing else. files: their hashes, by path."""
    return BundleManifest(
        default_model=default,
        models={name: BundledModel(precision="fp32") for name in (default, *others)},
        mean=[0.0],
        std=[1.0],
        image_size=8,
        golden={"a.png": "dark"},
        eval_images=[8],
        preprocessing_signature="",
        files=files or {},
    )


def sign(bundle: Path, change: Callable[[dict[str, Any]], object] = lambda manifest: None, **entries: Any) -> None:
    """Changes the manifest, and gives it and its files the right hashes."""
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    manifest |= entries
    for name in manifest["files"]:
        if (bundle / name).is_file():
            manifest["files"][name] = hashlib.sha256((bundle / name).read_bytes()).hexdigest()
    del manifest["sha256"]
    manifest["sha256"] = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps(manifest))
