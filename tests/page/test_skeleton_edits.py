"""Changes of the skeleton on the page, and what the service makes of them."""

from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from tests.page import journey
from tests.page.screenshots import keep

pytestmark = pytest.mark.timeout(900)


@pytest.fixture
async def skeleton(page: Page, models: Path) -> Page:
    """The page with the skeleton of a model by others."""
    await journey.choose(page, models / "fox.glb")
    await journey.shown(page)
    await journey.start_skeleton(page)
    await journey.skeleton(page)
    return page


async def test_edits_can_be_undone_and_go_into_the_rig(skeleton: Page) -> None:
    page = skeleton
    original = await journey.bones(page)
    await journey.select(page, original[-1])
    await page.get_by_role("textbox", name="Name").fill("my tip")
    await page.keyboard.press("Enter")
    await page.get_by_role("button", name="Add a child").click()
    edited = await journey.bones(page)
    assert len(edited) == len(original) + 1
    assert "my tip" in edited

    await page.get_by_role("button", name="Undo").click()
    await page.get_by_role("button", name="Undo").click()
    assert await journey.bones(page) == original
    await page.keyboard.press("Control+Shift+z")
    await page.keyboard.press("Control+Shift+z")
    assert await journey.bones(page) == edited
    await keep(page, "edited")

    # What was not sent yet outlives a reload.
    await page.reload()
    await journey.skeleton(page)
    assert await journey.bones(page) == edited

    await journey.make_weights(page)
    assert await journey.bones(page) == edited
    await journey.make_rig(page, "GLB")


async def test_undoing_in_another_step_leaves_the_edits(skeleton: Page) -> None:
    page = skeleton
    await journey.select(page, (await journey.bones(page))[-1])
    await page.get_by_role("button", name="Add a child").click()
    edited = await journey.bones(page)
    await journey.make_weights(page)
    await page.keyboard.press("Control+z")
    await page.reload()
    await expect(page.get_by_role("heading", name="Weights")).to_be_visible()
    await page.get_by_role("button", name="2 Skeleton").click()
    await journey.skeleton(page)
    assert await journey.bones(page) == edited


async def test_the_skeleton_that_a_model_came_with_can_be_kept(page: Page, models: Path) -> None:
    await journey.choose(page, models / "fox.glb")
    await expect(page.get_by_text("a skeleton of 24 bones")).to_be_visible()
    await page.get_by_role("button", name="Keep its skeleton").click()
    await journey.weights(page)
    assert "b_Head_05" in await journey.bones(page)
    await expect(page.get_by_role("button", name="2 Skeleton")).to_be_disabled()
    rigged = await journey.make_rig(page, "GLB")
    assert b"b_Head_05" in rigged.read_bytes()


async def test_a_name_that_is_taken_is_refused(skeleton: Page) -> None:
    page = skeleton
    names = await journey.bones(page)
    await journey.select(page, names[1])
    await page.get_by_role("textbox", name="Name").fill(names[0])
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("alert")).to_contain_text(names[0])
    assert await journey.bones(page) == names


async def test_a_leaf_goes_and_a_fork_stays(skeleton: Page) -> None:
    page = skeleton
    names = await journey.bones(page)
    await journey.select(page, names[0])
    await expect(page.get_by_role("button", name="Delete")).to_be_disabled()
    await journey.select(page, names[-1])
    await page.get_by_role("button", name="Delete").click()
    assert await journey.bones(page) == names[:-1]


async def test_a_joint_is_found_and_dragged_in_the_view(skeleton: Page) -> None:
    page = skeleton
    hovered = page.locator("[data-hovered]")
    box = await page.locator("canvas").bounding_box()
    assert box
    x, y = box["x"] + box["width"] / 2, 0.0
    for y in range(int(box["y"] + box["height"] * 0.2), int(box["y"] + box["height"] * 0.9), 6):
        await page.mouse.move(x, y)
        if await hovered.count():
            break
    name = await hovered.inner_text()
    await page.mouse.click(x, y)
    row = page.get_by_role("treeitem", name=name, exact=True)
    await expect(row).to_have_attribute("aria-selected", "true")
    # It is dragged by itself; its gizmo's arrows and planes lie around it.
    place = page.get_by_role("spinbutton", name="Y")
    before = float(await place.input_value())
    await page.mouse.down()
    await page.mouse.move(x, y - 60, steps=6)
    await page.mouse.up()
    assert float(await place.input_value()) > before
    await page.get_by_role("button", name="Undo").click()
    assert float(await place.input_value()) == before
