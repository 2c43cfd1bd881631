"""A figure of Matplotlib as SVG that belongs to its page: its ids, its font, its colours in light and dark.

In: a Figure. Out: text to put into HTML.
"""

import hashlib
import io
import re
import warnings
from collections.abc import Mapping

import matplotlib
from matplotlib.figure import Figure


def inline_svg(figure: Figure, salt: str, label: str, colours: Mapping[str, str]) -> str:
    """SVG for a page of HTML, without size, date or font.

    Args:
        salt: of the ids, which differ from those of the page's other plots.
        label: for readers who cannot see it.
        colours: what is written in place of each colour.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": salt}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # the text stays text, in the reader's fonts
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = text.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
    text = re.sub(r"'DejaVu Sans'[^;\"]*", "sans-serif", text)
    number = iter(range(10**6))
    told_apart = hashlib.sha256(salt.encode(errors="surrogatepass")).hexdigest()[:8]
    prefix = f"{re.sub(r'[^a-z0-9]+', '-', salt.lower())}-{told_apart}"
    names = {name: f"{prefix}-{next(number)}" for name in re.findall(r'\bid="([^"]+)"', text)}
    text = re.sub(r'\bid="([^"]+)"', lambda m: f'id="{names[m[1]]}"', text)
    text = re.sub(r'"#([^"]+)"|url\(#([^)]+)\)', lambda m: _link(m, names), text)
    for stand_in, css in colours.items():
        text = text.replace(stand_in, css)
    return text


def _link(match: re.Match[str], names: dict[str, str]) -> str:
    name = match[1] or match[2]
    target = names.get(name, name)
    return f'"#{target}"' if match[1] else f"url(#{target})"
