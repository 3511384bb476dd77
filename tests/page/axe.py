"""What axe-core finds wrong with the page for people who do not see it, or use no mouse."""

import functools
from pathlib import Path

from playwright.async_api import Page

_AXE = Path(__file__).parents[1] / "node_modules" / "axe-core" / "axe.min.js"


async def violations(page: Page) -> list[str]:
    """One line for each element that breaks a rule: the rule and where it is."""
    await page.evaluate(_source())
    found = await page.evaluate("axe.run({resultTypes: ['violations']})")
    return [
        f"{violation['id']} ({violation['help']}): {node['html']}"
        for violation in found["violations"]
        for node in violation["nodes"]
    ]


@functools.cache
def _source() -> str:
    return _AXE.read_text()
