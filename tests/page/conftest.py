"""A real browser on the page of a running stack, and what it holds against the page."""

import os
import re
import shutil
from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit

import pytest
from playwright.async_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    Request,
    async_playwright,
)

from services.cli.servers import free_port
from services.cli.stack import Stack
from services.gateway.web_page import BUILT
from tests.rate_limits import ROOMY

WIDE = (1280, 800)
# WebGL on a CPU.
SOFTWARE_GL = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]


class Complaints:
    """Errors in the console, refusals of the page's policy, and requests to other origins.

    There must be none at the end of a test but those that it has forgiven beforehand.
    """

    def __init__(self, origin: str) -> None:
        """origin: the page's own, as in http://localhost:8080."""
        self._origin = urlsplit(origin).netloc
        self._forgiven: list[str] = []
        self._all: list[str] = []

    def watch(self, context: BrowserContext) -> None:
        """From now on, whatever happens in this context is heard."""
        context.on("console", self._hear_console)
        context.on("weberror", lambda thrown: self._all.append(str(thrown.error)))
        context.on("request", self._hear_request)

    def forgive(self, pattern: str) -> None:
        """The test provokes complaints in which this regular expression is found."""
        self._forgiven.append(pattern)

    def left(self) -> list[str]:
        """Those that are not forgiven."""
        return [
            text
            for text in self._all
            if not any(re.search(pattern, text) for pattern in self._forgiven)
        ]

    def _hear_console(self, line: ConsoleMessage) -> None:
        if line.type == "error":
            self._all.append(f"{line.text} ({line.location['url']})")

    def _hear_request(self, request: Request) -> None:
        parts = urlsplit(request.url.removeprefix("blob:"))
        if parts.scheme != "data" and parts.netloc != self._origin:
            self._all.append(f"a request to another origin: {request.url}")


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The five services with real NATS and Redis, and the page, as `make up` starts them."""
    if not BUILT.is_dir():
        pytest.fail("the page has not been built: make page")
    with Stack(tmp_path_factory.mktemp("stack"), free_port(), settings=ROOMY) as stack:
        yield stack


def chromium() -> str:
    """The machine's Chromium, or the one that CHROMIUM names."""
    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if path is None:
        pytest.fail("there is no browser: install chromium, or name one by CHROMIUM")
    return path


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    """The machine's Chromium, drawing on the processor."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=chromium(), args=SOFTWARE_GL, chromium_sandbox=os.geteuid() != 0
        )
        yield browser
        await browser.close()


@pytest.fixture
def complaints(stack: Stack) -> Complaints:
    """What is held against the page in this test."""
    return Complaints(stack.url)


@pytest.fixture
async def page(browser: Browser, stack: Stack, complaints: Complaints) -> AsyncIterator[Page]:
    """The page, opened in a session of its own; any complaint about it fails the test."""
    width, height = WIDE
    context = await browser.new_context(
        base_url=stack.url, viewport={"width": width, "height": height}, color_scheme="light"
    )
    complaints.watch(context)
    page = await context.new_page()
    await page.goto("/")
    yield page
    await context.close()
    assert complaints.left() == []
