"""The page before anything is done with it: on any screen, with any colours, by keyboard."""

import pytest
from PIL import Image, ImageStat
from playwright.async_api import Page, expect

from tests.page.axe import violations
from tests.page.conftest import Complaints
from tests.page.screenshots import keep

# Phone, tablet, laptop, 4K.
SCREENS = [(390, 844), (768, 1024), (1280, 800), (3840, 2160)]
FIRST_LOAD_BYTES = 400_000

on_every_screen = pytest.mark.parametrize("screen", SCREENS, ids=lambda screen: str(screen[0]))
in_both_colours = pytest.mark.parametrize("colours", ["light", "dark"])


async def test_it_says_what_it_is_and_where_to_begin(page: Page) -> None:
    await expect(page).to_have_title("UniRig")
    await expect(page.get_by_role("heading", name="UniRig", level=1)).to_be_visible()
    await expect(page.get_by_role("button", name="Choose a file")).to_be_visible()
    await expect(page.get_by_role("button", name="Try the example")).to_be_visible()


async def test_its_policy_is_strict_and_is_kept_to(page: Page, complaints: Complaints) -> None:
    answer = await page.request.get("/")
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; ")
    assert complaints.left() == []
    await page.evaluate(
        """() => {
          const script = document.createElement("script");
          script.textContent = "document.title = 'run'";
          document.head.append(script);
          return fetch("http://127.0.0.1:9/").catch(() => {});
        }"""
    )
    assert await page.title() == "UniRig"
    refused = "\n".join(complaints.left())
    assert "script-src 'self'" in refused
    assert "connect-src 'self'" in refused
    complaints.forgive("Content Security Policy|127.0.0.1:9")


async def test_the_first_load_is_small(page: Page) -> None:
    await page.wait_for_load_state("networkidle")
    sizes = await page.evaluate(
        """() => Object.fromEntries(
          ["navigation", "resource"]
            .flatMap((type) => performance.getEntriesByType(type))
            .map((entry) => [entry.name, entry.encodedBodySize]))"""
    )
    assert len(sizes) >= 3
    assert 0 < sum(sizes.values()) < FIRST_LOAD_BYTES, sizes


@in_both_colours
@on_every_screen
async def test_it_fits_and_breaks_no_rule_of_accessibility(
    page: Page, screen: tuple[int, int], colours: str
) -> None:
    width, height = screen
    await page.set_viewport_size({"width": width, "height": height})
    await page.emulate_media(color_scheme=colours)
    assert await page.evaluate("document.documentElement.scrollWidth") <= width
    assert await violations(page) == []
    picture = Image.open(await keep(page, f"open_{width}_{colours}")).convert("L")
    (brightness,) = ImageStat.Stat(picture).median
    assert brightness > 200 if colours == "light" else brightness < 60


async def test_a_file_is_chosen_by_keyboard_alone(page: Page) -> None:
    choose = page.get_by_role("button", name="Choose a file")
    for _ in range(20):
        await page.keyboard.press("Tab")
        if await choose.evaluate("element => element === document.activeElement"):
            break
    await expect(choose).to_be_focused()
    async with page.expect_file_chooser() as opened:
        await page.keyboard.press("Enter")
    assert not (await opened.value).is_multiple()
