"""What can be known of the images and the compose file without a Docker engine."""

from __future__ import annotations

import ast
import fnmatch
import re
import shlex
import shutil
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

from server.command import Ports, triton_command
from server.installation import find_installation
from server.settings import ADMIN_HEADER, DEFAULT_HEALTH_PORT, RESTRICTED, ROOT, ServerSettings
from tests.support.served import LONGEST_STOP_S
from tests.unit.docker.dockerfile import Stage, read_dockerfile

DOCKER = ROOT / "docker"
ENTRYPOINT = DOCKER / "entrypoint.sh"
IMAGES = {"triton": "Dockerfile", "triton-cpu": "Dockerfile.cpu"}


def pinned() -> dict[str, str]:
    lines = (DOCKER / ".env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def compose(**variables: str) -> dict[str, Any]:
    """The services of the compose file with its variables filled in."""
    values = {**pinned(), **variables}

    def fill(match: re.Match[str]) -> str:
        name, operator, default = match["name"], match["operator"], match["default"]
        if operator == ":?":
            return values[name]
        if operator == ":+":
            return default if values.get(name) else ""
        return values.get(name, default or "") if operator else values[name]

    pattern = r"\$\{(?P<name>\w+)(?:(?P<operator>:-|:\?|:\+)(?P<default>[^}]*))?\}"
    text = re.sub(pattern, fill, (DOCKER / "compose.yaml").read_text())
    services = yaml.safe_load(text)["services"]
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
    for name in (*IMAGES.values(), "compose.yaml", "entrypoint.sh"):
        assert pinned()[variable] not in (DOCKER / name).read_text()


def test_what_is_copied_exists_and_reaches_the_engine(service: str) -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] != "#"]
    for stage in stages(service):
        for copy in stage.all("COPY"):
            if copy.words[0].startswith("--from="):
                assert copy.words[0] == "--from=packages"
                continue
            for source in copy.words[:-1]:
                assert (ROOT / source).exists(), source
                assert any(rule == f"!{source}" for rule in rules), f"{source} is ignored"
    assert rules[0] == "*"
    assert not any(fnmatch.fnmatch("avatars", rule.lstrip("!")) for rule in rules[1:])


def test_it_does_not_run_as_root_and_gets_signals_itself(service: str) -> None:
    final = stages(service)[-1]
    assert final.last("USER").text not in ("root", "0")
    assert final.last("ENTRYPOINT").exec_form
    assert final.last("STOPSIGNAL").text in ("SIGINT", "SIGTERM")
    assert final.instructions.index(final.last("USER")) < final.instructions.index(final.last("ENTRYPOINT"))


def test_package_lists_do_not_stay_and_compilers_stay_behind(service: str) -> None:
    *builders, final = stages(service)
    for stage in (*builders, final):
        for run in stage.all("RUN"):
            assert ("apt-get update" in run.text) == ("rm -rf /var/lib/apt/lists/*" in run.text)
    assert any("gcc" in run.words for run in builders[0].all("RUN"))
    assert not any("gcc" in run.words or "pip" in run.words for run in final.all("RUN"))
    assert final.all("COPY")[0].text.startswith("--from=packages ")


def test_packages_are_ours_by_pyproject_and_pinned(service: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["server"]]
    wanted += extras["onnxruntime-cpu"] if service == "triton-cpu" else []
    names = {re.split(r"[\[<>=!~; ]", requirement)[0] for requirement in wanted}
    (run,) = (run.text for run in stages(service)[0].all("RUN") if " pip install " in run.text)
    installed = run.split("--constraint constraints.txt")[1].split("&&")[0].split()
    # The image of NVIDIA has a Triton already.
    assert set(installed) == names - ({"nvidia-pytriton"} if service == "triton" else set())
    pins = (ROOT / "constraints.txt").read_text()
    assert all(re.search(rf"^{name}==", pins, re.MULTILINE) for name in installed)
    assert "docker/install-pillow.sh" in run


def test_python_in_the_dockerfiles_compiles(service: str) -> None:
    final = stages(service)[-1]
    check = re.search(r"CMD (\[.*\])", final.last("HEALTHCHECK").text)
    assert check
    code = [ast.literal_eval(check[1])[-1]]
    code += re.findall(r'python3? -c "([^"]+)"', " ".join(run.text for run in final.all("RUN")))
    assert len(code) == 2
    for source in code:
        compile(source, "Dockerfile", "exec")


