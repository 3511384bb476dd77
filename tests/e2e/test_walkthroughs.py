"""The reference's own examples, taken from docs/api.md, run as they stand but for host and file."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from services.cli.stack import Stack

ROOT = Path(__file__).parents[2]
REFERENCE = (ROOT / "docs" / "api.md").read_text()
NODE_MODULES = ROOT / "tests" / "node_modules"
# A browser's side of the TypeScript example: a cookie jar, and the page's file input.
BROWSER = """
import { openAsBlob } from 'node:fs';
const jar = new Map();
const plainFetch = globalThis.fetch;
globalThis.fetch = async (url, init = {}) => {
  const headers = new Headers(init.headers);
  if (init.credentials === 'include' && jar.size)
    headers.set('Cookie', [...jar].map(([name, value]) => `${name}=${value}`).join('; '));
  const response = await plainFetch(url, { ...init, headers });
  for (const line of response.headers.getSetCookie()) {
    const [, name, value] = line.match(/^([^=]+)=([^;]*)/);
    jar.set(name, value);
  }
  return response;
};
const file = new File([await openAsBlob(process.env.CHARACTER)], 'character.obj');
globalThis.document = { querySelector: () => ({ files: [file] }) };
await import('./example.js');
"""


def blocks(heading: str, language: str) -> list[str]:
    """The code blocks of one language under a third-level heading, up to the next heading."""
    section = REFERENCE.split(f"\n### {heading}\n", 1)[1]
    section = re.split(r"\n#{2,3} ", section)[0]
    return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)


def test_the_curl_walkthrough_works_as_written(
    stack: Stack, character: Path, tmp_path: Path
) -> None:
    token_step, upload_step, create_step, poll_step, download_step = blocks(
        "Complete Workflow Example", "bash"
    )
    found: dict[str, str] = {"http://localhost": stack.url}

    def run(step: str) -> str:
        for shown, actual in found.items():
            step = step.replace(shown, actual)
        done = subprocess.run(
            ["bash", "-e", "-c", step], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return done.stdout

    (tmp_path / "character.obj").write_bytes(character.read_bytes())
    found["abc123"] = json.loads(run(token_step))["csrf_token"]
    upload = json.loads(run(upload_step))
    assert upload["filename"] == "character.obj"
    found["session456"] = upload["path"].split("/")[2]
    job = json.loads(run(create_step))
    assert job["status"] == "pending"
    found["job-789"] = job["job_id"]
    status = json.loads(run(poll_step))
    while status["status"] in ("pending", "running"):
        status = json.loads(run(f"sleep 0.3; {poll_step}"))
    assert status["status"] == "completed", status
    run(download_step)
    assert (tmp_path / "character_skeleton.obj").read_text().count("\nv ") > 100


def test_the_python_client_works_as_written(stack: Stack, character: Path, tmp_path: Path) -> None:
    (code,) = blocks("Python Client Example", "python")
    script = tmp_path / "example.py"
    script.write_text(code.replace("http://localhost", stack.url))
    (tmp_path / "character.obj").write_bytes(character.read_bytes())
    done = subprocess.run(
        [sys.executable, script.name], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"^Success! Output: /results/[0-9a-f]{32}/character_skeleton.obj$",
                     done.stdout, re.MULTILINE), done.stdout  # fmt: skip


def test_the_typescript_client_compiles_and_works_as_written(
    stack: Stack, character: Path, tmp_path: Path
) -> None:
    (code,) = blocks("JavaScript/TypeScript Client Example", "typescript")
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "example.ts").write_text(
        code.replace("http://localhost", stack.url) + "\nexport {};\n"
    )
    compiled = subprocess.run(
        ["node", str(NODE_MODULES / "typescript" / "bin" / "tsc"), "--target", "es2022",
         "--module", "es2022", "--lib", "es2022,dom", "--strict", "false", "--types", "",
         "--skipLibCheck", "example.ts"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert compiled.returncode == 0, compiled.stdout
    (tmp_path / "browser.mjs").write_text(BROWSER)
    done = subprocess.run(
        ["node", "browser.mjs"], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "CHARACTER": str(character)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Success! Download from: /results/" in done.stdout
