"""What people read. In: benchmark.json, or the results of a sweep. Out: a page and Markdown, with plots."""

from typing import TYPE_CHECKING

from compress.system.lazy import hand_on

if TYPE_CHECKING:
    from export.report.page import markdown, report_runs
    from export.report.sweep import write_sweep
    from export.report.sweep_results import Sweep, compare

__all__ = ["Sweep", "compare", "markdown", "report_runs", "write_sweep"]

_HOMES = {
    "markdown": "export.report.page",
    "report_runs": "export.report.page",
    "write_sweep": "export.report.sweep",
    "Sweep": "export.report.sweep_results",
    "compare": "export.report.sweep_results",
}
__getattr__ = hand_on(__name__, _HOMES)
