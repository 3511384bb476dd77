"""From a file to its rig through the page alone, with a real model of each format."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.async_api import Locator, Page, expect

from tests.page import journey
from tests.page.axe import violations_in_both_themes
from tests.page.screenshots import keep

pytestmark = pytest.mark.timeout(900)

_LEGEND_PIXELS = 220
MODELS = ["human.obj", "giraffe.fbx", "fox.glb", "small.vrm"]


@pytest.mark.parametrize("name", MODELS)
async def test_a_model_of_each_format_is_rigged(page: Page, models: Path, name: str) -> None:
    await journey.choose(page, models / name)
    view = await journey.shown(page)
    assert int(await view.get_attribute("data-triangles") or 0) >= 6
    background = np.asarray(await journey.picture(page)).std(axis=(0, 1)).max()
    assert background > 3  # something stands before the background
    await journey.start_skeleton(page)
    await journey.skeleton(page)
    await keep(page, f"skeleton_{name}")
    assert _filled(await journey.picture(page)) > 0.01  # also where the file was in centimetres
    assert await journey.bones(page)
    await journey.make_weights(page)
    await keep(page, f"weights_{name}")
    rigged = await journey.make_rig(page, "GLB")
    assert rigged.read_bytes().startswith(b"glTF")


async def test_the_example_goes_all_the_way(page: Page) -> None:
    await page.get_by_role("button", name="Try the example").click()
    await journey.shown(page)
    await expect(page.get_by_text("20,324")).to_be_visible()
    await keep(page, "upload")
    assert await violations_in_both_themes(page) == []
    await journey.start_skeleton(page)
    await expect(page.get_by_role("progressbar", name="Making the skeleton")).to_be_visible()
    await journey.skeleton(page)
    await journey.select(page, "left_lower_arm")
    await keep(page, "skeleton")
    assert await violations_in_both_themes(page) == []

    await journey.make_weights(page)
    await journey.select(page, "head")
    await expect(page.get_by_role("figure")).to_contain_text("Weight of head")
    await keep(page, "weights")
    assert await violations_in_both_themes(page) == []
    head, foot = await _warmth(page, "head"), await _warmth(page, "left_foot")
    # The upper part of the view is warm for the head, the lower for a foot.
    assert head[0] > 5 * head[1] + 500, head
    assert foot[1] > 5 * foot[0] + 100, foot

    rest = await journey.picture(page)
    await page.get_by_label("Test animation").check()
    await page.wait_for_timeout(1500)
    assert _differs(rest, await journey.picture(page)) > 0.01
    await page.get_by_label("Test animation").uncheck()
    await page.get_by_label("Weights of the selected bone").uncheck()
    await journey.select(page, "left_upper_arm")
    before = await journey.picture(page)
    await page.get_by_label("Turn the selected joint").check()
    slider = page.get_by_role("slider", name="Z")
    await slider.focus()
    await slider.fill("-50")
    await keep(page, "pose")
    assert _differs(before, await journey.picture(page)) > 0.01
    assert await violations_in_both_themes(page) == []
    await page.get_by_role("button", name="Back to the rest pose").click()
    await page.get_by_label("Turn the selected joint").uncheck()
    assert _differs(before, await journey.picture(page)) < 0.01

    rigged = await journey.make_rig(page, "FBX")
    assert rigged.read_bytes().startswith(b"Kaydara FBX Binary")
    await expect(page.get_by_text("Engine: geometric")).to_be_visible()
    await keep(page, "download")
    assert await violations_in_both_themes(page) == []


async def test_it_all_goes_by_keyboard_alone(page: Page) -> None:
    await _press(page, "Try the example")
    await _press(page, "Make the skeleton")
    await journey.skeleton(page)
    await expect(page.get_by_role("heading", name="Skeleton")).to_be_focused()
    await _tab_to(page, page.get_by_role("treeitem").first)
    await page.keyboard.press("End")
    await page.keyboard.press("ArrowLeft")
    await expect(page.locator("[aria-selected=true]")).to_be_focused()
    await _press(page, "Mirror")
    await _press(page, "Looks right: make the weights")
    await journey.weights(page)
    await expect(page.get_by_role("heading", name="Weights")).to_be_focused()
    await _tab_to(page, page.get_by_role("treeitem").first)
    await page.keyboard.press("Enter")
    await _tab_to(page, page.get_by_label("Turn the selected joint"))
    await page.keyboard.press("Space")
    await _tab_to(page, page.get_by_role("slider", name="Z"))
    await page.keyboard.press("ArrowRight")
    await expect(page.get_by_text("1°")).to_be_visible()
    await _press(page, "Choose a format")
    await _press(page, "Make the GLB")
    link = page.get_by_role("link", name=".glb")
    await expect(link).to_be_visible(timeout=240_000)
    await _tab_to(page, link)
    async with page.expect_download() as started:
        await page.keyboard.press("Enter")
    assert (await started.value).suggested_filename == "example_rigged.glb"


async def _press(page: Page, name: str) -> None:
    button = page.get_by_role("button", name=name)
    await expect(button).to_be_enabled(timeout=60_000)
    await _tab_to(page, button)
    await page.keyboard.press("Enter")


async def _tab_to(page: Page, target: Locator) -> None:
    """Nothing on the page is more than a few dozen steps away."""
    for _ in range(40):
        if await target.evaluate("element => element === document.activeElement"):
            return
        await page.keyboard.press("Tab")
    await expect(target).to_be_focused()


async def test_it_all_works_on_a_phone(page: Page) -> None:
    await page.set_viewport_size({"width": 390, "height": 844})
    await page.get_by_role("button", name="Try the example").click()
    await journey.shown(page)
    await journey.start_skeleton(page)
    await journey.skeleton(page)
    assert await page.evaluate("document.documentElement.scrollWidth") <= 390
    await journey.select(page, "hips")
    await keep(page, "skeleton_390")
    assert await violations_in_both_themes(page) == []
    await journey.make_weights(page)
    assert await page.evaluate("document.documentElement.scrollWidth") <= 390
    await keep(page, "weights_390")
    await journey.make_rig(page, "GLB")
    await keep(page, "download_390")
    assert await page.evaluate("document.documentElement.scrollWidth") <= 390


async def _warmth(page: Page, bone: str) -> tuple[int, int]:
    """How many pixels of the view's upper and lower third are warm when a bone is selected."""
    await journey.select(page, bone)
    await page.mouse.move(5, 5)
    # The legend of the colours is at the left, beside the model.
    pixels = np.asarray(await journey.picture(page)).astype(int)[:, _LEGEND_PIXELS:]
    red, _, blue = np.moveaxis(pixels, 2, 0)
    warm = (red > 130) & (red > blue + 60)
    third = len(warm) // 3
    return int(warm[:third].sum()), int(warm[-third:].sum())


def _filled(picture: Image.Image) -> float:
    """The share of pixels that are far from the background's colour."""
    pixels = np.asarray(picture).astype(int)
    return float((np.abs(pixels - np.median(pixels, axis=(0, 1))).max(axis=2) > 40).mean())


def _differs(one: object, other: object) -> float:
    """The share of pixels that are not the same in two pictures."""
    difference = np.abs(np.asarray(one).astype(int) - np.asarray(other).astype(int)).max(axis=2)
    return float((difference > 24).mean())