def test_the_modules_that_the_gpu_image_tries_are_importable() -> None:
    (code,) = re.findall(
        r'python3 -c "([^"]+)"', " ".join(run.text for run in stages("triton")[-1].all("RUN"))
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


def test_the_cpu_images_entrypoint_is_a_line_that_the_launcher_takes() -> None:
    from server.cli import parse, settings_from

    python, dash_m, module, *arguments = stages("triton-cpu")[-1].last("ENTRYPOINT").exec_form
    assert (python, dash_m, module) == ("python", "-m", "server")
    command = shlex.split(compose()["triton-cpu"]["command"])
    settings = settings_from(parse([*arguments, *command])[0])
    assert (settings.host, settings.avatars, settings.load_all) == ("0.0.0.0", Path("/avatars"), True)
    ports = (settings.http_port, settings.grpc_port, settings.metrics_port, DEFAULT_HEALTH_PORT)
    assert list(map(str, ports)) == stages("triton-cpu")[-1].last("EXPOSE").words


# --- compose ---
def test_variables_that_the_readme_names_reach_every_service_they_are_for(service: str) -> None:
    given = {"LIPSTREAM_ADMIN_KEY": "s3cret", "LIPSTREAM_LOAD": "ann bob", "LIPSTREAM_GPU_SLOTS": "3"}
    filled = compose(**given)[service]
    assert filled["environment"]["LIPSTREAM_ADMIN_KEY"] == "s3cret"
    assert "s3cret" not in str(filled.get("command"))
    if service == "triton":
        assert {name: str(value) for name, value in filled["environment"].items()} == given
    else:
        assert shlex.split(filled["command"]) == ["--load", "ann", "bob"]


def test_both_images_restrict_the_same() -> None:
    assert f"protocols={RESTRICTED}\n" in ENTRYPOINT.read_text()
    assert f"{ADMIN_HEADER}=$LIPSTREAM_ADMIN_KEY" in ENTRYPOINT.read_text()


def test_ports_are_published_on_loopback_unless_told_otherwise(service: str) -> None:
    published = compose()[service]["ports"]
    ports = (8000, 8001, 8002, 8003) if service == "triton-cpu" else (8000, 8001, 8002)
    assert published == [f"127.0.0.1:{port}:{port}" for port in ports]
    assert [port.rsplit(":", 1)[1] for port in published] == stages(service)[-1].last("EXPOSE").words
    assert compose(LIPSTREAM_BIND="0.0.0.0")[service]["ports"][0] == "0.0.0.0:8000:8000"


def test_mounts_are_folders_of_the_checkout_read_only(service: str) -> None:
    targets = {}
    for volume in compose()[service]["volumes"]:
        source, target, mode = volume.split(":")
        assert mode == "ro"
        targets[target] = (DOCKER / source).resolve()
    assert targets["/avatars"] == ROOT / "avatars"
    assert targets.get("/model_repository", ROOT / "model_repository").is_dir()


def test_avatars_can_be_mounted_writable_while_engines_are_built() -> None:
    (source,) = (v for v in compose(LIPSTREAM_AVATARS_MODE="rw")["triton"]["volumes"] if "avatars" in v)
    assert source == "../avatars:/avatars:rw"
    assert all(v.endswith(":ro") for v in compose()["triton"]["volumes"])


def test_shared_memory_is_more_than_dockers_64_mb(service: str) -> None:
    size = compose()[service]["shm_size"]
    assert int(size.removesuffix("gb")) >= 1


def test_the_gpu_is_reserved_where_it_is_needed() -> None:
    (device,) = compose()["triton"]["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    assert "deploy" not in compose()["triton-cpu"]
    assert compose()["triton-cpu"]["profiles"] == ["cpu"]


def test_it_builds_the_dockerfile_from_the_checkout(service: str) -> None:
    build = compose()[service]["build"]
    assert (DOCKER / build["context"]).resolve() == ROOT
    assert ROOT / build["dockerfile"] == DOCKER / IMAGES[service]


def test_stopping_leaves_triton_time_to_finish(service: str) -> None:
    grace_s = int(compose()[service]["stop_grace_period"].removesuffix("s"))
    own_s: float = LONGEST_STOP_S
    if service == "triton":
        own_s = int(flags_of_entrypoint()["--exit-timeout-secs"])
    assert own_s < grace_s


# --- entrypoint ---
@pytest.fixture
def surroundings(tmp_path: Path) -> dict[str, str]:
    """A folder of each kind, and a `tritonserver` that prints its arguments, one a line."""
    for name in ("models/compositor", "avatars/avatar_ann", "avatars/features_ann", "avatars/features_bob"):
        (tmp_path / name / "1").mkdir(parents=True)
        (tmp_path / name / "config.pbtxt").touch()
    binary = tmp_path / "bin" / "tritonserver"
    binary.parent.mkdir()
    binary.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    binary.chmod(0o755)
    return {
        "PATH": f"{binary.parent}:{Path(sys.executable).parent}:/usr/bin:/bin",
        "LIPSTREAM_MODELS": str(tmp_path / "models"),
        "LIPSTREAM_AVATARS": str(tmp_path / "avatars"),
    }


def enter(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", ENTRYPOINT, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def flags_of_entrypoint() -> dict[str, str]:
    """The flags with a fixed value, by name; the value is empty where there is none."""
    found = re.findall(r'^  (--[a-z0-9-]+)(?:="?([^"\n]*?)"?)?$', ENTRYPOINT.read_text(), re.MULTILINE)
    return dict(found)


def test_the_entrypoint_is_executable_and_passes_shellcheck() -> None:
    assert ENTRYPOINT.stat().st_mode & 0o111
    subprocess.run(["bash", "-n", ENTRYPOINT], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", ENTRYPOINT, DOCKER / "install-pillow.sh"], check=True)


def test_it_loads_the_shared_models_and_the_avatars_that_are_named(surroundings: dict[str, str]) -> None:
    result = enter({**surroundings, "LIPSTREAM_LOAD": "ann bob"}, "--log-verbose=1")
    lines = result.stdout.splitlines()
    assert [line for line in lines if line.startswith("--load-model")] == [
        "--load-model=compositor",
        "--load-model=avatar_ann",
        "--load-model=features_ann",
        "--load-model=features_bob",
    ]
    assert f"--model-repository={surroundings['LIPSTREAM_MODELS']}" in lines
    assert lines[-1] == "--log-verbose=1"
    assert not any("restricted" in line for line in lines)


@pytest.mark.parametrize("relative", [False, True])
def test_triton_runs_in_the_folder_of_avatars_where_engine_caches_are_looked_for(
    surroundings: dict[str, str], relative: bool
) -> None:
    avatars = Path(surroundings["LIPSTREAM_AVATARS"])
    binary = avatars.parent / "bin" / "tritonserver"
    binary.write_text('#!/bin/sh\npwd\nprintf "%s\\n" "$@"\n')
    names = {"LIPSTREAM_AVATARS": "avatars", "LIPSTREAM_MODELS": "models"} if relative else {}
    result = subprocess.run(
        ["bash", ENTRYPOINT],
        env={**surroundings, **names},
        cwd=avatars.parent,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    folder, *arguments = result.stdout.splitlines()
    assert Path(folder) == avatars
    assert f"--model-repository={avatars}" in arguments
    assert f"--model-repository={surroundings['LIPSTREAM_MODELS']}" in arguments


def test_with_a_key_model_control_is_restricted(surroundings: dict[str, str]) -> None:
    lines = enter({**surroundings, "LIPSTREAM_ADMIN_KEY": "s3cret"}).stdout.splitlines()
    restricted = [line for line in lines if "restricted" in line]
    assert [line.split("=")[0] for line in restricted] == [
        "--grpc-restricted-protocol",
        "--http-restricted-api",
    ]
    assert all("model-repository" in line and line.endswith(":admin-key=s3cret") for line in restricted)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"LIPSTREAM_LOAD": "../ann"}, "'../ann' is not an avatar id"),
        ({"LIPSTREAM_LOAD": "carl"}, "there is no avatar carl"),
        ({"LIPSTREAM_AVATARS": "/nowhere"}, "there is no folder /nowhere"),
    ],
)
def test_what_cannot_be_served_is_said_in_one_line(
    surroundings: dict[str, str], change: dict[str, str], words: str
) -> None:
    result = enter({**surroundings, **change})
    assert result.returncode == 1
    assert words in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_every_flag_has_a_reason_above_it() -> None:
    block = ENTRYPOINT.read_text().split("args=(\n")[1].split("\n)\n")[0].splitlines()
    obvious = ("--model-repository", "--allow-gpu-metrics")
    for index, line in enumerate(block):
        if line.startswith("  --") and not line.startswith(tuple(f"  {name}" for name in obvious)):
            above = next(other for other in reversed(block[:index]) if not other.startswith("  --"))
            assert above.startswith("  # ")


def test_flags_that_the_launcher_passes_too_have_the_same_values() -> None:
    command = triton_command(
        ServerSettings(gpu=True), find_installation(), Path("/b"), Ports(8001, 8000, 8002), [], "x"
    )
    launcher = {name: value for name, _, value in (flag.partition("=") for flag in command[1:])}
    container = flags_of_entrypoint()
    assert len(container) >= 18
    # Where the two differ with reason: what is on one machine only.
    own = {"--grpc-address", "--http-address", "--metrics-address", "--exit-timeout-secs", "--backend-config"}
    own |= {"--model-repository"}
    assert {name: container[name] for name in container.keys() - own} == {
        name: launcher[name] for name in container.keys() - own
    }
    # Its value is a variable, so that it is not among those above.
    assert '--rate-limit-resource=gpu_slot:"${LIPSTREAM_GPU_SLOTS:-8}"' in ENTRYPOINT.read_text()
    assert launcher["--rate-limit-resource"] == "gpu_slot:8"
    assert launcher.keys() - container.keys() == {
        "--backend-directory",
        "--log-verbose",
        "--rate-limit-resource",
    }


def test_triton_knows_every_flag() -> None:
    installation = find_installation()
    usage = subprocess.run(
        [installation.binary, "--help"],
        env={"LD_LIBRARY_PATH": ":".join(map(str, installation.library_folders))},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    known = set(re.findall(r"^  (--[a-z0-9-]+)", usage.stdout + usage.stderr, re.MULTILINE))
    used = set(re.findall(r"--[a-z0-9-]+(?==|$)", ENTRYPOINT.read_text(), re.MULTILINE))
    assert used
    assert used <= known, used - known
