"""Tries the API through the proxies that ingress controllers and gateways are made of.

    make try-proxies        or: python -m tests.chart.try_proxies

The controllers themselves need a cluster: this is what their proxies do with the settings shown.
Prints the table of docs/ingress.md, and exits with 1 where a proxy that should pass all does not.
"""

import asyncio
import contextlib
import re
import shutil
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from websockets.exceptions import WebSocketException

from services.cli.servers import free_port
from services.cli.stack import Stack
from tests.chart.conftest import COMBINATIONS
from tests.chart.entrance import Entrance, opened
from tests.chart.helm_program import CHART, Helm, install_helm
from tests.chart.manifest_checks import of_kind
from tests.chart.nginx_of_ingress import (
    CONTROLLERS,
    NGINX,
    Controller,
    documented,
    ingress_with,
    nginx_conf,
)
from tests.chart.transfers import CHUNK, LIMIT, MIB, large_result, streamed, upload
from tests.e2e.test_websocket import events_until, socket_of
from tests.rate_limits import ROOMY

_FILES = Path(__file__).parent / "proxies"
_NEW_SESSIONS = 100
_FLAT_MIB = 64
# Together longer than the usual limits of a minute; each pause shorter than the usual limits of
# idleness.
_SLOW_PARTS, _PAUSE_SECONDS = 6, 15

# The texts of a proxy's files, from its own port and the gateway's.
_Files = Callable[[int, int], dict[str, str]]


@dataclass(frozen=True)
class Proxy:
    """One proxy with the settings that it is tried with."""

    name: str
    settings: str
    # The program first.
    command: tuple[str, ...]
    # What makes the program say its version.
    version: str
    files: _Files
    # Whether docs/ingress.md says that it works so.
    recommended: bool = True


def proxies(helm: Helm) -> tuple[Proxy, ...]:
    (route,) = of_kind(helm.template(*COMBINATIONS["http-route"]), "HTTPRoute")
    (rule,) = route["spec"]["rules"]
    timeout = rule["timeouts"]["request"]
    traefik = ("traefik", "--configFile=traefik.yaml"), "version"
    envoy = ("envoy", "-c", "envoy.yaml", "--use-dynamic-base-id"), "--version"
    return (
        *(
            Proxy("nginx", f"{name}, annotated", NGINX, "-v", _nginx(helm, controller))
            for name, controller in CONTROLLERS.items()
        ),
        Proxy("Traefik", "`readTimeout: 0s`", *traefik, _traefik("0s")),
        Proxy("Traefik", "its defaults", *traefik, _traefik("60s"), recommended=False),
        Proxy(
            *("HAProxy", "its controller's time-outs"),
            *(("haproxy", "-db", "-f", "haproxy.cfg"), "-v", _templates("haproxy.cfg")),
        ),
        Proxy("Caddy", "its defaults", ("caddy", "run"), "version", _templates("Caddyfile")),
        Proxy("Envoy", f"HTTPRoute, `request: {timeout}`", *envoy, _envoy(timeout)),
        Proxy("Envoy", "its defaults", *envoy, _envoy("15s"), recommended=False),
    )


def _nginx(helm: Helm, controller: Controller) -> _Files:
    ingress = ingress_with(helm, documented(controller))

    def files(port: int, gateway: int) -> dict[str, str]:
        addresses = {"unirig-gateway": f"127.0.0.1:{gateway}"}
        return {"nginx.conf": nginx_conf(ingress, controller, port, addresses)}

    return files


def _traefik(read_timeout: str) -> _Files:
    return _templates("traefik.yaml", "routes.yaml", READ_TIMEOUT=read_timeout)


def _envoy(request_timeout: str) -> _Files:
    return _templates("envoy.yaml", REQUEST_TIMEOUT=request_timeout)


