"""What the Khronos glTF validator finds in a GLB."""

import json
import subprocess
from pathlib import Path

_VALIDATE = """
const validator = require("gltf-validator");
const bytes = new Uint8Array(require("fs").readFileSync(process.argv[1]));
validator.validateBytes(bytes, { maxIssues: 0 }).then((report) =>
  console.log(JSON.stringify(report.issues.messages)));
"""
_WARNING = 1


def errors_and_warnings(glb: Path) -> list[tuple[str, str]]:
    """(code, pointer) of each, sorted."""
    done = subprocess.run(
        ["node", "-e", _VALIDATE, str(glb)],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=True,
    )
    found = [issue for issue in json.loads(done.stdout) if issue["severity"] <= _WARNING]
    return sorted((issue["code"], issue.get("pointer", "")) for issue in found)
