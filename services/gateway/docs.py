"""/api/docs (Swagger UI) and /api/redoc, without a word to other servers."""

from importlib.resources import files
from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.requests import Request
from starlette.staticfiles import StaticFiles

router = APIRouter(prefix="/api", include_in_schema=False)

# The bundled scripts and styles, from the package that carries them.
_ASSETS = StaticFiles(directory=Path(str(files("fastapi_offline") / "static")))
_ASSETS_PATH = "/api/docs/assets"

# Both pages style themselves from scripts; ReDoc indexes in a worker made of a blob.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; font-src 'self' data:; connect-src 'self'; worker-src blob:; "
    "frame-ancestors 'none'"
)

_SWAGGER_UI = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>UniRig API - Swagger UI</title>
<link rel="icon" href="{_ASSETS_PATH}/favicon.png">
<link rel="stylesheet" href="{_ASSETS_PATH}/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="{_ASSETS_PATH}/swagger-ui-bundle.js"></script>
<script src="/api/docs/start.js"></script>
</body>
</html>
"""

# "Try it out" fetches the CSRF token by itself.
_START = """SwaggerUIBundle({
  url: "/api/openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  validatorUrl: null,
  requestInterceptor: async (request) => {
    const changes = request.method && !["GET", "HEAD"].includes(request.method.toUpperCase());
    if (changes && !request.headers["X-CSRF-Token"]) {
      const answer = await fetch("/api/csrf-token", {credentials: "same-origin"});
      request.headers["X-CSRF-Token"] = (await answer.json()).csrf_token;
    }
    return request;
  },
});
"""

_REDOC = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>UniRig API - ReDoc</title>
<link rel="icon" href="{_ASSETS_PATH}/favicon.png">
<style>body {{ margin: 0; padding: 0; }}</style>
</head>
<body>
<redoc spec-url="/api/openapi.json"></redoc>
<script src="{_ASSETS_PATH}/redoc.standalone.js"></script>
</body>
</html>
"""


@router.get("/docs")
async def swagger_ui() -> HTMLResponse:
    return HTMLResponse(_SWAGGER_UI, headers={"Content-Security-Policy": _POLICY})


@router.get("/docs/start.js")
async def swagger_ui_start() -> Response:
    return Response(_START, media_type="text/javascript")


@router.api_route("/docs/assets/{name}", methods=["GET", "HEAD"])
async def asset(name: str, request: Request) -> Response:
    answer = await _ASSETS.get_response(name, request.scope)
    answer.headers["Cache-Control"] = "no-cache"
    return answer


@router.get("/redoc")
async def redoc() -> HTMLResponse:
    return HTMLResponse(_REDOC, headers={"Content-Security-Policy": _POLICY})


@router.get("/openapi.json")
async def openapi(request: Request) -> JSONResponse:
    return JSONResponse(request.app.openapi())
