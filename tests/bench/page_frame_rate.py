"""Measures how many frames a second the page draws of a large model that moves.

    make bench-page         or: python -m tests.bench.page_frame_rate --triangles 200000

The example character, cut into so many triangles, is rigged through the page in the machine's
Chromium, which draws on the processor. Then the test animation moves every joint.
"""

import argparse
import asyncio
import os
import tempfile
from pathlib import Path

import trimesh
from playwright.async_api import Page, async_playwright

from services.cli.character import write_character
from services.cli.servers import free_port
from services.cli.stack import Stack
from tests.page import journey
from tests.page.conftest import SOFTWARE_GL, WIDE, chromium

SECONDS = 10
# The page draws one frame for each that the browser has to show.
_FRAMES_SHOWN = """(seconds) => new Promise((resolve) => {
  let frames = 0;
  const begin = performance.now();
  const next = (now) => {
    if (now - begin > 1000 * seconds) resolve(frames / ((now - begin) / 1000));
    else { frames += 1; requestAnimationFrame(next); }
  };
  requestAnimationFrame(next);
})"""


def write_fine_character(path: Path, triangles: int) -> None:
    """The example with each triangle in four, and as many of these again as are wanted."""
    write_character(path)
    scene = trimesh.load_scene(path)
    for name, mesh in list(scene.geometry.items()):
        fine = mesh.subdivide()
        share = (triangles / (4 * 20_324) - 1) / 3
        scene.geometry[name] = fine.subdivide(face_index=range(int(share * len(fine.faces))))
    scene.export(path)


async def measure(page: Page, what: str) -> None:
    await page.wait_for_timeout(3000)  # until the view has found how finely it can draw
    rate = await page.evaluate(_FRAMES_SHOWN, SECONDS)
    print(f"{what:<40}{rate:6.1f} frames/s    load {os.getloadavg()[0]:.1f}", flush=True)


async def drive(stack: Stack, model: Path) -> None:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=chromium(), args=SOFTWARE_GL, chromium_sandbox=os.geteuid() != 0
        )
        width, height = WIDE
        page = await browser.new_page(
            base_url=stack.url, viewport={"width": width, "height": height}
        )
        await page.goto("/")
        await journey.choose(page, model)
        view = await journey.shown(page)
        await journey.start_skeleton(page)
        await journey.skeleton(page)
        await journey.make_weights(page)
        print(
            f"{await view.get_attribute('data-triangles')} triangles, "
            f"{len(await journey.bones(page))} joints, {browser.version}, window {width} x {height}"
        )
        await page.get_by_label("Turn the selected joint").check()
        await page.get_by_label("Test animation").check()
        await measure(page, "test animation")
        await journey.select(page, "head")
        await measure(page, "test animation, weights as colours")
        await browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--triangles", type=int, default=200_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as data:
        model = Path(data) / "character.glb"
        write_fine_character(model, arguments.triangles)
        with Stack(Path(data) / "stack", free_port()) as stack:
            asyncio.run(drive(stack, model))


if __name__ == "__main__":
    main()