def _templates(*names: str, **settings: str) -> _Files:
    def files(port: int, gateway: int) -> dict[str, str]:
        values = {**settings, "PORT": str(port), "GATEWAY": str(gateway)}
        texts = {name: string.Template((_FILES / name).read_text()) for name in names}
        return {name: text.safe_substitute(values) for name, text in texts.items()}

    return files


@contextlib.contextmanager
def _open(proxy: Proxy, gateway: int) -> Iterator[Entrance]:
    port = free_port()
    with opened(proxy.command, proxy.files(port, gateway), port) as entrance:
        yield entrance


def _first_answer(entrance: Entrance) -> httpx.Response:
    """A port may be open before TLS and routes are ready."""
    deadline = time.monotonic() + 20
    while True:
        with (
            contextlib.suppress(httpx.TransportError),
            httpx.Client(base_url=entrance.url, verify=entrance.tls) as client,
        ):
            answer = client.get("/api/health")
            if answer.status_code != 404:
                return answer
        assert time.monotonic() < deadline, "the proxy never answered"
        time.sleep(0.1)


def _streams(entrance: Entrance, stack: Stack, storage: Path) -> str:
    seen = streamed(entrance, stack, storage)
    assert seen.answer.status_code == 200, _shown(seen.answer)
    assert seen.arrived >= LIMIT / MIB / 4, "held until the last byte"
    assert max(seen.proxy_rise, seen.gateway_rise) < _FLAT_MIB, "not flat"
    return f"yes; +{seen.proxy_rise:.0f} MiB, gateway +{seen.gateway_rise:.0f} MiB"


def _refuses(entrance: Entrance, size: int) -> str:
    for chunked in (False, True):
        answer = upload(entrance.client(), size, chunked)
        assert _shown(answer) == "413 application/json", _shown(answer)
        assert answer.json()["error_code"] == "FILE_TOO_LARGE"
    return "our 413"


def _says_who_calls(entrance: Entrance, address: str) -> str:
    """By the limit of new sessions, which counts the addresses that the gateway sees."""
    (cookie,) = entrance.client(address).http.cookies.jar
    assert cookie.secure, "the cookie is not for TLS only"
    *allowed, last = entrance.new_sessions(_NEW_SESSIONS, address)
    assert set(allowed) == {200}, "many clients count as one"
    assert last == 429, "the client's address is not passed on"
    return "yes"


def _slow_upload(entrance: Entrance) -> str:
    answer = upload(
        entrance.client(), _SLOW_PARTS * CHUNK, before_chunk=lambda _: time.sleep(_PAUSE_SECONDS)
    )
    assert answer.status_code == 200, _shown(answer)
    return "yes"


