"""The API's error codes, and how they travel between services.

A service raises ApiError; on gRPC it becomes a status code plus a google.rpc.ErrorInfo whose reason
is the code; the caller gets an ApiError back.
"""

from collections.abc import Mapping
from enum import StrEnum

import grpc
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

DOMAIN = "unirig"


class ErrorCode(StrEnum):
    CONCURRENT_JOB_LIMIT = "CONCURRENT_JOB_LIMIT"
    CSRF_TOKEN_INVALID = "CSRF_TOKEN_INVALID"  # noqa: S105 - a code, not a secret
    CSRF_TOKEN_MISSING = "CSRF_TOKEN_MISSING"  # noqa: S105 - a code, not a secret
    FILE_NOT_FOUND = "FILE_NOT_FOUND"
    FILE_TOO_LARGE = "FILE_TOO_LARGE"
    FORBIDDEN = "FORBIDDEN"
    GPU_OUT_OF_MEMORY = "GPU_OUT_OF_MEMORY"
    INTERNAL_ERROR = "INTERNAL_ERROR"
    INVALID_FILE_FORMAT = "INVALID_FILE_FORMAT"
    INVALID_MESH = "INVALID_MESH"
    INVALID_REQUEST = "INVALID_REQUEST"
    JOB_NOT_CANCELLABLE = "JOB_NOT_CANCELLABLE"
    JOB_NOT_FOUND = "JOB_NOT_FOUND"
    METHOD_NOT_ALLOWED = "METHOD_NOT_ALLOWED"
    MODEL_CHECKPOINT_MISSING = "MODEL_CHECKPOINT_MISSING"
    NOT_FOUND = "NOT_FOUND"
    PROCESSING_FAILED = "PROCESSING_FAILED"
    RANGE_NOT_SATISFIABLE = "RANGE_NOT_SATISFIABLE"
    RATE_LIMIT_EXCEEDED = "RATE_LIMIT_EXCEEDED"
    SERVICE_UNAVAILABLE = "SERVICE_UNAVAILABLE"
    SESSION_NOT_FOUND = "SESSION_NOT_FOUND"
    STORAGE_FULL = "STORAGE_FULL"
    TIMEOUT = "TIMEOUT"
    UNAUTHORIZED = "UNAUTHORIZED"


# The codes that cross a gRPC boundary; the others are made and answered in one place.
_GRPC_STATUS = {
    ErrorCode.CONCURRENT_JOB_LIMIT: grpc.StatusCode.FAILED_PRECONDITION,
    ErrorCode.CSRF_TOKEN_INVALID: grpc.StatusCode.PERMISSION_DENIED,
    ErrorCode.CSRF_TOKEN_MISSING: grpc.StatusCode.PERMISSION_DENIED,
    ErrorCode.FILE_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    ErrorCode.FILE_TOO_LARGE: grpc.StatusCode.INVALID_ARGUMENT,
    ErrorCode.FORBIDDEN: grpc.StatusCode.PERMISSION_DENIED,
    ErrorCode.INVALID_REQUEST: grpc.StatusCode.INVALID_ARGUMENT,
    ErrorCode.JOB_NOT_CANCELLABLE: grpc.StatusCode.FAILED_PRECONDITION,
    ErrorCode.JOB_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    ErrorCode.RANGE_NOT_SATISFIABLE: grpc.StatusCode.OUT_OF_RANGE,
    ErrorCode.RATE_LIMIT_EXCEEDED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ErrorCode.SERVICE_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    ErrorCode.SESSION_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    ErrorCode.STORAGE_FULL: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ErrorCode.UNAUTHORIZED: grpc.StatusCode.UNAUTHENTICATED,
}

# What a bare gRPC failure, one without an ErrorInfo, means to the caller.
_UNEXPLAINED = {
    grpc.StatusCode.UNAVAILABLE: ErrorCode.SERVICE_UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: ErrorCode.SERVICE_UNAVAILABLE,
    # A call that reaches a server as it stops; one that we cancel ourselves raises no failure.
    grpc.StatusCode.CANCELLED: ErrorCode.SERVICE_UNAVAILABLE,
}


class ApiError(Exception):
    """A refusal or failure that the user is told about.

    detail is for people; metadata carries machine-readable facts such as "retry_after".
    """

    def __init__(
        self, code: ErrorCode, detail: str, metadata: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.metadata = dict(metadata or {})


def rpc_status_of(error: ApiError) -> tuple[grpc.StatusCode, tuple[tuple[str, bytes], ...]]:
    """The gRPC status code and the trailing metadata that carry the error to the caller."""
    status = _GRPC_STATUS.get(error.code, grpc.StatusCode.INTERNAL)
    info = any_pb2.Any()
    info.Pack(
        error_details_pb2.ErrorInfo(reason=error.code, domain=DOMAIN, metadata=error.metadata)
    )
    rich = status_pb2.Status(
        code=code_pb2.Code.Value(status.name), message=error.detail, details=[info]
    )
    return status, (("grpc-status-details-bin", rich.SerializeToString()),)


def api_error_of(failure: grpc.aio.AioRpcError) -> ApiError:
    """The ApiError behind a failed call; a lost or late service is SERVICE_UNAVAILABLE.

    The text of an unexplained failure stays out: it may name internal addresses.
    """
    trailing = failure.trailing_metadata() or ()
    for key, value in trailing:
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            rich = status_pb2.Status.FromString(value)
            for detail in rich.details:
                info = error_details_pb2.ErrorInfo()
                known = detail.Unpack(info) and info.domain == DOMAIN
                if known and info.reason in ErrorCode.__members__:
                    return ApiError(ErrorCode(info.reason), rich.message, info.metadata)
    code = _UNEXPLAINED.get(failure.code(), ErrorCode.INTERNAL_ERROR)
    if code is ErrorCode.SERVICE_UNAVAILABLE:
        return ApiError(code, "The service is temporarily unavailable. Please try again shortly.")
    return ApiError(code, "Internal server error")
