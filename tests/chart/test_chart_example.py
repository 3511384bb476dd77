"""`helm test` does what it says, without a cluster: its script against a running stack."""

import os
import subprocess
import sys
from pathlib import Path

from services.cli.servers import free_port
from services.cli.stack import Stack
from tests.chart.manifest_checks import Manifests, named


def test_the_script_of_helm_test_rigs_the_example_model(
    defaults: Manifests, tmp_path: Path
) -> None:
    mounted = named(defaults, "ConfigMap", "unirig-test")
    assert mounted is not None
    for name, text in mounted["data"].items():
        (tmp_path / name).write_text(text)
    with Stack(tmp_path / "stack", free_port()) as stack:
        done = subprocess.run(
            [sys.executable, "-I", str(tmp_path / "rig_example.py")],
            env={
                **os.environ,
                "GATEWAY_URL": stack.url,
                "MODEL": str(tmp_path / "example.obj"),
                "TIMEOUT_SECONDS": "200",
            },
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert "rigged: " in done.stdout
