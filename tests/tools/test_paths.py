"""What documents and scripts say of tools/ is there."""

import re

from tests.helpers.paths import ROOT

READ = ("*.md", "Makefile", "recipes/**/*.md", "recipes/*.yaml", "tools/**/*.py", "tools/**/*.md", "tools/**/*.yaml")


def test_every_file_of_tools_that_is_named_exists() -> None:
    missing = {
        f"{path.relative_to(ROOT)} names {name}"
        for pattern in READ
        for path in ROOT.glob(pattern)
        for name in re.findall(r"\btools/[\w/]+\.(?:py|yaml|md|svg|png)\b", path.read_text(encoding="utf-8"))
        if not (ROOT / name).exists()
    }
    assert not missing
