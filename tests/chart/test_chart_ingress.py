"""The chart's Ingress on a real nginx before a real stack: what values.yaml tells a controller is
enough, and is needed."""

import asyncio
import contextlib
import json
import ssl
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
import yaml
from websockets.exceptions import InvalidStatus

from services.cli.servers import free_port
from services.cli.stack import Stack
from tests.bench.storage_memory import forget_peak
from tests.bench.upload_memory import memory
from tests.chart.conftest import COMBINATIONS
from tests.chart.entrance import HOST, Entrance, opened
from tests.chart.helm_program import CHART, Helm
from tests.chart.nginx_of_ingress import (
    CONTROLLERS,
    NGINX,
    documented,
    ingress_with,
    nginx_conf,
)
from tests.chart.transfers import (
    CHUNK,
    LIMIT,
    MIB,
    bytes_in,
    bytes_set_aside,
    large_result,
    streamed,
    upload,
    wait_for,
)
from tests.e2e.conftest import Client
from tests.e2e.test_websocket import events_until, socket_of
from tests.rate_limits import ROOMY

_FLAT_MIB = 32
_NEW_SESSIONS = 30
_EXAMPLE = CHART / "files" / "example.obj"


@contextlib.contextmanager
def nginx(
    helm: Helm, stack: Stack, controller: str, annotations: Mapping[str, str]
) -> Iterator[Entrance]:
    """The nginx that the controller would run for the chart's Ingress with these annotations."""
    port, gateway = free_port(), f"127.0.0.1:{urlsplit(stack.url).port}"
    ingress = ingress_with(helm, annotations)
    conf = nginx_conf(ingress, CONTROLLERS[controller], port, {"unirig-gateway": gateway})
    with opened(NGINX, {"nginx.conf": conf}, port) as entrance:
        yield entrance


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the stack."""
    return tmp_path_factory.mktemp("stack")


@pytest.fixture(scope="module")
def stack(data: Path) -> Iterator[Stack]:
    """Believes nginx, which calls from 127.0.0.1, and none of the clients beside it."""
    settings = {
        **ROOMY,
        "TRUSTED_PROXIES": "127.0.0.1",
        "RATE_LIMIT_NEW_SESSIONS_PER_HOUR": str(_NEW_SESSIONS),
    }
    with Stack(data, free_port(), settings=settings) as stack:
        yield stack


@pytest.fixture(scope="module", params=list(CONTROLLERS))
def controller(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def entrance(helm: Helm, stack: Stack, controller: str) -> Iterator[Entrance]:
    """nginx with the annotations that values.yaml names."""
    with nginx(helm, stack, controller, documented(CONTROLLERS[controller])) as entrance:
        yield entrance


@pytest.fixture
def client(entrance: Entrance) -> Iterator[Client]:
    client = entrance.client()
    yield client
    client.http.close()


def assert_is_ours(answer: httpx.Response, code: str) -> None:
    assert answer.headers["content-type"] == "application/json", answer.text
    assert answer.json().keys() == {"detail", "error_code", "timestamp"}
    assert answer.json()["error_code"] == code


def test_100_mb_stream_through_and_cost_no_memory(
    entrance: Entrance, stack: Stack, data: Path
) -> None:
    seen = streamed(entrance, stack, data / "storage")
    assert seen.answer.status_code == 200
    assert seen.answer.json()["size"] == LIMIT
    assert seen.arrived >= LIMIT / MIB / 4, "the first bytes wait for the last"
    assert seen.set_aside == 0, "nginx keeps the body in a file"
    assert max(seen.proxy_rise, seen.gateway_rise) < _FLAT_MIB


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("size", [LIMIT + 1, 150 * MIB, 600 * MIB])
def test_a_larger_file_is_refused_in_our_own_words(
    client: Client, size: int, chunked: bool
) -> None:
    answer = upload(client, size, chunked)
    assert answer.status_code == 413
    assert_is_ours(answer, "FILE_TOO_LARGE")
    usage = client.http.get(f"/api/sessions/{client.session_id}/stats")
    assert usage.json()["total_uploads"] == 0


def test_a_client_that_prefers_http_2_gets_the_refusal_too(
    entrance: Entrance, controller: str, tmp_path: Path
) -> None:
    """ingress-nginx speaks it where the client does; F5's only where it is told to."""
    client = entrance.client()
    large = tmp_path / "large.obj"
    with large.open("wb") as file:
        file.truncate(150 * MIB)
    authority = tmp_path / "authority.pem"
    trusted = entrance.tls.get_ca_certs(binary_form=True)
    authority.write_text("".join(map(ssl.DER_cert_to_PEM_cert, trusted)))
    done = subprocess.run(
        [
            *("curl", "--silent", "--http2", "--cacert", authority),
            *("--cookie", f"session_id={client.cookie}"),
            *("--header", f"X-CSRF-Token: {client.token}", "--form", f"file=@{large}"),
            *("--write-out", "\n%{http_version} %{http_code}", f"{entrance.url}/api/upload"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    body, _, seen = done.stdout.rpartition("\n")
    assert seen == ("2 413" if controller == "ingress-nginx" else "1.1 413"), done
    assert json.loads(body)["error_code"] == "FILE_TOO_LARGE"


async def test_job_events_come_over_the_websocket(entrance: Entrance, client: Client) -> None:
    path = client.uploaded(_EXAMPLE)
    async with socket_of(client, ssl=entrance.tls) as socket:
        await asyncio.to_thread(client.job, "skeleton", input_file=path)
        *progress, completed = await events_until(socket, "job_completed")
    assert {event["type"] for event in progress} == {"job_progress"}
    assert client.http.get(completed["output_file"]).status_code == 200


async def test_only_the_sites_own_pages_open_the_websocket(
    entrance: Entrance, client: Client, controller: str
) -> None:
    # F5's controller names the host without its port, so that ports other than 443 look foreign.
    own = entrance.url if controller == "ingress-nginx" else f"https://{HOST}"
    async with socket_of(client, ssl=entrance.tls, origin=own) as socket:
        await (await socket.ping())
    with pytest.raises(InvalidStatus) as refusal:
        async with socket_of(client, ssl=entrance.tls, origin="https://elsewhere.example"):
            pass
    assert json.loads(refusal.value.response.body)["error_code"] == "FORBIDDEN"


async def test_a_download_waits_for_its_reader(
    entrance: Entrance, stack: Stack, client: Client
) -> None:
    path = await large_result(stack, client)
    at_rest = memory(entrance.pid, "VmRSS")
    forget_peak(entrance.pid)
    with client.http.stream("GET", path) as answer:
        pieces = answer.iter_bytes(MIB)
        received = len(next(pieces))
        # Time in which nginx would fetch the rest, if it did; below it does within that.
        await asyncio.sleep(1)
        assert bytes_set_aside(entrance.pid) == 0, "nginx keeps the answer in a file"
        received += sum(map(len, pieces))
    assert received == LIMIT
    assert memory(entrance.pid, "VmHWM") - at_rest < _FLAT_MIB


def test_cookies_are_for_tls_only_and_a_client_cannot_say_so_itself(
    client: Client, stack: Stack
) -> None:
    (cookie,) = client.http.cookies.jar
    assert cookie.secure
    stranger = httpx.HTTPTransport(local_address="127.0.0.9")
    with httpx.Client(base_url=stack.url, transport=stranger) as direct:
        answer = direct.get("/api/csrf-token", headers={"X-Forwarded-Proto": "https"})
    assert "Secure" not in answer.headers["set-cookie"]


def test_new_sessions_are_limited_by_the_clients_own_address(
    entrance: Entrance, controller: str
) -> None:
    # The stack is the same for both controllers.
    busy, other = {
        "ingress-nginx": ("127.0.0.2", "127.0.0.3"),
        "F5's NGINX": ("127.0.0.4", "127.0.0.5"),
    }[controller]
    statuses = entrance.new_sessions(_NEW_SESSIONS + 1, busy)
    assert statuses == [200] * _NEW_SESSIONS + [429]
    # Nor does it help to pretend.
    assert entrance.new_sessions(1, busy, {"X-Forwarded-For": "203.0.113.7"}) == [429]
    assert entrance.new_sessions(1, other) == [200]


def test_without_the_annotations_nginx_refuses_in_its_own_words(
    helm: Helm, stack: Stack, controller: str
) -> None:
    with nginx(helm, stack, controller, {}) as entrance:
        answer = upload(entrance.client("127.0.0.6"), 2 * MIB)
    assert (answer.status_code, answer.headers["content-type"]) == (413, "text/html")


def test_with_the_size_alone_nginx_keeps_the_body_to_itself(
    helm: Helm, stack: Stack, data: Path, controller: str
) -> None:
    size = {
        name: value
        for name, value in documented(CONTROLLERS[controller]).items()
        if "body-size" in name
    }
    with nginx(helm, stack, controller, size) as entrance:
        before, found = bytes_in(data / "storage"), [0, 0]

        def look(chunk: int) -> None:
            if chunk != LIMIT // CHUNK // 2:
                return
            found[0] = wait_for(lambda: bytes_set_aside(entrance.pid), LIMIT // 4)
            found[1] = bytes_in(data / "storage") - before

        upload(entrance.client("127.0.0.6"), LIMIT, before_chunk=look)
    assert found[0] >= LIMIT // 4
    assert found[1] < MIB


async def test_without_the_annotations_f5s_nginx_passes_no_websocket_and_keeps_downloads(
    helm: Helm, stack: Stack
) -> None:
    with nginx(helm, stack, "F5's NGINX", {}) as entrance:
        client = entrance.client("127.0.0.6")
        path = await large_result(stack, client)
        with pytest.raises(InvalidStatus) as refusal:
            async with socket_of(client, ssl=entrance.tls):
                pass
        assert refusal.value.response.status_code == 400
        with client.http.stream("GET", path) as answer:
            pieces = answer.iter_bytes(MIB)
            next(pieces)
            assert wait_for(lambda: bytes_set_aside(entrance.pid), LIMIT // 2) >= LIMIT // 2


def test_an_annotation_that_has_no_translation_is_an_error(
    helm: Helm, stack: Stack, controller: str
) -> None:
    unknown = {f"{CONTROLLERS[controller].prefix}proxy-body-sise": "0"}
    opening = nginx(helm, stack, controller, unknown)
    with pytest.raises(LookupError, match="proxy-body-sise"), opening:
        pass


def test_the_example_of_an_ingress_says_what_values_yaml_does() -> None:
    (file,) = COMBINATIONS["ingress-tls"]
    annotations = yaml.safe_load(file.read_text())["ingress"]["annotations"]
    assert annotations == documented(CONTROLLERS["ingress-nginx"])
