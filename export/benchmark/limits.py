"""What a benchmark holds files to: the recipe's limits of the verdict, and the gates by which the files were exported.

In: a run and what --set changes. Out: both.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from compress.recipe import BenchmarkLimits, Export, changed_recipe
from compress.runs.folder import Run
from compress.system.errors import UsageError
from export.folder import read_export
from export.records import ExportRecord

GATES = ("max_fp16_top1_drop", "min_agreement", "max_int8_top1_drop", "min_int8_agreement")
"""The keys of the export section that say what a file may lose. The others say how it is made."""


@dataclass(frozen=True)
class Limits:
    """verdict: of the recommended file. gates: what each file may lose. exported: the gates that files passed."""

    verdict: BenchmarkLimits
    gates: Export
    exported: Export

    @property
    def changed(self) -> bool:
        """Whether files are held to other gates than those that they passed."""
        return any(getattr(self.gates, key) != getattr(self.exported, key) for key in GATES)


def limits_of(run: Run, overrides: Sequence[str]) -> Limits:
    """The limits of a run that was exported.

    Args:
        overrides: "benchmark.KEY=value" instead of the recipe's. "export.KEY=value", KEY of GATES, instead of
            export.json's.

    Raises:
        UsageError: an override is wrong, or changes how files are made.
        InputError: the run has no export, or one of other weights.
    """
    exported = recorded_settings(read_export(run), run.recipe.export)
    as_exported = run.recipe.model_copy(update={"export": exported})
    changed = changed_recipe(as_exported, overrides, section="benchmark", also=("export",))
    for override in overrides:
        section, _, key = override.partition("=")[0].strip().partition(".")
        if section == "export" and key not in GATES:
            settable = ", ".join(f"export.{gate}" for gate in GATES)
            raise UsageError(
                f"--set export.{key}: files are made by it, and a benchmark makes none of what is deployed",
                f"Give it to `compress export`. A benchmark takes benchmark.KEY and {settable}.",
            )
    return Limits(changed.benchmark, changed.export, exported)


def recorded_settings(record: ExportRecord, otherwise: Export) -> Export:
    """The settings by which files were exported. `otherwise`: what an export of another version does not say."""
    try:
        return Export.model_validate({**otherwise.model_dump(), **record.settings})
    except ValidationError:
        return otherwise