def _slow_download(entrance: Entrance, stack: Stack) -> str:
    client = entrance.client()
    received = 0
    with client.http.stream("GET", asyncio.run(large_result(stack, client))) as answer:
        for piece in answer.iter_bytes(LIMIT // _SLOW_PARTS):
            received += len(piece)
            time.sleep(_PAUSE_SECONDS)
    assert received == LIMIT, f"{received} bytes"
    return "yes"


def _websocket(entrance: Entrance) -> str:
    async def follow() -> None:
        client = entrance.client()
        path = client.uploaded(CHART / "files" / "example.obj")
        async with socket_of(client, ssl=entrance.tls) as socket:
            await asyncio.to_thread(client.job, "skeleton", input_file=path)
            await events_until(socket, "job_completed")
            await asyncio.sleep(_SLOW_PARTS * _PAUSE_SECONDS)
            await asyncio.wait_for(await socket.ping(), 10)

    asyncio.run(follow())
    return "yes"


def _without_a_gateway(proxy: Proxy) -> str:
    with _open(proxy, free_port()) as entrance:
        return _shown(_first_answer(entrance))


def _shown(answer: httpx.Response) -> str:
    return f"{answer.status_code} {answer.headers.get('content-type', 'without a type')}"


def _seen(check: Callable[[], str]) -> str:
    try:
        return check()
    except AssertionError as fault:
        return f"**{fault}**"
    except (httpx.HTTPError, OSError, WebSocketException) as fault:
        return f"**{type(fault).__name__}**"


def _quick_checks(
    entrance: Entrance, stack: Stack, storage: Path, address: str
) -> dict[str, Callable[[], str]]:
    return {
        "100 MB streamed; memory": lambda: _streams(entrance, stack, storage),
        "100 MB + 1 byte": lambda: _refuses(entrance, LIMIT + 1),
        "150 MB": lambda: _refuses(entrance, 150 * MIB),
        "TLS and address passed on": lambda: _says_who_calls(entrance, address),
    }


def _slow_checks(entrance: Entrance, stack: Stack) -> dict[str, Callable[[], str]]:
    return {
        f"upload of {_SLOW_PARTS * _PAUSE_SECONDS} s": lambda: _slow_upload(entrance),
        f"download of {_SLOW_PARTS * _PAUSE_SECONDS} s": lambda: _slow_download(entrance, stack),
        f"WebSocket, {_SLOW_PARTS * _PAUSE_SECONDS} s silent": lambda: _websocket(entrance),
    }


def _rows(tried: list[Proxy]) -> list[dict[str, str]]:
    """Quick checks one after another, for their measurements; slow ones of all proxies at once."""
    settings = {
        **ROOMY,
        "TRUSTED_PROXIES": "127.0.0.1",
        "RATE_LIMIT_NEW_SESSIONS_PER_HOUR": str(_NEW_SESSIONS),
    }
    with contextlib.ExitStack() as running:
        data = Path(running.enter_context(tempfile.TemporaryDirectory()))
        stack = running.enter_context(Stack(data, free_port(), settings=settings))
        gateway = urlsplit(stack.url).port
        assert gateway is not None
        entrances = [running.enter_context(_open(proxy, gateway)) for proxy in tried]
        pool = running.enter_context(ThreadPoolExecutor(3 * len(tried)))
        rows = []
        for number, (proxy, entrance) in enumerate(zip(tried, entrances, strict=True), start=1):
            _first_answer(entrance)
            checks = _quick_checks(entrance, stack, data / "storage", f"127.0.1.{number}")
            row = {name: _seen(check) for name, check in checks.items()}
            rows.append({"proxy": _version(proxy), "settings": proxy.settings, **row})
        waiting = [
            {
                name: pool.submit(_seen, check)
                for name, check in _slow_checks(entrance, stack).items()
            }
            for entrance in entrances
        ]
        for row, slow in zip(rows, waiting, strict=True):
            row |= {name: future.result() for name, future in slow.items()}
    for proxy, row in zip(tried, rows, strict=True):
        row["no gateway"] = _seen(lambda proxy=proxy: _without_a_gateway(proxy))
    return rows


def _version(proxy: Proxy) -> str:
    said = subprocess.run(
        [proxy.command[0], proxy.version], capture_output=True, text=True, check=True
    )
    match = re.search(r"\d+\.\d+\.\d+", said.stdout + said.stderr)
    return f"{proxy.name} {match[0] if match else ''}"


def main() -> None:
    known = proxies(install_helm("4.1"))
    tried = [proxy for proxy in known if shutil.which(proxy.command[0])]
    for program in sorted({proxy.command[0] for proxy in known if proxy not in tried}):
        print(f"{program} is not on the PATH and is left out")
    rows = _rows(tried)
    print("| " + " | ".join(rows[0]) + " |")
    print("| " + " | ".join("---" for _ in rows[0]) + " |")
    for row in rows:
        print("| " + " | ".join(row.values()) + " |")
    failed = [
        row["proxy"]
        for proxy, row in zip(tried, rows, strict=True)
        if proxy.recommended and any(seen.startswith("**") for seen in row.values())
    ]
    if failed:
        sys.exit(f"Not as docs/ingress.md says: {', '.join(failed)}")


if __name__ == "__main__":
    main()
