"""The page's files: which are found, and with which headers."""

import gzip
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from services.gateway.errors import install_error_handlers
from services.gateway.web_page import page_router

FILES = {
    "index.html": b"<title>UniRig</title>",
    "example.glb": b"glTF",
    "favicon.svg": b"<svg/>",
    "licenses.md": b"# Licenses",
    "assets/index-B2x.js": b"console.log(1);" * 100,
    "assets/index-C3y.css": b"p {}",
}


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """A built page, as `npm run build` leaves it."""
    folder = tmp_path / "dist"
    for name, content in FILES.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        file.with_name(file.name + ".gz").write_bytes(gzip.compress(content))
    (tmp_path / "secret.txt").write_text("secret")
    return folder


@pytest.fixture
async def http(built: Path) -> AsyncIterator[httpx.AsyncClient]:
    api = FastAPI()
    api.include_router(page_router(built))
    install_error_handlers(api)
    transport = httpx.ASGITransport(api)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


@pytest.mark.parametrize("coding", ["gzip", "identity", "gzip;q=0"])
@pytest.mark.parametrize("name", FILES)
async def test_every_file_is_there_compressed_or_not(
    http: httpx.AsyncClient, name: str, coding: str
) -> None:
    answer = await http.get(f"/{name}", headers={"Accept-Encoding": coding})
    assert (answer.status_code, answer.content) == (200, FILES[name])
    assert answer.headers.get("content-encoding") == ("gzip" if coding == "gzip" else None)
    assert answer.headers["vary"] == "Accept-Encoding"


@pytest.mark.parametrize("coding", ["gzip", "identity"])
async def test_files_say_what_they_are(http: httpx.AsyncClient, coding: str) -> None:
    types = [
        (await http.get(f"/{name}", headers={"Accept-Encoding": coding})).headers["content-type"]
        for name in FILES
    ]
    assert types == [
        "text/html; charset=utf-8",
        "model/gltf-binary",
        "image/svg+xml",
        "text/plain; charset=utf-8",
        "text/javascript; charset=utf-8",
        "text/css; charset=utf-8",
    ]


@pytest.mark.parametrize("path", ["/", "/index.html"])
async def test_the_page_itself_is_strict_and_asked_for_anew(
    http: httpx.AsyncClient, path: str
) -> None:
    answer = await http.get(path)
    assert answer.content == FILES["index.html"]
    assert answer.headers["cache-control"] == "no-cache"
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    again = await http.get(path, headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["cache-control"] == "no-cache"


async def test_only_what_is_named_after_its_content_is_kept(http: httpx.AsyncClient) -> None:
    asset = await http.get("/assets/index-B2x.js")
    assert asset.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert (await http.get("/example.glb")).headers["cache-control"] == "no-cache"


async def test_compressed_or_not_a_file_has_two_etags(http: httpx.AsyncClient) -> None:
    tags = {
        (await http.get("/assets/index-B2x.js", headers={"Accept-Encoding": coding})).headers[
            "etag"
        ]
        for coding in ("gzip", "identity")
    }
    assert len(tags) == 2


async def test_head_is_get_without_the_body(http: httpx.AsyncClient) -> None:
    for path in ("/", "/assets/index-B2x.js", "/example.glb"):
        got, head = await http.get(path), await http.head(path)
        assert (head.status_code, head.content) == (200, b"")
        assert dict(head.headers) == dict(got.headers)


@pytest.mark.parametrize(
    "path",
    [
        *("/nothing", "/nothing.js", "/assets", "/assets/", "/assets/none.js", "/assets/a/b.js"),
        *("/index.html.gz", "/assets/index-B2x.js.gz", "/assets/index.html", "/index-B2x.js"),
        *(
            "/%2e%2e/secret.txt",
            "/..%2fsecret.txt",
            "/assets/..%2f..%2fsecret.txt",
            "/assets/%2e%2e",
        ),
        *("/..%5csecret.txt", "/.x", "/index.html%00", f"/{'a' * 300}.js"),
    ],
)
async def test_anything_else_is_not_found(http: httpx.AsyncClient, path: str) -> None:
    for coding in ("gzip", "identity"):
        url = httpx.URL("http://test").copy_with(raw_path=path.encode())
        answer = await http.get(url, headers={"Accept-Encoding": coding})
        assert (answer.status_code, answer.json()["error_code"]) == (404, "NOT_FOUND")


async def test_what_is_no_read_is_told_so(http: httpx.AsyncClient) -> None:
    answer = await http.post("/")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")
    assert (await http.post("/nothing")).status_code == 404


async def test_before_it_is_built_the_page_says_how(http: httpx.AsyncClient, built: Path) -> None:
    elsewhere = built.rename(built.with_name("elsewhere"))  # noqa: ASYNC240
    answer = await http.get("/")
    assert answer.status_code == 200
    assert "make page" in answer.text
    assert "/api/docs" in answer.text
    assert (await http.get("/assets/index-B2x.js")).status_code == 404
    elsewhere.rename(built)
    assert (await http.get("/")).content == FILES["index.html"]
