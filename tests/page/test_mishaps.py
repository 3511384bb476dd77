"""What goes wrong on the way: nothing is lost, and the page says what happened."""

import asyncio
import base64
import json
from pathlib import Path

import pytest
from playwright.async_api import Page, WebSocketRoute, expect

from services.cli.stack import Stack
from tests.page import journey
from tests.page.conftest import Complaints
from tests.page.screenshots import keep

pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "notes.txt").write_text("not a model")
    (tmp_path / "picture.glb").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(1000))
    (tmp_path / "empty.obj").write_bytes(b"")
    with (tmp_path / "large.fbx").open("wb") as large:
        large.truncate(100 * 2**20 + 1)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("notes.txt", "Supported: .obj, .fbx, .glb, .vrm"),
        ("picture.glb", "not a valid .glb"),
        ("empty.obj", "empty"),
        ("large.fbx", "100MB"),
    ],
)
async def test_a_wrong_file_is_refused_before_it_is_sent(
    page: Page, files: Path, name: str, reason: str
) -> None:
    sent = []
    page.on("request", lambda request: sent.append(request.method))
    async with page.expect_file_chooser() as opened:
        await page.get_by_role("button", name="Choose a file").click()
    await (await opened.value).set_files(files / name)
    await expect(page.get_by_role("alert")).to_contain_text(reason)
    assert "POST" not in sent
    await keep(page, f"refused_{name}")
    await expect(page.get_by_role("button", name="Choose a file")).to_be_enabled()


async def test_what_the_service_refuses_is_said_in_its_words(page: Page, tmp_path: Path) -> None:
    # A model to the eye of the page; only a job finds out.
    flat = tmp_path / "broken.obj"
    flat.write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 9\n")
    await journey.choose(page, flat)
    await journey.start_skeleton(page)
    alert = page.get_by_role("alert")
    await expect(alert).to_contain_text("vertex", timeout=60_000)
    await expect(alert.get_by_role("button", name="Try again")).to_have_count(0)
    # It is still said when one comes back to the model.
    await page.reload()
    await expect(alert).to_contain_text("vertex")
    await page.get_by_role("button", name="Choose another model").click()
    await expect(page.get_by_role("region", name="Earlier").get_by_text("Failed")).to_be_visible()


async def test_a_reload_in_mid_job_loses_nothing(page: Page) -> None:
    await page.get_by_role("button", name="Try the example").click()
    await journey.shown(page)
    await journey.start_skeleton(page)
    await expect(page.get_by_role("progressbar", name="Making the skeleton")).to_be_visible()
    await page.reload()
    await expect(page.get_by_role("heading", name="example.glb")).to_be_visible()
    await journey.shown(page)
    await journey.skeleton(page)


async def test_a_socket_that_is_cut_in_mid_job_is_opened_anew(page: Page) -> None:
    sockets: list[WebSocketRoute] = []

    def through(socket: WebSocketRoute) -> None:
        socket.connect_to_server()
        sockets.append(socket)

    await page.route_web_socket("**/ws*", through)
    await page.reload()
    await page.get_by_role("button", name="Try the example").click()
    await journey.shown(page)
    await journey.start_skeleton(page)
    await expect(page.get_by_text("%")).to_be_visible()
    assert len(sockets) == 1
    await sockets[0].close(code=1011)
    await journey.skeleton(page)
    assert len(sockets) > 1


async def test_without_any_socket_the_page_asks(
    page: Page, complaints: Complaints, models: Path
) -> None:
    complaints.forgive("WebSocket")
    await page.route_web_socket("**/ws*", lambda socket: socket.close(code=1011))
    await page.reload()
    await journey.choose(page, models / "fox.glb")
    await journey.shown(page)
    await journey.start_skeleton(page)
    await journey.skeleton(page)


async def test_a_gateway_that_restarts_in_mid_job_is_waited_for(
    page: Page, stack: Stack, complaints: Complaints
) -> None:
    complaints.forgive("ERR_CONNECTION_REFUSED|ERR_EMPTY_RESPONSE|ERR_CONNECTION_RESET|503")
    await page.get_by_role("button", name="Try the example").click()
    await journey.shown(page)
    await journey.start_skeleton(page)
    await expect(page.get_by_text("%")).to_be_visible()
    await asyncio.to_thread(stack.stop_service, "gateway")
    await expect(page.get_by_text("Waiting for the server")).to_be_visible(timeout=30_000)
    await keep(page, "waiting")
    await asyncio.to_thread(stack.start_service, "gateway")
    await journey.skeleton(page)


