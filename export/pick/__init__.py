"""Which student fits a latency. In: an image size and a budget. Out: models that were timed on this machine, ranked."""

from typing import TYPE_CHECKING

from compress.system.lazy import hand_on

if TYPE_CHECKING:
    from export.pick.plot import check_plot_file, write_plot
    from export.pick.rank import Row
    from export.pick.run import Pick, pick_students, raise_if_none_fits
    from export.pick.suggest import suggest_models

__all__ = [
    "Pick",
    "Row",
    "check_plot_file",
    "pick_students",
    "raise_if_none_fits",
    "suggest_models",
    "write_plot",
]

_HOMES = {
    **dict.fromkeys(("Pick", "pick_students", "raise_if_none_fits"), "export.pick.run"),
    **dict.fromkeys(("check_plot_file", "write_plot"), "export.pick.plot"),
    "Row": "export.pick.rank",
    "suggest_models": "export.pick.suggest",
}
__getattr__ = hand_on(__name__, _HOMES)
