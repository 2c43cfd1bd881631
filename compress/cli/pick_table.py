"""`compress pick`: what fits as a table, with the lines for a recipe."""

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from export.pick import Pick, Row

_BESIDE = 5
_WIDTH = 160  # columns where the table goes into a file


def show(found: Pick) -> None:
    """Prints the models that fit, a few that do not, and the lines for a recipe."""
    fitting = [row for row in found.models if row.fits]
    others = [row for row in found.models if not row.fits]
    print(
        f"{len(fitting)} of {len(found.models)} models answer within {found.p90_ms:g} ms (p90), {found.image_size} "
        f"pixels, batch {found.batch}, {found.threads} thread{'s' * (found.threads > 1)}, "
        f"{' and '.join(found.runtimes)}, on {found.machine['cpu']}"
    )
    _table(fitting, others[:_BESIDE])
    date, commit = found.source["date"], found.source["commit"][:10]
    print(
        f"top-1: timm's {found.source['file']} of {date} ({commit}), in float, at the size in brackets. "
        "`compress export` measures what INT8 loses.\n* another model is at least as fast and as accurate\n"
    )
    print(found.recipe, end="")


def _table(fitting: Sequence[Row], nearest: Sequence[Row]) -> None:
    own = any(row.own_top1 is not None for row in fitting)
    table = Table()
    names = ["fits", "model", *(["your top-1"] if own else []), "top-1", "p90 ms", "95 % interval", "fastest as"]
    for name in (*names, "MB", "M parameters", "M multiply-adds", "INT8 convs"):
        table.add_column(name, justify="left" if name in ("fits", "model", "fastest as") else "right", no_wrap=True)
    for row in (*fitting, *nearest):
        table.add_row(
            "yes" if row.fits else "no",
            f"{row.model}{' *' if row.dominated else ''}",
            *(["" if row.own_top1 is None else f"{row.own_top1:.2f} %"] if own else []),
            "" if row.top1 is None else f"{row.top1:.2f} % ({row.top1_image_size})",
            f"{row.p90_ms:.2f}",
            f"{row.p90_low:.2f} to {row.p90_high:.2f}",
            f"{row.precision} in {row.runtime}",
            f"{row.size_mb:.1f}",
            "" if row.params_m is None else f"{row.params_m:.1f}",
            f"{row.macs_m:,.0f}",
            f"{row.int8_convs} of {(row.int8_convs or 0) + (row.float_convs or 0)}",
            end_section=bool(fitting) and row is fitting[-1],
        )
    Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH).print(table)
