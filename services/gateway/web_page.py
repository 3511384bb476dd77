"""The page at /: the files that `npm run build` made of web/, as they are."""

import re
from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import HTMLResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.staticfiles import StaticFiles

BUILT = Path(__file__).parent / "web" / "dist"

# Scripts, styles and requests of this origin alone; models are shown from blobs.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self' blob:; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
# What Python does not know on every machine.
_MEDIA_TYPES = {
    ".glb": "model/gltf-binary",
    ".js": "text/javascript; charset=utf-8",
    ".md": "text/plain; charset=utf-8",
}
# Files in assets/ are named after their content, so a name never gets another content.
_FOREVER = "public, max-age=31536000, immutable"
_TAKES_GZIP = re.compile(r"\bgzip\b(?!\s*;\s*q=0(\.0*)?\s*(,|$))")

_NOT_BUILT = """<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>UniRig</title></head>
<body>
<h1>UniRig</h1>
<p>The page has not been built: run <code>make page</code>, then load this again.</p>
<p>The API is there, and is described at <a href="/api/docs">/api/docs</a>
and <a href="/api/redoc">/api/redoc</a>.</p>
</body>
</html>
"""


def page_router(built: Path) -> APIRouter:
    """Routes to the files in a folder, which may be built only later, or anew."""
    router = APIRouter(include_in_schema=False)
    files = StaticFiles(directory=built, check_dir=False)

    @router.api_route("/", methods=["GET", "HEAD"])
    async def page(request: Request) -> Response:
        try:
            return await answer("index.html", request)
        except HTTPException:
            return HTMLResponse(_NOT_BUILT, headers={"Cache-Control": "no-cache"})

    @router.api_route("/assets/{name}", methods=["GET", "HEAD"])
    async def asset(name: str, request: Request) -> Response:
        found = await answer(f"assets/{name}", request)
        found.headers["Cache-Control"] = _FOREVER
        return found

    @router.api_route("/{name}.{suffix}", methods=["GET", "HEAD"])
    async def file(name: str, suffix: str, request: Request) -> Response:
        return await answer(f"{name}.{suffix}", request)

    async def answer(path: str, request: Request) -> Response:
        suffix = Path(path).suffix
        if suffix == ".gz":
            raise HTTPException(404)
        # Each file has a compressed one beside it, with an ETag of its own.
        packed = bool(_TAKES_GZIP.search(request.headers.get("accept-encoding", "")))
        found = await files.get_response(path + ".gz" * packed, request.scope)
        if packed:
            found.headers["Content-Encoding"] = "gzip"
        if suffix in _MEDIA_TYPES:
            found.headers["Content-Type"] = _MEDIA_TYPES[suffix]
        if suffix == ".html":
            found.headers["Content-Security-Policy"] = _POLICY
        found.headers["Vary"] = "Accept-Encoding"
        found.headers["Cache-Control"] = "no-cache"
        return found

    return router
