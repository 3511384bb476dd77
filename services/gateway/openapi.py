"""The OpenAPI document beyond what FastAPI finds by itself: every error, header and event."""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from services.common.errors import ErrorCode
from services.gateway import schemas
from services.gateway.errors import STATUS
from services.gateway.schemas import EXAMPLE_TIME, Error

_DESCRIPTION = """
Turns an uploaded 3D model (OBJ, FBX, GLB, VRM) into a rigged, animatable asset.

**Sessions.** `GET /api/csrf-token` sets the `session_id` cookie and answers a token that is bound
to it. Send the token as `X-CSRF-Token` with every POST and DELETE. The session's public id is the
part of the cookie before the dot; wherever a session is named, the whole value is accepted too.

**Rate limits.** Per session: 10 uploads and 1000 requests an hour. Every answer under `/api`
carries `X-RateLimit-Limit`, `X-RateLimit-Remaining` and `X-RateLimit-Reset`.

**Errors.** Every error has the same body: `detail`, `error_code` and `timestamp`.

**Live progress.** `GET /ws?session={session_id}` is a WebSocket; see the Events section.
"""

_PHRASES = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    409: "Conflict",
    413: "Payload Too Large",
    416: "Range Not Satisfiable",
    429: "Too Many Requests",
    500: "Internal Server Error",
    503: "Service Unavailable",
}

# An example of each error's text: what the document shows.
_TEXTS = {
    ErrorCode.CONCURRENT_JOB_LIMIT: (
        "Cannot create new job: Active job already exists for this session"
    ),
    ErrorCode.CSRF_TOKEN_INVALID: "CSRF token verification failed",
    ErrorCode.CSRF_TOKEN_MISSING: "CSRF token not provided",
    ErrorCode.FILE_NOT_FOUND: "File not found",
    ErrorCode.FILE_TOO_LARGE: "File size exceeds maximum allowed size of 100MB",
    ErrorCode.FORBIDDEN: "This session belongs to somebody else",
    ErrorCode.INVALID_FILE_FORMAT: "Invalid file format. Supported: .obj, .fbx, .glb, .vrm",
    ErrorCode.INVALID_REQUEST: "input_file: Field required",
    ErrorCode.JOB_NOT_CANCELLABLE: "Cannot cancel job: Job already completed",
    ErrorCode.JOB_NOT_FOUND: "Job not found",
    ErrorCode.RANGE_NOT_SATISFIABLE: "The requested range is outside the file of 1048576 bytes",
    ErrorCode.RATE_LIMIT_EXCEEDED: "Rate limit exceeded. Try again in 45 minutes.",
    ErrorCode.SERVICE_UNAVAILABLE: "The service is temporarily unavailable.",
    ErrorCode.SESSION_NOT_FOUND: "Session not found",
    ErrorCode.STORAGE_FULL: "The storage is full.",
    ErrorCode.UNAUTHORIZED: "A session cookie is required",
}

READ_ERRORS = (
    ErrorCode.UNAUTHORIZED,
    ErrorCode.RATE_LIMIT_EXCEEDED,
    ErrorCode.SERVICE_UNAVAILABLE,
)
CHANGE_ERRORS = (
    *READ_ERRORS,
    ErrorCode.CSRF_TOKEN_MISSING,
    ErrorCode.CSRF_TOKEN_INVALID,
)
CREATE_ERRORS = (
    *CHANGE_ERRORS,
    ErrorCode.INVALID_REQUEST,
    ErrorCode.FILE_NOT_FOUND,
    ErrorCode.CONCURRENT_JOB_LIMIT,
    ErrorCode.STORAGE_FULL,
)

# What a job can fail with; shown in its error_code, not as the status of a request.
_JOB_ERRORS = {
    ErrorCode.GPU_OUT_OF_MEMORY: "Insufficient GPU memory",
    ErrorCode.INVALID_MESH: "The file holds no mesh that can be rigged",
    ErrorCode.MODEL_CHECKPOINT_MISSING: "UniRig model not downloaded",
    ErrorCode.PROCESSING_FAILED: "UniRig processing error",
    ErrorCode.TIMEOUT: "The job took too long",
}


def _integer_header(description: str, example: int) -> dict[str, Any]:
    return {
        "description": description,
        "schema": {"type": "integer"},
        "example": example,
    }


_RATE_LIMIT_HEADERS = {
    "X-RateLimit-Limit": _integer_header("Requests allowed in the window.", 10),
    "X-RateLimit-Remaining": _integer_header("Requests left in the window.", 7),
    "X-RateLimit-Reset": _integer_header(
        "When the window has a place again that it has not now, Unix seconds.", 1699876800
    ),
}
_RETRY_AFTER = {"Retry-After": _integer_header("Seconds until a retry can succeed.", 2700)}

UPLOAD_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {
                            "type": "string",
                            "format": "binary",
                            "description": "3D model file (OBJ, FBX, GLB, VRM), at most 100 MB.",
                        }
                    },
                }
            }
        },
    }
}

