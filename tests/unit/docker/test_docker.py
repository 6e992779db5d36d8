"""What can be known of the images and the compose file without a Docker engine."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

from compositor_backend import settings as model_settings
from server.cli import parse, settings_from
from server.settings import DEFAULT_HEALTH_PORT, ROOT
from tests.support.served import LONGEST_STOP_S
from tests.unit.docker.dockerfile import Stage, read_dockerfile

DOCKER = ROOT / "docker"
IMAGES = {"triton": "Dockerfile", "triton-cpu": "Dockerfile.cpu"}
ONNXRUNTIME = {"triton": "onnxruntime-gpu", "triton-cpu": "onnxruntime-cpu"}


def pinned() -> dict[str, str]:
    lines = (DOCKER / ".env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def compose(**variables: str) -> dict[str, Any]:
    """The services of the compose file with its variables filled in."""
    values = {**pinned(), **variables}

    def fill(match: re.Match[str]) -> str:
        name, default = match["name"], match["default"]
        return values.get(name, default or "") if match["operator"] == ":-" else values[name]

    pattern = r"\$\{(?P<name>\w+)(?:(?P<operator>:-|:\?)(?P<default>[^}]*))?\}"
    services = yaml.safe_load(re.sub(pattern, fill, (DOCKER / "compose.yaml").read_text()))["services"]
    assert isinstance(services, dict)
    return services


def stages(service: str) -> list[Stage]:
    return read_dockerfile(DOCKER / IMAGES[service])


@pytest.fixture(params=list(IMAGES))
def service(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# --- images ---
def test_every_stage_is_of_the_pinned_version_and_no_other_file_names_one(service: str) -> None:
    variable = {"triton": "TRITON_VERSION", "triton-cpu": "PYTHON_VERSION"}[service]
    assert all(stage.image.endswith(f":${{{variable}}}") for stage in stages(service))
    assert compose()[service]["build"]["args"] == {variable: pinned()[variable]}
    for name in (*IMAGES.values(), "compose.yaml"):
        assert pinned()[variable] not in (DOCKER / name).read_text()


def test_what_is_copied_exists_and_reaches_the_engine(service: str) -> None:
    rules = (ROOT / ".dockerignore").read_text().splitlines()
    for stage in stages(service):
        for copy in stage.all("COPY"):
            if copy.words[0].startswith("--from="):
                continue
            for source in copy.words[:-1]:
                assert (ROOT / source).exists(), source
                assert f"!{source}" in rules, f"{source} is ignored"


def test_packages_are_ours_by_pyproject_and_pinned(service: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["server"], *extras[ONNXRUNTIME[service]]]
    names = {re.split(r"[\[<>=!~; ]", requirement)[0] for requirement in wanted}
    (run,) = (run.text for run in stages(service)[0].all("RUN") if " pip install " in run.text)
    installed = run.split("--constraint constraints.txt")[1].split("&&")[0].split()
    # The image of NVIDIA has a Triton already.
    assert set(installed) == names - ({"nvidia-pytriton"} if service == "triton" else set())
    pins = (ROOT / "constraints.txt").read_text()
    assert all(re.search(rf"^{name}==", pins, re.MULTILINE) for name in installed)


def test_what_runs_is_a_line_that_the_launcher_takes_and_not_roots(service: str) -> None:
    final = stages(service)[-1]
    python, dash_m, module, *arguments = final.last("ENTRYPOINT").exec_form
    assert (python, dash_m, module) == ("python3", "-m", "server")
    settings = settings_from(parse(arguments)[0])
    assert (settings.host, settings.gpu) == ("0.0.0.0", service == "triton")
    ports = {settings.http_port, settings.grpc_port, settings.metrics_port, DEFAULT_HEALTH_PORT}
    assert set(map(int, final.last("EXPOSE").words)) == ports
    assert final.last("USER").text not in ("root", "0")


def test_the_install_script_passes_shellcheck() -> None:
    try:
        subprocess.run(["shellcheck", DOCKER / "install-pillow.sh"], check=True)
    except FileNotFoundError:
        pytest.skip("there is no shellcheck")


# --- compose ---
def test_variables_of_the_models_reach_them(service: str) -> None:
    known = {value for name, value in vars(model_settings).items() if name.endswith("_VARIABLE")}
    given = compose()[service]["environment"]
    assert set(given) <= known
    filled = compose(**dict.fromkeys(given, "7"))[service]["environment"]
    assert {name: str(value) for name, value in filled.items()} == dict.fromkeys(given, "7")


def test_ports_are_published_on_loopback_unless_told_otherwise(service: str) -> None:
    exposed = stages(service)[-1].last("EXPOSE").words
    assert compose()[service]["ports"] == [f"127.0.0.1:{port}:{port}" for port in exposed]
    assert compose(LIPSTREAM_BIND="0.0.0.0")[service]["ports"][0] == "0.0.0.0:8000:8000"


def test_avatars_are_mounted_read_only_where_the_image_looks_for_them(service: str) -> None:
    folders = dict(word.split("=", 1) for word in stages(service)[-1].last("ENV").words)
    source, target, mode = compose()[service]["volumes"][0].split(":")
    assert (target, mode) == (folders["LIPSTREAM_AVATARS"], "ro")
    assert (DOCKER / source).resolve() == ROOT / "avatars"
    assert f"cache:{folders['LIPSTREAM_CACHE']}" in compose()[service]["volumes"]
    assert compose(LIPSTREAM_AVATARS="/srv")[service]["volumes"][0] == "/srv:/avatars:ro"


def test_it_builds_the_dockerfile_from_the_checkout(service: str) -> None:
    build = compose()[service]["build"]
    assert (DOCKER / build["context"]).resolve() == ROOT
    assert ROOT / build["dockerfile"] == DOCKER / IMAGES[service]


def test_only_the_gpu_image_reserves_a_gpu() -> None:
    (device,) = compose()["triton"]["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    assert "deploy" not in compose()["triton-cpu"]


def test_a_stop_leaves_the_launcher_time(service: str) -> None:
    assert int(compose()[service]["stop_grace_period"].removesuffix("s")) > LONGEST_STOP_S


def test_what_is_written_to_is_writable(service: str) -> None:
    """The root is not. Triton's stub is started from /tmp, and tensors go through /dev/shm."""
    made = compose()[service]
    assert made["read_only"]
    assert made["tmpfs"] == ["/tmp:exec"]
    assert Path("/cache") in {Path(volume.split(":")[1]) for volume in made["volumes"]}
    assert int(made["shm_size"].removesuffix("gb")) >= 1
