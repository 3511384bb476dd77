"""The web application: routes, and the layers around them."""

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from services.gateway import (
    disk_space,
    docs,
    health,
    jobs,
    results,
    sessions,
    uploads,
    web_page,
    websocket,
)
from services.gateway.authorize import CSRF_HEADER, SessionHeaders
from services.gateway.backends import Backends
from services.gateway.drain import Drain
from services.gateway.errors import install_error_handlers
from services.gateway.methods import HeadAsGet
from services.gateway.notifications import Notifications
from services.gateway.openapi import install_openapi
from services.gateway.request_log import RequestLog
from services.gateway.security_headers import SecurityHeaders
from services.gateway.settings import GatewaySettings

_EXPOSED = [
    "Content-Disposition",
    "Retry-After",
    "X-RateLimit-Limit",
    "X-RateLimit-Remaining",
    "X-RateLimit-Reset",
    "X-Request-ID",
]


def create_app(
    settings: GatewaySettings, backends: Backends, notifications: Notifications
) -> tuple[FastAPI, ASGIApp]:
    """The routes, and the same with every layer around them, outermost first."""
    api = FastAPI(
        title="UniRig API",
        version="1.0",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        # RequestLog makes the spans: FastAPI's own would have paths and queries.
        telemetry={"tracing": False},
    )
    api.state.settings = settings
    api.state.backends = backends
    api.state.notifications = notifications
    api.state.ready = False
    for module in (uploads, jobs, sessions, disk_space, results, health, docs, websocket):
        api.include_router(module.router)
    api.include_router(web_page.page_router(web_page.BUILT))
    install_error_handlers(api)
    install_openapi(api)

    app: ASGIApp = SessionHeaders(HeadAsGet(api))
    if settings.cors_origins:
        app = CORSMiddleware(
            app,
            allow_origins=settings.cors_origins,
            allow_credentials=True,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Content-Type", CSRF_HEADER, "X-Request-ID"],
            expose_headers=_EXPOSED,
        )
    return api, RequestLog(SecurityHeaders(Drain(app)))
