"""A model's export without a run: for the tests of what an export writes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from compress.recipe import Export
from export.folder import ExportFolder
from export.gates import Source
from export.pipeline import Wanted, export_model
from export.records import ExportRecord
from tests.helpers.classifiers import Digits

SETTINGS = Export(calibration_images=200, batches=[1, 4, 16])


def export_to(
    out: Path,
    model: nn.Module,
    data: Digits,
    settings: Export = SETTINGS,
    *,
    provenance: Mapping[str, str] | None = None,
    **wanted: Any,
) -> ExportRecord:
    """wanted: the fields of Wanted."""
    source = Source(model, data, provenance or {})  # type: ignore[arg-type]
    return export_model(source, ExportFolder(out), settings, Wanted(**wanted))