_FILE = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
_FILE_HEADERS = {
    "Content-Disposition": {
        "schema": {"type": "string"},
        "example": 'attachment; filename="model_rigged.fbx"',
    },
    "ETag": {"schema": {"type": "string"}},
}
DOWNLOAD: dict[int | str, dict[str, Any]] = {
    200: {"description": "The file.", "content": _FILE, "headers": _FILE_HEADERS},
    206: {"description": "The part of the file that Range asked for.", "content": _FILE},
    304: {"description": "The client's copy is current."},
}

EVENTS: dict[str, dict[str, Any]] = {
    "job_progress": {
        "type": "job_progress",
        "job_id": "job-uuid-1234",
        "progress": 45,
        "status": "running",
        "message": "Processing skeleton...",
    },
    "job_completed": {
        "type": "job_completed",
        "job_id": "job-uuid-1234",
        "status": "completed",
        "output_file": "/results/session123/model_skeleton.obj",
    },
    "job_failed": {
        "type": "job_failed",
        "job_id": "job-uuid-1234",
        "status": "failed",
        "error": "GPU out of memory",
        "error_code": "GPU_OUT_OF_MEMORY",
    },
    "job_cancelled": {
        "type": "job_cancelled",
        "job_id": "job-uuid-1234",
        "status": "cancelled",
    },
}


def answers(
    *codes: ErrorCode, limited: bool = True, texts: Mapping[ErrorCode, str] | None = None
) -> dict[int | str, dict[str, Any]]:
    """The responses of a route: its errors with an example each, and the rate limit's headers.

    texts: what the errors say where the route has words of its own for them.
    """
    found: dict[int | str, dict[str, Any]] = {
        "default": {"model": Error, "description": "Any other error: the standard body."}
    }
    headers = _RATE_LIMIT_HEADERS if limited else {}
    if limited:
        found[200] = {"headers": headers}
    for code in codes:
        status = STATUS[code]
        detail = (texts or {}).get(code, _TEXTS[code])
        answer = found.setdefault(
            status,
            {
                "model": Error,
                "description": _PHRASES[status],
                "headers": headers | _RETRY_AFTER if status in (429, 503) else headers,
                "content": {"application/json": {"examples": {}}},
            },
        )
        body: dict[str, Any] = {
            "detail": detail,
            "error_code": code.value,
            "timestamp": EXAMPLE_TIME,
        }
        if status == 429:
            body["retry_after"] = 2700
        answer["content"]["application/json"]["examples"][code.value] = {"value": body}
    return found


def install_openapi(app: FastAPI) -> None:
    """Has the app answer the whole document; it is made once."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _document(app: FastAPI) -> dict[str, Any]:
    job_errors = "\n".join(f"| `{code}` | {text} |" for code, text in _JOB_ERRORS.items())
    document = get_openapi(
        title=app.title,
        version=app.version,
        description=(
            f"{_DESCRIPTION}\n**Failed jobs** carry an `error_code` too:\n\n"
            f"| Code | Description |\n| --- | --- |\n{job_errors}\n"
        ),
        routes=app.routes,
    )
    for name, schema in document["components"]["schemas"].items():
        # FastAPI leaves null out of what it copies, which the reference's examples show.
        extra = getattr(schemas, name).model_config.get("json_schema_extra", {})
        schema.update(extra)
    document["components"]["securitySchemes"] = {
        "session": {"type": "apiKey", "in": "cookie", "name": "session_id"},
        "csrf": {"type": "apiKey", "in": "header", "name": "X-CSRF-Token"},
    }
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            security = _security(path, method)
            if security:
                operation["security"] = security
    document["paths"]["/ws"] = {"get": _websocket()}
    return document


def _security(path: str, method: str) -> list[dict[str, list[str]]]:
    if method in ("post", "delete"):
        return [{"session": [], "csrf": []}]
    if path.startswith(("/api/jobs", "/api/sessions")):
        return [{"session": []}]
    return []


def _websocket() -> dict[str, Any]:
    return {
        "tags": ["Events"],
        "summary": "Live job events (WebSocket)",
        "description": (
            "A WebSocket that sends one JSON object for each change of the session's jobs. "
            "On connect it sends the state of the active job. It needs the session's cookie and, "
            "from a browser, the same origin."
        ),
        "operationId": "events",
        "security": [{"session": []}],
        "parameters": [
            {
                "name": "session",
                "in": "query",
                "required": True,
                "schema": {"type": "string"},
                "description": "The session's id.",
            }
        ],
        "responses": {
            "101": {
                "description": "The events, as WebSocket text messages.",
                "content": {
                    "application/json": {
                        "schema": {
                            "type": "object",
                            "required": ["type", "job_id", "status"],
                            "properties": {
                                "type": {"type": "string", "enum": list(EVENTS)},
                                "job_id": {"type": "string"},
                                "status": {"type": "string"},
                                "progress": {"type": "integer", "minimum": 0, "maximum": 100},
                                "message": {"type": "string"},
                                "output_file": {"type": "string"},
                                "error": {"type": "string"},
                                "error_code": {"type": "string"},
                            },
                        },
                        "examples": {name: {"value": event} for name, event in EVENTS.items()},
                    }
                },
            },
            **{
                str(status): {
                    "description": _PHRASES[status],
                    "content": {
                        "application/json": {"schema": {"$ref": "#/components/schemas/Error"}}
                    },
                }
                for status in (400, 401, 403, 429, 503)
            },
        },
    }
