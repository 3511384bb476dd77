"""The chart's manifests as they were last reviewed, and what has changed since.

    make golden        or: python -m tests.chart.golden [--accept]

Shows the difference first, and writes it into golden/ only where it is accepted.
"""

import argparse
import difflib
import functools
import sys
from pathlib import Path
from typing import Any

import yaml

from tests.chart.conftest import COMBINATIONS
from tests.chart.helm_program import CHART, install_helm
from tests.chart.manifest_checks import Manifest

REVIEWED = ("defaults", "laptop", "gpu-keda")
_FOLDER = Path(__file__).parent / "golden"


def difference(combination: str) -> str:
    """A unified diff from the reviewed manifests to the chart's own. Empty: they are the same."""
    file = _file(combination)
    reviewed = file.read_text() if file.exists() else ""
    lines = difflib.unified_diff(
        reviewed.splitlines(keepends=True),
        _rendered(combination).splitlines(keepends=True),
        f"reviewed/{file.name}",
        f"rendered/{file.name}",
    )
    return "".join(lines)


def accept(combination: str) -> None:
    """Takes what the chart renders now for reviewed."""
    _FOLDER.mkdir(exist_ok=True)
    _file(combination).write_text(_rendered(combination))


def _file(combination: str) -> Path:
    return _FOLDER / f"{combination}.yaml"


@functools.cache
def _rendered(combination: str) -> str:
    """Sorted by kind and name; the keys of each as the templates have them."""
    manifests = install_helm("4.1").template(*COMBINATIONS[combination])
    manifests.sort(key=lambda m: (m["kind"], m["metadata"]["name"]))
    shown = [_shortened(manifest) for manifest in manifests]
    return str(yaml.dump_all(shown, Dumper=_Dumper, sort_keys=False, width=100))


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as such."""


def _text(dumper: _Dumper, value: str) -> yaml.Node:
    style = "|" if "\n" in value else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)


def _shortened(manifest: Manifest) -> Manifest:
    """Without what each rendering makes anew, and without the chart's own files."""
    if manifest["kind"] == "Secret":
        return {**manifest, "stringData": dict.fromkeys(manifest["stringData"], "(secret)")}
    if manifest["kind"] == "ConfigMap":
        files = _chart_files()
        data: dict[str, Any] = manifest["data"]
        shown = {name: files.get(text.strip(), text) for name, text in data.items()}
        return {**manifest, "data": shown}
    return manifest


@functools.cache
def _chart_files() -> dict[str, str]:
    """From the text of each file that the chart ships to its name."""
    return {
        file.read_text().strip(): f"({file.relative_to(CHART)})"
        for file in sorted((CHART / "files").rglob("*"))
        if file.is_file()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--accept", action="store_true", help="write without asking")
    arguments = parser.parse_args()
    changed = {name: diff for name in REVIEWED if (diff := difference(name))}
    if not changed:
        print("Nothing has changed")
        return
    print("\n".join(changed.values()))
    if not arguments.accept and input("Is this what the chart shall be? [yes/no] ") != "yes":
        sys.exit("Nothing was written")
    for name in changed:
        accept(name)


if __name__ == "__main__":
    main()
