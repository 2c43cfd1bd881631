"""What files must pass before they have their final name. In: a candidate and images. Out: the file, or a GateError.

A Stage goes through all steps of one export and collects what they measure.
"""

from export.gates.stage import Source, Stage, gated, require_decided

__all__ = ["Source", "Stage", "gated", "require_decided"]
