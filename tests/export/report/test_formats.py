"""Names from outside in Markdown, read by a real Markdown library: no link, picture, code or entity comes of them."""

import html
import re
import sys
from collections.abc import Callable

import pytest

from export.benchmark import Interval
from export.report.formats import code, factors, md, near_one, prose

markdown_it = pytest.importorskip("markdown_it")

NAMES = (
    "[t](www.e.vil)",
    "[t](http://evil.com)",
    "![i](https://evil.com/x.png)",
    "www.evil.com",
    "http://evil.com/a_b?c=d&copy=1",
    "a@b.com",
    "@user",
    "see #12",
    "&copy; &lt;b&gt; &#64;user",
    "<b>bold</b> <script>alert(1)</script>",
    "$x^2$ $`y`$",
    "`code` ``more``",
    "*a* _b_ ~~c~~ **d**",
    "a | b",
    "back\\slash \\[x]",
    "photo.jpg, 3.5 mm: C#",
)
_GFM_LINK = re.compile(r"www\.|(?:https?|ftp)://|mailto:|xmpp:|[\w.+-]+@\w|(?:^|\W)@\w|#\d", re.IGNORECASE)
"""What GitHub makes a link of where it stands in text: the extension "autolinks", mentions and references."""


def rendered(markdown: str) -> str:
    return markdown_it.MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(markdown)


def shown(page: str) -> str:
    """What a reader sees."""
    return html.unescape(re.sub(r"<[^>]*>", "", page)).replace("\N{WORD JOINER}", "")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("written", [md, prose])
def test_a_name_is_shown_as_it_is(name: str, written: Callable[[object], str]) -> None:
    text = written(f"class {name} has 2 images")
    page = rendered(text)
    assert shown(page).strip() == f"class {name} has 2 images"
    assert set(re.findall(r"<(\w+)", page)) == {"p"}
    assert not _GFM_LINK.search(text)
    assert not re.search(r"(?<!\\)\$", text)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_stays_in_its_cell(name: str) -> None:
    page = rendered(f"| class | images |\n|---|---|\n| {md(name)} | 2 |\n")
    assert set(re.findall(r"<(\w+)", page)) == {"table", "thead", "tbody", "tr", "th", "td"}
    cells = re.findall(r"<td>(.*?)</td>", page)
    assert [shown(cell) for cell in cells] == [name, "2"]


def test_commands_in_sentences_of_ours_are_code() -> None:
    sentence = (
        "Class `x` is odd: measure again with `compress benchmark runs/a_b` or `compress export <RUN>`, then go on."
    )
    page = rendered(prose(sentence))
    assert re.findall(r"<code>(.*?)</code>", page) == ["compress benchmark runs/a_b", "compress export &lt;RUN&gt;"]
    assert shown(page).strip() == sentence.replace("`compress", "compress").replace("b`", "b").replace(">`", ">")
    assert re.findall(r"<code>(.*?)</code>", code(sentence)) == re.findall(r"<code>(.*?)</code>", page)


def test_a_ratio_without_ends_is_said_in_words() -> None:
    wide = Interval(value=1.0, low=0.0, high=3.0)
    assert (factors(wide), near_one(wide)) == ("0.0× to 3.0×", "1.000 (0.000 to 3.000, 99 %)")
    endless = Interval(value=1.0, low=0.0, high=sys.float_info.max)
    words = "too few rounds for an interval"
    assert (factors(endless), near_one(endless)) == (words, f"1.000 ({words})")


def test_a_name_cannot_borrow_the_backticks_of_a_command() -> None:
    page = rendered(prose("Class `compress [t](www.e.vil) is odd: `compress export` again."))
    assert "<a" not in page
