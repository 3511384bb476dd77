"""The steps that a person takes on the page, each until its outcome is seen."""

import io
from pathlib import Path

from PIL import Image
from playwright.async_api import Locator, Page, expect

from tests.page.screenshots import REST_MS

# A job beside others on two cores.
_JOB_MS = 240_000
_SHOWN_MS = 60_000


async def choose(page: Page, file: Path) -> None:
    """Picks a file; it is shown and sent."""
    async with page.expect_file_chooser() as opened:
        await page.get_by_role("button", name="Choose a file").click()
    await (await opened.value).set_files(file)
    await expect(page.get_by_role("heading", name=file.name)).to_be_visible()


async def shown(page: Page) -> Locator:
    """The view, once there is a model in it."""
    view = page.locator("canvas[data-triangles]")
    await expect(view).to_be_visible(timeout=_SHOWN_MS)
    return view


async def start_skeleton(page: Page) -> None:
    await page.get_by_role("button", name="Make the skeleton", exact=True).click(timeout=_SHOWN_MS)


async def skeleton(page: Page) -> None:
    """Waits until the skeleton is there."""
    await expect(page.get_by_role("heading", name="Skeleton")).to_be_visible(timeout=_JOB_MS)
    await expect(page.get_by_role("treeitem").first).to_be_visible()


async def make_weights(page: Page) -> None:
    await page.get_by_role("button", name="Looks right: make the weights").click()
    await weights(page)


async def weights(page: Page) -> None:
    """Waits until the weights are there."""
    await expect(page.get_by_role("heading", name="Weights")).to_be_visible(timeout=_JOB_MS)
    await expect(page.get_by_role("treeitem").first).to_be_visible()


async def make_rig(page: Page, kind: str) -> Path:
    """The downloaded file."""
    await page.get_by_role("button", name="Choose a format").click()
    await page.get_by_role("button", name=f"Make the {kind}").click()
    link = page.get_by_role("link", name=f".{kind.lower()}")
    await expect(link).to_be_visible(timeout=_JOB_MS)
    async with page.expect_download() as started:
        await link.click()
    return await (await started.value).path()


async def select(page: Page, bone: str) -> None:
    """Selects a bone by its name in the tree."""
    row = page.get_by_role("treeitem", name=bone, exact=True)
    await row.click()
    await expect(row).to_have_attribute("aria-selected", "true")


async def bones(page: Page) -> list[str]:
    """All names in the tree, from top to bottom."""
    return await page.get_by_role("treeitem").all_inner_texts()


async def picture(page: Page) -> Image.Image:
    """What the view shows, once what was just asked of it is drawn in full."""
    await page.wait_for_timeout(REST_MS)
    return Image.open(io.BytesIO(await page.locator("canvas").screenshot())).convert("RGB")
