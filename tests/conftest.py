"""Real servers for the tests: containers where an engine answers, else local processes."""

import functools
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from services.cli.servers import free_port, start_nats, start_redis

MODELS = Path(__file__).parents[2] / "shared" / "models"


def pytest_configure() -> None:
    """Node and the servers that were installed with the tests come before the machine's own."""
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])


@functools.cache
def container_engine_answers() -> bool:
    """Whether a container engine can be asked to start servers."""
    try:
        return bool(docker.from_env(timeout=2).ping())
    except docker.errors.DockerException:
        return False


@pytest.fixture(scope="session")
def nats_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A NATS server with JetStream, shared by the tests of one run."""
    if container_engine_answers():
        from testcontainers.core.container import DockerContainer
        from testcontainers.core.wait_strategies import LogMessageWaitStrategy

        container = DockerContainer("nats:2.12").with_command("-js").with_exposed_ports(4222)
        with container.waiting_for(LogMessageWaitStrategy("Server is ready")) as nats:
            yield f"nats://{nats.get_container_host_ip()}:{nats.get_exposed_port(4222)}"
    else:
        server = start_nats(tmp_path_factory.mktemp("nats"), free_port())
        yield server.url
        server.stop()


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis server, shared by the tests of one run."""
    if container_engine_answers():
        from testcontainers.community.redis import RedisContainer

        with RedisContainer("redis:7.2") as redis:
            host, port = redis.get_container_host_ip(), redis.get_exposed_port(6379)
            yield f"redis://{host}:{port}/0"
    else:
        server = start_redis(tmp_path_factory.mktemp("redis"), free_port())
        yield server.url
        server.stop()


@pytest.fixture(scope="session")
def models() -> Path:
    """The folder of real models by others beside the checkout."""
    if not MODELS.is_dir():
        pytest.skip(f"the models by others are not beside the checkout ({os.fspath(MODELS)})")
    return MODELS