async def test_a_job_can_be_cancelled(page: Page) -> None:
    await page.get_by_role("button", name="Try the example").click()
    await journey.shown(page)
    await journey.start_skeleton(page)
    await page.get_by_role("button", name="Cancel").click()
    await expect(page.get_by_role("progressbar")).to_have_count(0, timeout=30_000)
    await expect(page.get_by_role("button", name="Make the skeleton", exact=True)).to_be_enabled()


async def test_a_second_file_takes_the_place_of_one_that_is_being_sent(
    page: Page, models: Path
) -> None:
    await _hold_uploads(page, first=True)
    await journey.choose(page, models / "fox.glb")
    sending = page.get_by_role("progressbar", name="Sending the model")
    await expect(sending).to_be_visible()
    await expect(page.get_by_role("button", name="Make the skeleton")).to_be_disabled()
    await _drop(page, models / "small.vrm")
    await expect(page.get_by_role("heading", name="small.vrm")).to_be_visible()
    await expect(sending).to_have_count(0)
    await expect(page.get_by_role("button", name="Make the skeleton")).to_be_enabled()
    await page.reload()
    await expect(page.get_by_role("heading", name="small.vrm")).to_be_visible()


async def test_sending_can_be_cancelled(page: Page, models: Path) -> None:
    await _hold_uploads(page, first=False)
    await journey.choose(page, models / "fox.glb")
    await page.get_by_role("button", name="Cancel").click()
    await expect(page.get_by_role("button", name="Choose a file")).to_be_visible()
    await expect(page.get_by_role("progressbar")).to_have_count(0)
    await expect(page.get_by_role("heading", name="Rig a model")).to_be_focused()


@pytest.mark.parametrize(
    ("status", "code", "detail", "advice"),
    [
        (429, "RATE_LIMIT_EXCEEDED", "Maximum 10 uploads per hour.", "Try again in 42 minutes."),
        (503, "STORAGE_FULL", "The storage is full.", "Delete earlier models"),
    ],
)
async def test_a_refused_upload_says_what_to_do_and_can_be_tried_again(
    page: Page,
    complaints: Complaints,
    models: Path,
    status: int,
    code: str,
    detail: str,
    advice: str,
) -> None:
    complaints.forgive(f"status of {status}")
    body: dict[str, object] = {"detail": detail, "error_code": code}
    if status == 429:
        body["retry_after"] = 2461
    await page.route(
        "**/api/upload", lambda route: route.fulfill(status=status, json=body), times=1
    )
    await journey.choose(page, models / "fox.glb")
    alert = page.get_by_role("alert")
    await expect(alert).to_contain_text(f"{detail} {advice}")
    await keep(page, f"refused_{status}")
    await alert.get_by_role("button", name="Try again").click()
    await expect(page.get_by_role("button", name="Make the skeleton")).to_be_enabled()
    await expect(alert).to_be_empty()


async def test_two_tabs_follow_one_job_and_name_it_to_a_third(
    page: Page, complaints: Complaints, models: Path
) -> None:
    complaints.forgive("status of 409")
    await page.get_by_role("button", name="Try the example").click()
    await journey.shown(page)
    await expect(page.get_by_role("button", name="Make the skeleton")).to_be_enabled()
    second, third = await page.context.new_page(), await page.context.new_page()
    await second.goto("/")
    await expect(second.get_by_role("button", name="Make the skeleton")).to_be_enabled()
    await third.goto("/")
    await third.get_by_role("button", name="Choose another model").click()
    await journey.choose(third, models / "fox.glb")
    await journey.shown(third)
    await expect(third.get_by_role("button", name="Make the skeleton")).to_be_enabled()

    await journey.start_skeleton(page)
    await expect(page.get_by_role("progressbar", name="Making the skeleton")).to_be_visible()
    await journey.start_skeleton(second)
    await expect(second.get_by_role("progressbar", name="Making the skeleton")).to_be_visible()
    await journey.start_skeleton(third)
    alert = third.get_by_role("alert")
    await expect(alert).to_contain_text("example.glb is still in the works")
    await keep(third, "another_job")
    await alert.get_by_role("button", name="Cancel example.glb").click()
    for tab in (page, second):
        await expect(tab.get_by_role("progressbar")).to_have_count(0, timeout=30_000)
    await journey.start_skeleton(third)
    await expect(third.get_by_role("progressbar", name="Making the skeleton")).to_be_visible()


