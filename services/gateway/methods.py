"""Which HTTP methods a path takes, and HEAD wherever there is a GET (RFC 9110, section 9.3.2)."""

from fastapi import FastAPI
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_METHODS = ("GET", "HEAD", "POST", "DELETE")


class HeadAsGet:
    """Has GET answer a HEAD that no route takes by itself; the server leaves the body out."""

    def __init__(self, api: FastAPI) -> None:
        self._api = api
        self._app: ASGIApp = api

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD" or _takes(self._api, scope, "HEAD"):
            await self._app(scope, receive, send)
            return

        async def send_as_head(message: Message) -> None:
            # Before the server looks whether to leave the body out.
            scope["method"] = "HEAD"
            await send(message)

        scope["method"] = "GET"
        await self._app(scope, receive, send_as_head)


def allowed_methods(api: FastAPI, scope: Scope) -> str:
    """What the Allow header of a 405 says: every method that the path takes."""
    taken = {method for method in _METHODS if _takes(api, scope, method)}
    if "GET" in taken:
        taken.add("HEAD")
    return ", ".join(method for method in _METHODS if method in taken)


def _takes(api: FastAPI, scope: Scope, method: str) -> bool:
    asked = {**scope, "method": method}
    return any(route.matches(asked)[0] is Match.FULL for route in api.routes)
