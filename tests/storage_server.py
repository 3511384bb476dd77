"""A storage service in a process of its own, a bucket on a real S3 server, and a plain client."""

import hashlib
import os
import secrets
import subprocess
import sysconfig
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import grpc
from unirig.v1 import storage_pb2, storage_pb2_grpc

from services.cli.servers import free_port, wait_for_port
from services.common.rpc import open_channel
from tests.service_process import HOST, ServiceProcess

SERVICE = "unirig.v1.StorageService"
KIB, MIB = 1024, 1024**2


class StorageServer(ServiceProcess):
    """python -m services.storage, on ports of its own each time it starts."""

    def __init__(self, environment: Mapping[str, str], log: Path) -> None:
        super().__init__("storage", dict(environment), log)

    @property
    def address(self) -> str:
        return f"{HOST}:{self.environment['GRPC_PORT']}"

    def start(self, preexec_fn: Callable[[], None] | None = None) -> Self:
        self.metrics_port = free_port()
        self.environment["GRPC_PORT"] = str(free_port())
        return super().start(preexec_fn)


@dataclass
class S3Server:
    """`rclone serve s3` over a folder: signatures are checked, files are plain files."""

    folder: Path
    port: int = field(default_factory=free_port)
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def settings(self) -> dict[str, str]:
        return {
            "STORAGE_BACKEND": "s3",
            "S3_ENDPOINT": f"http://{HOST}:{self.port}",
            "S3_BUCKET": "rigs",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
        }

    def start(self) -> "S3Server":
        (self.folder / "rigs").mkdir(parents=True, exist_ok=True)
        program = Path(sysconfig.get_path("scripts")) / "rclone"
        with (self.folder.parent / "rclone.log").open("ab") as output:
            self.process = subprocess.Popen(
                [
                    *(program, "serve", "s3", "--addr", f"{HOST}:{self.port}"),
                    *("--auth-key", "key,secret", "--config", os.devnull, self.folder),
                ],
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        assert wait_for_port(self.port, self.process)
        return self

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()


def session() -> str:
    return secrets.token_hex(16)


def channel_to(server: StorageServer) -> grpc.aio.Channel:
    return open_channel(server.address, SERVICE, [])


def chunks_of(content: bytes, size: int = MIB) -> list[bytes]:
    return [content[start : start + size] for start in range(0, len(content), size)]


def etag_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


COMMIT = storage_pb2.PutFileRequest(commit=storage_pb2.PutFileCommit())


class Client:
    """The calls of the contract on Python values; they wait for a service that is not up yet."""

    def __init__(self, channel: grpc.aio.Channel, session_id: str) -> None:
        self.stub = storage_pb2_grpc.StorageServiceStub(channel)
        self.session_id = session_id
        self._channel = channel

    def of_session(self, session_id: str) -> "Client":
        """A client of another session over the same channel."""
        return Client(self._channel, session_id)

    def header(
        self, filename: str, lineage: Mapping[str, str] | None = None
    ) -> storage_pb2.PutFileRequest:
        """An upload's header, or a result's where a lineage is given."""
        header = storage_pb2.PutFileHeader(
            session_id=self.session_id,
            area=storage_pb2.AREA_UPLOADS if lineage is None else storage_pb2.AREA_RESULTS,
            filename=filename,
            lineage=None if lineage is None else storage_pb2.Lineage(**lineage),
        )
        return storage_pb2.PutFileRequest(header=header)

    async def put(
        self, filename: str, content: bytes | Iterable[bytes], **lineage: str
    ) -> storage_pb2.FileInfo:
        pieces = chunks_of(content) if isinstance(content, bytes) else content

        async def requests() -> AsyncIterator[storage_pb2.PutFileRequest]:
            yield self.header(filename, lineage or None)
            for piece in pieces:
                yield storage_pb2.PutFileRequest(chunk=piece)
            yield COMMIT

        return (await self.stub.PutFile(requests(), timeout=120, wait_for_ready=True)).file

    async def get(
        self, path: str, offset: int = 0, length: int = 0
    ) -> tuple[storage_pb2.FileInfo, bytes]:
        request = storage_pb2.GetFileRequest(
            session_id=self.session_id, path=path, offset=offset, length=length
        )
        received = [
            response
            async for response in self.stub.GetFile(request, timeout=120, wait_for_ready=True)
        ]
        assert received[0].WhichOneof("part") == "file"
        assert all(0 < len(response.chunk) <= MIB for response in received[1:])
        return received[0].file, b"".join(response.chunk for response in received[1:])

    async def stat(self, path: str) -> storage_pb2.FileInfo:
        request = storage_pb2.StatFileRequest(session_id=self.session_id, path=path)
        return (await self.stub.StatFile(request, timeout=30, wait_for_ready=True)).file

    async def usage(self) -> tuple[int, int, int]:
        request = storage_pb2.GetUsageRequest(session_id=self.session_id)
        usage = await self.stub.GetUsage(request, timeout=30, wait_for_ready=True)
        return usage.uploads, usage.results, usage.bytes

    async def delete_job(self, job_id: str) -> tuple[int, int]:
        request = storage_pb2.DeleteJobFilesRequest(session_id=self.session_id, job_id=job_id)
        freed = await self.stub.DeleteJobFiles(request, timeout=30, wait_for_ready=True)
        return freed.files_deleted, freed.bytes_freed

    async def delete_session(self) -> tuple[int, int]:
        request = storage_pb2.DeleteSessionFilesRequest(session_id=self.session_id)
        freed = await self.stub.DeleteSessionFiles(request, timeout=30, wait_for_ready=True)
        return freed.files_deleted, freed.bytes_freed

    async def space(self) -> storage_pb2.GetDiskSpaceResponse:
        return await self.stub.GetDiskSpace(
            storage_pb2.GetDiskSpaceRequest(), timeout=30, wait_for_ready=True
        )
