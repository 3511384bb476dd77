"""docs/conformance.md names tests; each must exist."""

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs" / "conformance.md").read_text()


def test_every_test_that_the_page_names_exists() -> None:
    named = re.findall(r"\| ([\w/]+\.py)::(test_\w+) \|", PAGE)
    assert len(named) > 100
    for path, name in named:
        assert re.search(rf"^(async )?def {name}\(", (TESTS / path).read_text(), re.MULTILINE), (
            f"{path}::{name}"
        )


def test_every_row_names_a_test() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("|")]
    for row in rows:
        assert "::test_" in row or "| --- |" in row or row.endswith("| Test |"), row