async def test_without_3d_the_model_can_be_rigged_all_the_same(
    page: Page, complaints: Complaints, models: Path
) -> None:
    complaints.forgive("Error creating WebGL context")
    await page.add_init_script("HTMLCanvasElement.prototype.getContext = () => null")
    await page.reload()
    await expect(page.get_by_text("This browser cannot show 3D")).to_be_visible()
    await journey.choose(page, models / "fox.glb")
    await journey.start_skeleton(page)
    await journey.skeleton(page)
    assert len(await journey.bones(page)) > 2


async def test_earlier_models_are_found_again_and_deleted(page: Page) -> None:
    await page.get_by_role("button", name="Try the example").click()
    await journey.shown(page)
    await journey.start_skeleton(page)
    await journey.skeleton(page)
    await page.get_by_role("button", name="Model").click()
    await page.get_by_role("button", name="Choose another model").click()
    await page.reload()
    earlier = page.get_by_role("region", name="Earlier")
    await expect(earlier.get_by_text("Has a skeleton")).to_be_visible()
    await expect(earlier.locator("img")).to_be_visible()
    await keep(page, "earlier")
    await earlier.get_by_role("button", name="example.glb", exact=False).first.click()
    await journey.skeleton(page)
    await page.get_by_role("button", name="Model").click()
    await page.get_by_role("button", name="Choose another model").click()
    await earlier.get_by_role("button", name="Delete example.glb").click()
    await earlier.get_by_role("button", name="Keep").click()
    await earlier.get_by_role("button", name="Delete example.glb").click()
    await expect(earlier.get_by_role("button", name="Delete for good")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(earlier).to_have_count(0)
    answer = await page.request.get("/api/jobs")
    assert json.loads(await answer.text())["total"] == 0


async def test_a_server_out_of_reach_is_said(page: Page, complaints: Complaints) -> None:
    complaints.forgive("ERR_INTERNET_DISCONNECTED|Failed to load resource")
    await page.wait_for_load_state("networkidle")
    await page.context.set_offline(True)
    await page.get_by_role("button", name="Try the example").click()
    await expect(page.get_by_role("alert")).to_contain_text("cannot be reached")
    await page.context.set_offline(False)
    await page.get_by_role("button", name="Try again").click()
    await journey.shown(page)


async def _hold_uploads(page: Page, *, first: bool) -> None:
    """Uploads never arrive; with first, only one does not."""
    await page.route("**/api/upload", lambda _: None, times=1 if first else None)


async def _drop(page: Page, file: Path) -> None:
    """Lets a file fall on the view."""
    content = base64.b64encode(await asyncio.to_thread(file.read_bytes)).decode()
    await page.evaluate(
        """([name, content]) => {
          const bytes = Uint8Array.from(atob(content), (char) => char.charCodeAt(0));
          const dataTransfer = new DataTransfer();
          dataTransfer.items.add(new File([bytes], name));
          for (const type of ["dragover", "drop"]) {
            const event = new DragEvent(type, { dataTransfer, bubbles: true, cancelable: true });
            document.querySelector("canvas").dispatchEvent(event);
          }
        }""",
        [file.name, content],
    )


async def test_a_view_that_does_not_load_is_said(page: Page, complaints: Complaints) -> None:
    complaints.forgive("ERR_FAILED")
    await page.route("**/assets/viewer*", lambda route: route.abort())
    await page.reload()
    await expect(page.get_by_text("reload the page to see it")).to_be_visible()
    await page.unroute("**/assets/viewer*")
    await page.reload()
    await page.get_by_role("button", name="Try the example").click()
    await journey.shown(page)
