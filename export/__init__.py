"""From a finished run to what is deployed. In: a run folder. Out: ONNX files, engines, a benchmark, a report, a push.

    from export import export_run, benchmark_run, report_runs, push_run

With `compress.distill` these are verbs of the command line, with the same defaults.
"""

from typing import TYPE_CHECKING

from compress.system.lazy import hand_on

if TYPE_CHECKING:
    from export.benchmark import benchmark_run
    from export.delivery import push_run
    from export.from_run import export_run
    from export.report import report_runs

__all__ = ["benchmark_run", "export_run", "push_run", "report_runs"]

__getattr__ = hand_on(
    __name__,
    {
        "benchmark_run": "export.benchmark",
        "export_run": "export.from_run",
        "push_run": "export.delivery",
        "report_runs": "export.report",
    },
)
