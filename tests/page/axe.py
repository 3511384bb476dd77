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


async def violations_in_both_themes(page: Page) -> list[str]:
    """The same in dark and in light, which stays."""
    found = []
    for colours in ("dark", "light"):
        await page.emulate_media(color_scheme=colours)
        found += [f"{colours}: {line}" for line in await violations(page)]
    return found


@functools.cache
def _source() -> str:
    return _AXE.read_text()
