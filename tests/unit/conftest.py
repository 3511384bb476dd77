"""Where a test of one attempt works."""

from pathlib import Path
from typing import cast

import pytest

from services.inference.limited_process import Limits
from services.inference.progress import Progress
from services.inference.storage_client import StorageClient
from services.inference.workplace import Workplace


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    folder = tmp_path / "job"
    folder.mkdir()
    return Workplace(
        folder=folder,
        session_id="0" * 32,
        storage=cast(StorageClient, None),
        limits=Limits(),
        progress=Progress(),
        max_triangles=100,
    )
