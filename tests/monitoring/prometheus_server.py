"""A real Prometheus that reads what it is told to, and answers queries."""

import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from services.cli.servers import free_port
from tests.monitoring.prometheus_program import find_prometheus

SCRAPE_SECONDS = 2


@dataclass(frozen=True)
class PrometheusServer:
    url: str

    def query(self, expression: str, at: float) -> list[dict[str, Any]]:
        """The samples of an instant vector, each with "metric" and "value". at: Unix seconds."""
        answer = self._get("query", query=expression, time=at)
        assert answer["resultType"] in ("vector", "scalar"), expression
        if answer["resultType"] == "scalar":
            return [{"metric": {}, "value": answer["result"]}]
        return list(answer["result"])

    def query_range(
        self, expression: str, start: float, end: float, step: float
    ) -> list[dict[str, Any]]:
        """Series with "metric" and "values": [time, text] each. Times in Unix seconds."""
        answer = self._get("query_range", query=expression, start=start, end=end, step=step)
        return list(answer["result"])

    def metric_names(self) -> set[str]:
        return set(self._get("label/__name__/values"))

    def series(self, name: str) -> list[dict[str, str]]:
        """The labels of every series of the metric."""
        return list(self._get("series", **{"match[]": name}))

    def rules(self) -> list[dict[str, Any]]:
        return [rule for group in self._get("rules")["groups"] for rule in group["rules"]]

    def targets(self) -> list[dict[str, Any]]:
        return list(self._get("targets")["activeTargets"])

    def wait_for_scrapes(self, count: int = 2) -> float:
        """When every target has been read so often from now on and the last time too; Unix seconds.

        What failed later on a busy machine does not count: ask for what was then.
        """
        start = time.time()
        while (now := time.time()) < start + 120:
            since = max(1, int(now - start))
            read = self.query(f"min(sum_over_time(up[{since}s]) * up)", now)
            if read and float(read[0]["value"][1]) > count:
                return now
            time.sleep(0.2)
        raise AssertionError(f"not all is read: {self.targets()}")

    def _get(self, path: str, **parameters: Any) -> Any:
        response = httpx.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=30)
        body = response.json()
        assert body["status"] == "success", (parameters, body)
        return body["data"]


@contextmanager
def prometheus_reading(
    scrape_configs: Sequence[Mapping[str, Any]], rules: Mapping[str, Any], folder: Path
) -> Iterator[PrometheusServer]:
    """A server over these targets and rules, for as long as the context lasts."""
    (folder / "rules.yaml").write_text(yaml.safe_dump(rules))
    times = {"scrape_interval": f"{SCRAPE_SECONDS}s", "evaluation_interval": f"{SCRAPE_SECONDS}s"}
    config = {
        "global": times,
        "rule_files": ["rules.yaml"],
        "scrape_configs": list(scrape_configs),
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port()}"
    command = [
        str(find_prometheus().prometheus),
        f"--config.file={folder / 'prometheus.yaml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
    ]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        _wait_until_ready(f"http://{address}", process, folder / "prometheus.log")
        yield PrometheusServer(f"http://{address}")
    finally:
        process.terminate()
        process.wait(30)


def _wait_until_ready(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{url}/-/ready").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    process.kill()
    raise AssertionError(log.read_text()[-2000:])
