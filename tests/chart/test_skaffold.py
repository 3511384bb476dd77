"""skaffold.yaml: with each profile applied, every name in it leads to something.

No Skaffold takes part: its profiles are applied here, as overlays and JSON patches.
"""

import copy
import re
from pathlib import Path
from typing import Any

import jsonpatch
import pytest
import yaml

from tests.chart.helm_program import Helm
from tests.chart.manifest_checks import containers, pods
from tests.images.test_dockerfiles import DOCKERFILES, ROOT

Config = dict[str, Any]

_SKAFFOLD: Config = yaml.safe_load((ROOT / "skaffold.yaml").read_text())
# What a person may ask for; `skaffold dev` adds the last one itself.
_CHOICES = ((), ("laptop",), ("gpu",), ("laptop", "development"), ("gpu", "development"))
# What Skaffold calls a commit, one of digits too, and an image that stays on the machine.
_COMMITS = ("855700a-dirty", "8557001")
_LOCAL = "0123456789abcdef" * 4


def _with_profiles(names: tuple[str, ...]) -> Config:
    config = copy.deepcopy(_SKAFFOLD)
    profiles = {profile["name"]: profile for profile in config.pop("profiles")}
    for name in names:
        overlay = {key: profiles[name][key] for key in ("build", "deploy") if key in profiles[name]}
        config = _merged(config, overlay)
        jsonpatch.apply_patch(config, profiles[name].get("patches", []), in_place=True)
    return config


def _merged(below: Any, above: Any) -> Any:
    if not isinstance(below, dict) or not isinstance(above, dict):
        return above
    return {
        **below,
        **{key: _merged(below[key], above[key]) if key in below else above[key] for key in above},
    }


@pytest.fixture(params=_CHOICES, ids=lambda names: "+".join(names) or "none")
def profiles(request: pytest.FixtureRequest) -> tuple[str, ...]:
    return tuple(request.param)


@pytest.fixture
def config(profiles: tuple[str, ...]) -> Config:
    return _with_profiles(profiles)


def _artifacts(config: Config) -> dict[str, Config]:
    return {artifact["image"]: artifact for artifact in config["build"]["artifacts"]}


def _release(config: Config) -> Config:
    (release,) = config["deploy"]["helm"]["releases"]
    return dict(release)


def test_every_image_is_built_but_tritons_where_no_triton_runs(
    profiles: tuple[str, ...], config: Config
) -> None:
    expected = {f"unirig-{name}": path for name, path in DOCKERFILES.items()}
    if "laptop" in profiles:
        del expected["unirig-triton"]
    built = {
        image: ROOT / artifact["docker"]["dockerfile"]
        for image, artifact in _artifacts(config).items()
    }
    assert built == expected


def test_sources_are_synced_into_stages_that_run_them(
    profiles: tuple[str, ...], config: Config
) -> None:
    synced = {
        image: artifact for image, artifact in _artifacts(config).items() if "sync" in artifact
    }
    assert len(synced) == 5
    for image, artifact in synced.items():
        dockerfile = (ROOT / artifact["docker"]["dockerfile"]).read_text()
        target = artifact["docker"].get("target")
        assert target == ("development" if "development" in profiles else None)
        stage = re.search(r"^FROM \S+ AS development$(.*?)^FROM ", dockerfile, re.M | re.S)
        assert stage is not None, image
        for rule in artifact["sync"]["manual"]:
            assert list(ROOT.glob(rule["src"])), rule
            copied = re.escape(rule["src"].removesuffix("/**/*.py"))
            assert re.search(rf"^COPY {copied} ", dockerfile, re.M), rule
            assert f"cp -r services {rule['dest']} " in stage[1], rule


def test_the_chart_gets_the_images_that_were_built(config: Config, helm: Helm) -> None:
    release = _release(config)
    images = {image.replace("-", "_"): image for image in _artifacts(config)}
    prefix = config["build"]["tagPolicy"]["gitCommit"]["prefix"]
    for tag in (*(prefix + commit for commit in _COMMITS), _LOCAL):
        values = {}
        for path, template in release["setValueTemplates"].items():
            variable = re.fullmatch(r"\{\{\.IMAGE_(REPO|TAG)_(\w+)\}\}", template)
            assert variable is not None, template
            image = images[variable[2]]
            values[path] = f"registry.example.com/{image}" if variable[1] == "REPO" else tag
        # As Skaffold does: not --set-string.
        options = tuple(part for item in values.items() for part in ("--set", "=".join(item)))
        files = [ROOT / file for file in release.get("valuesFiles", [])]
        manifests = helm.template(*files, options=options)
        used = {
            container["image"]
            for _, _, spec in pods(manifests)
            for container in containers(spec)
            if "unirig-" in container["image"]
        }
        assert used == {f"registry.example.com/{image}:{tag}" for image in images.values()}


def test_a_value_that_the_chart_has_not_is_refused(helm: Helm) -> None:
    assert "repo" in helm.refusal("--set-string", "gateway.image.repo=unirig-gateway")


def test_the_chart_lies_where_skaffold_looks(config: Config) -> None:
    assert (ROOT / Path(_release(config)["chartPath"]) / "Chart.yaml").is_file()
