"""The OpenAPI document, against its standard and against the reference."""

from collections.abc import AsyncIterator
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from openapi_spec_validator import validate

from services.gateway.app import create_app
from services.gateway.backends import Backends
from services.gateway.notifications import Notifications
from services.gateway.settings import GatewaySettings


@pytest.fixture
async def document() -> AsyncIterator[dict[str, Any]]:
    settings = GatewaySettings()
    backends = Backends(settings)
    api, _ = create_app(settings, backends, Notifications())
    yield api.openapi()
    await backends.close()


REFERENCE = {
    ("get", "/api/csrf-token"): {"429", "503"},
    ("get", "/api/health"): {"503"},
    ("post", "/api/upload"): {"400", "403", "413", "429", "503"},
    ("post", "/api/jobs/skeleton"): {"400", "401", "403", "404", "409", "429", "503"},
    ("post", "/api/jobs/skinning"): {"400", "401", "403", "404", "409", "429", "503"},
    ("post", "/api/jobs/merge"): {"400", "401", "403", "404", "409", "429", "503"},
    ("get", "/api/jobs/{job_id}"): {"401", "404", "429", "503"},
    ("get", "/api/jobs"): {"400", "401", "429", "503"},
    ("post", "/api/jobs/{job_id}/cancel"): {"400", "401", "403", "404", "429", "503"},
    ("delete", "/api/jobs/{job_id}"): {"401", "403", "404", "429", "503"},
    ("get", "/api/sessions/{session_id}/stats"): {"401", "403", "404", "429", "503"},
    ("delete", "/api/sessions/{session_id}"): {"401", "403", "404", "429", "503"},
    ("get", "/api/disk-space"): {"503"},
    ("get", "/results/{session_id}/{filename}"): {"401", "404", "416", "503"},
}


def operations(document: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (method, path): operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }


def test_the_document_is_valid_openapi(document: dict[str, Any]) -> None:
    validate(document)


def test_every_endpoint_of_the_reference_is_there(document: dict[str, Any]) -> None:
    assert set(operations(document)) == {*REFERENCE, ("get", "/ws")}


@pytest.mark.parametrize("operation", REFERENCE)
def test_every_error_is_documented_with_an_example(
    document: dict[str, Any], operation: tuple[str, str]
) -> None:
    responses = operations(document)[operation]["responses"]
    assert {status for status in responses if status[0] in "45"} == REFERENCE[operation]
    for status in REFERENCE[operation]:
        examples = responses[status]["content"]["application/json"]["examples"]
        for code, example in examples.items():
            assert example["value"]["error_code"] == code
            assert example["value"]["detail"]


def test_validation_is_not_422(document: dict[str, Any]) -> None:
    assert not any("422" in found["responses"] for found in operations(document).values())
    assert "HTTPValidationError" not in document["components"]["schemas"]


def test_every_api_answer_documents_the_rate_limit(document: dict[str, Any]) -> None:
    for (_, path), operation in operations(document).items():
        if not path.startswith("/api/"):
            continue
        for status, answer in operation["responses"].items():
            if status != "default":
                assert {
                    "X-RateLimit-Limit",
                    "X-RateLimit-Remaining",
                    "X-RateLimit-Reset",
                } <= set(answer["headers"]), (path, status)
        assert "Retry-After" in operation["responses"]["503"]["headers"]


def test_the_examples_are_those_of_the_reference(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    assert schemas["UploadedFile"]["example"] == {
        "filename": "model.obj",
        "path": "/uploads/session123/model.obj",
        "size": 1048576,
        "mime_type": "model/obj",
        "uploaded_at": "2025-11-13T10:30:00Z",
    }
    assert schemas["Job"]["example"] == {
        "job_id": "job-uuid-1234",
        "status": "running",
        "type": "skeleton",
        "input_file": "/uploads/session123/model.obj",
        "output_file": None,
        "progress": 45,
        "error": None,
        "created_at": "2025-11-13T10:30:00Z",
        "started_at": "2025-11-13T10:30:15Z",
        "completed_at": None,
    }
    assert schemas["MergeRequest"]["example"] == {
        "skeleton_file": "/results/session123/skeleton.fbx",
        "skinning_file": "/results/session123/skinning.fbx",
        "output_format": "fbx",
    }
    assert schemas["DiskSpace"]["example"]["critical_threshold_gb"] == 5
    assert schemas["SessionStats"]["example"]["storage_used_mb"] == 250.5
    events = document["paths"]["/ws"]["get"]["responses"]["101"]["content"]["application/json"]
    assert set(events["examples"]) == {
        "job_progress",
        "job_completed",
        "job_failed",
        "job_cancelled",
    }


def test_every_example_is_an_instance_of_its_schema(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    for schema in schemas.values():
        if "example" in schema:
            whole = {**schema, "components": document["components"]}
            jsonschema.validate(schema["example"], whole)
    assert sum("example" in schema for schema in schemas.values()) >= 12


def test_changes_need_the_cookie_and_the_token(document: dict[str, Any]) -> None:
    for (method, path), operation in operations(document).items():
        if method in ("post", "delete"):
            assert operation["security"] == [{"session": [], "csrf": []}], path
