"""Every error's answer: one table from error code to HTTP status, one body."""

from collections.abc import Mapping
from datetime import UTC, datetime

import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from services.common.errors import ApiError, ErrorCode
from services.gateway.methods import allowed_methods
from services.gateway.schemas import timestamp

log = structlog.get_logger(__name__)

STATUS = {
    ErrorCode.CONCURRENT_JOB_LIMIT: 409,
    ErrorCode.CSRF_TOKEN_INVALID: 403,
    ErrorCode.CSRF_TOKEN_MISSING: 403,
    ErrorCode.FILE_NOT_FOUND: 404,
    ErrorCode.FILE_TOO_LARGE: 413,
    ErrorCode.FORBIDDEN: 403,
    ErrorCode.GPU_OUT_OF_MEMORY: 503,
    ErrorCode.INTERNAL_ERROR: 500,
    ErrorCode.INVALID_FILE_FORMAT: 400,
    ErrorCode.INVALID_MESH: 400,
    ErrorCode.INVALID_REQUEST: 400,
    ErrorCode.JOB_NOT_CANCELLABLE: 400,
    ErrorCode.JOB_NOT_FOUND: 404,
    ErrorCode.METHOD_NOT_ALLOWED: 405,
    ErrorCode.MODEL_CHECKPOINT_MISSING: 503,
    ErrorCode.NOT_FOUND: 404,
    ErrorCode.PROCESSING_FAILED: 500,
    ErrorCode.RANGE_NOT_SATISFIABLE: 416,
    ErrorCode.RATE_LIMIT_EXCEEDED: 429,
    ErrorCode.SERVICE_UNAVAILABLE: 503,
    ErrorCode.SESSION_NOT_FOUND: 404,
    ErrorCode.STORAGE_FULL: 503,
    ErrorCode.TIMEOUT: 503,
    ErrorCode.UNAUTHORIZED: 401,
}

# What the router's own refusals are called, and what they say.
_ROUTER_ERRORS = {
    404: (ErrorCode.NOT_FOUND, "Not found"),
    405: (ErrorCode.METHOD_NOT_ALLOWED, "Method not allowed"),
}
# When to come back after a 503, seconds.
_RETRY_AFTER = {ErrorCode.STORAGE_FULL: 60}
_DEFAULT_RETRY_AFTER = 5
# A client that went away reads no answer; the status is for our own logs.
_CLIENT_CLOSED_REQUEST = 499


def error_response(error: ApiError, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The standard body, and Retry-After where it helps."""
    status = STATUS[error.code]
    body: dict[str, object] = {
        "detail": error.detail,
        "error_code": error.code.value,
        "timestamp": timestamp(datetime.now(UTC)),
    }
    all_headers = {"Cache-Control": "no-store", **(headers or {})}
    if status == 429:
        seconds = int(error.metadata.get("retry_after", "1"))
        body["retry_after"] = seconds
        all_headers["Retry-After"] = str(seconds)
    elif status == 503:
        all_headers["Retry-After"] = str(_RETRY_AFTER.get(error.code, _DEFAULT_RETRY_AFTER))
    return JSONResponse(body, status, all_headers)


def raw_refusal(detail: str, headers: Mapping[str, str] | None = None) -> bytes:
    """A whole HTTP answer to what is no request, after which the connection ends."""
    error = ApiError(ErrorCode.INVALID_REQUEST, detail)
    answer = error_response(error, {"Connection": "close", **(headers or {})})
    head = [b"%s: %s\r\n" % header for header in answer.raw_headers]
    return b"".join([b"HTTP/1.1 400 Bad Request\r\n", *head, b"\r\n", bytes(answer.body)])


def validation_detail(error: RequestValidationError) -> str:
    """The first thing wrong with the request, as a sentence a person can act on."""
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return f"The request body is not valid JSON: {first['ctx']['error']}"
    where = ".".join(str(part) for part in first["loc"][1:])
    if not where:
        return "The request body must be a JSON object sent as application/json"
    message = str(first["msg"]).removeprefix("Value error, ")
    return f"{where}: {message}"


def install_error_handlers(app: FastAPI) -> None:
    """Answers every exception that leaves a route with the standard body."""

    @app.exception_handler(ApiError)
    async def refuse(request: Request, error: ApiError) -> Response:
        headers = {}
        if error.code is ErrorCode.RANGE_NOT_SATISFIABLE:
            headers["Content-Range"] = f"bytes */{error.metadata['size']}"
        return error_response(error, headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return error_response(ApiError(ErrorCode.INVALID_REQUEST, validation_detail(error)))

    @app.exception_handler(HTTPException)
    async def router_refuses(request: Request, error: HTTPException) -> Response:
        code, detail = _ROUTER_ERRORS.get(
            error.status_code, (ErrorCode.INVALID_REQUEST, str(error.detail))
        )
        headers = dict(error.headers or {})
        if code is ErrorCode.METHOD_NOT_ALLOWED:
            # The router names the methods of the first route only that has the path.
            headers["Allow"] = allowed_methods(app, request.scope)
        return error_response(ApiError(code, detail), headers)

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=_CLIENT_CLOSED_REQUEST)

    @app.exception_handler(Exception)
    async def unforeseen(request: Request, error: Exception) -> Response:
        return error_response(ApiError(ErrorCode.INTERNAL_ERROR, "Internal server error"))
