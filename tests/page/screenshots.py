"""Screenshots of the page, kept to be looked at."""

from pathlib import Path

from playwright.async_api import Page

FOLDER = Path(__file__).parents[2] / "build" / "page"
# The view draws its fine picture when it has come to rest.
REST_MS = 1000


async def keep(page: Page, name: str) -> Path:
    """What of the page is in view, as build/page/NAME.png."""
    await page.wait_for_timeout(REST_MS)
    path = FOLDER / f"{name}.png"
    await page.screenshot(path=path)
    return path
