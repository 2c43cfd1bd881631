"""How the report writes its numbers and names: the filters of its templates."""

import re

from markupsafe import Markup, escape

from export.benchmark import AccuracyResult, CandidateResult, Interval, NotRun
from export.benchmark.results import TOO_FEW_ROUNDS
from export.report.as_run import as_run


def percent(value: float) -> str:
    """A fraction in percent."""
    return f"{100 * value:.2f} %"


def points(value: float) -> str:
    """A fraction in percentage points, with its sign."""
    return f"{100 * value:+.2f}" if round(100 * value, 2) else "0.00"


def points_range(entry: Interval) -> str:
    """Both ends of an interval, in percentage points."""
    return f"{points(entry.low)} to {points(entry.high)}"


def percent_range(entry: Interval) -> str:
    """Both ends of an interval, in percent."""
    return f"{100 * entry.low:.2f} to {100 * entry.high:.2f}"


def ms(value: float) -> str:
    """Milliseconds with three digits."""
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def ms_range(entry: Interval) -> str:
    """Both ends of an interval, in milliseconds."""
    return f"{ms(entry.low)} to {ms(entry.high)}"


def rate(value: float) -> str:
    """Images a second."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def rate_range(entry: Interval) -> str:
    """Both ends of an interval, in images a second."""
    return f"{rate(entry.low)} to {rate(entry.high)}"


def megabytes(size_bytes: int) -> str:
    """Bytes in megabytes of 10^6."""
    return f"{size_bytes / 1e6:.2f}" if size_bytes < 10e6 else f"{size_bytes / 1e6:.1f}"


def factor(value: float) -> str:
    """How many times as much."""
    return f"{value:.1f}×" if value < 100 else f"{value:.0f}×"


def than(value: float, better: str, worse: str) -> str:
    """A ratio as a comparison: 2.0× faster, or 2.0× slower where it is below 1."""
    return f"{factor(value)} {better}" if value >= 1 else f"{factor(1 / value)} {worse}"


def factors(entry: Interval) -> str:
    """Both ends of an interval of a ratio."""
    return f"{factor(entry.low)} to {factor(entry.high)}" if entry.has_ends else TOO_FEW_ROUNDS


def near_one(entry: Interval) -> str:
    """A ratio of what should be alike, with both ends of its interval, which is one of 99 %."""
    return f"{entry.value:.3f} ({f'{entry.low:.3f} to {entry.high:.3f}, 99 %' if entry.has_ends else TOO_FEW_ROUNDS})"


def limit_value(value: float, limit: str) -> str:
    """A value beside its limit as people read it: drops in points, a loss above 0."""
    if limit.endswith("_drop"):
        return f"{100 * value:.2f} points"
    return f"{value:.3g} {'ms' if limit == 'p90_ms' else 'MB'}"


def md(text: object) -> str:
    """Text as Markdown that shows it as it is, in a table, too: names of classes and files may hold any sign.

    CommonMark needs a backslash before its own signs. GitHub and the Hub also make links of addresses and of @names,
    and read $...$ as math. So addresses are taken apart, and an invisible sign (word joiner) goes behind @ and #.
    """
    literal = " ".join(str(text).split()).replace("&", "&amp;").replace("<", "&lt;")
    literal = re.sub(r"([\\`*_\[\]$|~])", r"\\\1", literal)
    literal = re.sub(r"#(?=\d)", "#\N{WORD JOINER}", literal)
    return _ADDRESS.sub(_taken_apart, literal)


_ADDRESS = re.compile(r"\S*(?:www\.|://|mailto:|xmpp:|@)\S*", re.IGNORECASE)


def _taken_apart(address: re.Match[str]) -> str:
    return re.sub(r"([.:])", r"\\\1", address.group()).replace("@", "@\N{WORD JOINER}")


_OURS = re.compile(r"(`compress [^`]*`|`(?:openvino/)?(?:student|teacher)\.[\w.:]+`|`benchmark\.\w+`)")
"""A command, a file or a key of ours in a sentence. What else stands between backticks may be somebody's name."""


def prose(text: object) -> str:
    """A sentence of ours as Markdown, in which commands are code. What it quotes is shown as it is."""
    parts = _OURS.split(" ".join(str(text).split()))
    return "".join(part if number % 2 else _spaced(part) for number, part in enumerate(parts))


def _spaced(part: str) -> str:
    """`md` with the spaces at both ends."""
    inner = md(part)
    return f"{' ' * part.startswith(' ')}{inner}{' ' * (part.endswith(' ') and bool(inner))}"


def code(text: object) -> Markup:
    """A sentence of ours as HTML, in which commands are code."""
    return Markup(_OURS.sub(lambda found: f"<code>{found.group()[1:-1]}</code>", str(escape(text))))


def capital(text: str) -> str:
    """Text with a capital letter at its start, and else as it is."""
    return text[:1].upper() + text[1:]


def scored(candidate: CandidateResult) -> bool:
    """Whether its accuracy was measured."""
    return isinstance(candidate.accuracy, AccuracyResult)


def timed(candidate: CandidateResult) -> bool:
    """Whether its latency was measured."""
    return not isinstance(candidate.latency, NotRun)


_SHARES = (percent, percent_range, points, points_range)
_NUMBERS = (*_SHARES, ms, ms_range, rate, rate_range, megabytes, factor, factors, near_one, limit_value)
FILTERS = {function.__name__: function for function in (*_NUMBERS, md, prose, code, capital, as_run, scored, timed)}
