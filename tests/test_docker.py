"""The container files: linted, checked against their schema, and run in the parts that run without Docker."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import tomllib
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import qwen_edit.settings

import shim.settings
import standalone.settings
import standalone.supervisor
from shim.settings_grammar import settings_of
from tests.kit.compose import INTERPOLATION, compose_services, interpolate
from tests.kit.sources import packages

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = {"Dockerfile.triton": ["model", "standalone"], "Dockerfile.shim": ["shim"]}
BASES = {"Dockerfile.triton": r"nvcr\.io/nvidia/tritonserver:\d\d\.\d\d-py3", "Dockerfile.shim": r"python:3\.\d+-slim"}
MODULES = {"shim": shim.settings, "model": qwen_edit.settings, "launcher": standalone.settings}
SERVICES = {"shim": [shim.settings], "triton": [qwen_edit.settings, standalone.settings]}
# What the supervisor sets itself, and what only the launcher reads.
NOT_IN_THE_CONTAINER = {
    "CONTROL_DIR", "MODEL_REPOSITORY", "ALLOW_NO_AUTH", "API_KEY", "API_KEY_FILE", "HOST", "PORT", "BALANCER_PORT",
    "TRITON_ADDRESS", "TRITON_HTTP_PORT", "TRITON_GRPC_PORT", "TRITON_METRICS_PORT", "SUPERVISOR_PORT",
}  # fmt: skip
WITHOUT_A_FIXED_DEFAULT = {
    "ALLOWED_HOSTS",
    "ALLOWED_IMAGE_HOSTS",
    "API_KEY",
    "API_KEY_FILE",
    "CONDITIONING_CACHE_MB",
    "DRAIN_SECONDS",
    "CORS_ORIGINS",
    "DEFAULT_NEGATIVE_PROMPT",
    "DEFAULT_STEPS",
    "DEFAULT_TRUE_CFG_SCALE",
    "DEVICE_MAP",
    "CONTROL_DIR",
    "HEALTH_URL",
    "LORA",
    "LORA_DIR",
    "MAX_REFERENCES",
    "MODEL_ID",
    "MODEL_REPOSITORY",
    "PREFIX_CACHE_MB",
    "PRESET",
    "QWEN_MODEL_DIR",
    "REFERENCE_AREA",
    "SCHEDULER_CONFIG",
    "TORCH_THREADS",
}


def tool(name: str) -> str:
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found:
        return found
    reason = f"{name} is not installed: pip install -c constraints.txt -e '.[test]'"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def output(command: list[str]) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def instructions(dockerfile: str) -> list[tuple[str, str]]:
    """(keyword, arguments) in order, continued lines joined, without comments and bodies of here-documents."""
    text = (ROOT / dockerfile).read_text("utf-8")
    text = re.sub(r"(<<'EOF'.*?)\n.*?\nEOF$", r"\1", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
    return [(keyword, " ".join(arguments.split())) for keyword, arguments in lines]


def arguments_of(dockerfile: str, keyword: str) -> list[str]:
    return [arguments for word, arguments in instructions(dockerfile) if word == keyword]


def setting_names(module: Any) -> set[str]:
    """The variables that a part declares."""
    return {setting.name for setting in settings_of(module.Settings)}


def example() -> list[tuple[str, str]]:
    """(name, value) of every setting in .env.example; prose has a space after the number sign."""
    lines = (ROOT / ".env.example").read_text("utf-8").splitlines()
    return [(match[1], match[2]) for line in lines if (match := re.fullmatch(r"#([A-Z][A-Z0-9_]*)=(.*)", line))]


def seconds(duration: str) -> float:
    units = {"h": 3600, "m": 60, "s": 1}
    return sum(float(number) * units[unit] for number, unit in re.findall(r"([\d.]+)([hms])", duration))


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    return compose_services()


@pytest.fixture
def health_server() -> Iterator[Callable[[int], int]]:
    """Starts HTTP servers that answer every request with one status; returns the port."""
    servers = []

    def start(status: int) -> int:
        class Answer(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status if self.path == "/health" else 200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        server = HTTPServer(("127.0.0.1", 0), Answer)
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        servers.append(server)
        return server.server_port

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("dockerfile", EXTRAS)
def test_hadolint_finds_nothing(dockerfile: str) -> None:
    output([tool("hadolint"), "--no-color", dockerfile])


def test_the_compose_file_follows_its_schema() -> None:
    output([tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", "docker-compose.yml"])


@pytest.mark.parametrize("dockerfile", EXTRAS)
def test_the_base_image_is_pinned(dockerfile: str) -> None:
    (base,) = arguments_of(dockerfile, "FROM")

    assert re.fullmatch(BASES[dockerfile], base)


def test_workers_of_the_triton_image_end_without_an_abort() -> None:
    """Those of 26.04 to 26.08 do not."""
    (base,) = arguments_of("Dockerfile.triton", "FROM")
    year, month = re.findall(r"\d\d", base)

    assert (int(year), int(month)) >= (26, 9)


@pytest.mark.parametrize("dockerfile", EXTRAS)
def test_packages_are_those_of_the_extra_under_the_constraints(dockerfile: str) -> None:
    (run,) = arguments_of(dockerfile, "RUN")
    listing, install = (part.strip() for part in run.split("&&")[:2])
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    command = listing.removesuffix("> requirements.txt").replace("python3", sys.executable, 1)

    wanted = [package for extra in EXTRAS[dockerfile] for package in project["optional-dependencies"][extra]]

    assert output(["sh", "-c", command]).splitlines() == wanted
    assert install.startswith("python3 -m pip install ")
    assert install.endswith(" -r requirements.txt -c constraints.txt")


@pytest.mark.parametrize("dockerfile", EXTRAS)
def test_the_container_does_not_run_as_root(dockerfile: str) -> None:
    keywords = [keyword for keyword, _ in instructions(dockerfile)]
    (user,) = arguments_of(dockerfile, "USER")

    assert int(user) > 0
    assert not {"RUN", "COPY"} & set(keywords[keywords.index("USER") :])


def test_the_build_context_is_what_the_dockerfiles_copy() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line.startswith("!")}
    copies = [copy for dockerfile in EXTRAS for copy in arguments_of(dockerfile, "COPY") if "<<" not in copy]
    copied = {source for copy in copies for source in copy.split()[:-1]}

    assert copied == allowed
    assert all((ROOT / source).exists() for source in copied)


def copied_files(dockerfile: str) -> Iterator[Path]:
    for copy in arguments_of(dockerfile, "COPY"):
        for source in copy.split()[:-1]:
            yield from ((ROOT / source).rglob("*") if (ROOT / source).is_dir() else [ROOT / source])


@pytest.mark.parametrize("dockerfile", EXTRAS)
def test_an_image_holds_neither_weights_nor_what_makes_them(dockerfile: str) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    files = list(copied_files(dockerfile))
    sources = [path for path in files if path.suffix == ".py"]

    assert sources
    assert not [path for path in files if path.suffix == ".safetensors"]
    assert not [path for path in sources if packages(path) & {"checkpoints", "tokenizers", "skimage", "sklearn"}]
    assert not {package for extra in EXTRAS[dockerfile] for package in extras[extra]} & set(extras["checkpoints"])


def test_the_container_runs_the_supervisor_reachable_for_other_containers() -> None:
    (command,) = arguments_of("Dockerfile.triton", "CMD")
    python, *module = json.loads(command)

    assert (python, module) == ("python3", ["-m", standalone.supervisor.__name__])
    assert "TRITON_ADDRESS=0.0.0.0" in arguments_of("Dockerfile.triton", "ENV")


def test_the_supervisor_needs_nothing_that_the_container_lacks() -> None:
    """Neither the shim's packages nor torch before tritonserver runs."""
    code = (
        "import standalone.supervisor, standalone.reaper, sys; "
        "print(*{'torch', 'starlette', 'aiohttp', 'diffusers', 'shim'} & set(sys.modules))"
    )
    assert output([sys.executable, "-c", code]) == "\n"


@pytest.mark.parametrize("where", ["Dockerfile.shim", "docker-compose.yml"])
@pytest.mark.parametrize(("status", "healthy"), [(200, True), (204, False), (404, False), (503, False)])
def test_the_shim_is_healthy_only_if_health_answers_200(
    where: str, status: int, healthy: bool, services: dict[str, Any], health_server: Callable[[int], int]
) -> None:
    port = str(health_server(status))
    if where == "Dockerfile.shim":
        (check,) = arguments_of(where, "HEALTHCHECK")
        command = json.loads(check.split("CMD", 1)[1])
    else:
        kind, *command = services["shim"]["healthcheck"]["test"]
        assert kind == "CMD"
        command = [part.replace(":8000/", f":{port}/") for part in command]
    env = {"PORT": port, "http_proxy": "http://127.0.0.1:9"}

    done = subprocess.run([sys.executable, *command[1:]], env=env, capture_output=True, timeout=30, check=False)

    assert (done.returncode == 0) == healthy


def test_triton_is_healthy_only_if_its_supervisor_says_so(services: dict[str, Any]) -> None:
    check = services["triton"]["healthcheck"]
    kind, curl, flags, *rest = check["test"]

    assert (kind, curl, rest[-1]) == ("CMD", "curl", "http://127.0.0.1:8013/healthz")
    assert flags.startswith("-")
    assert "f" in flags
    assert seconds(check["start_period"]) >= 600


def test_the_shim_waits_for_the_model(services: dict[str, Any]) -> None:
    assert services["shim"]["depends_on"] == {"triton": {"condition": "service_healthy"}}


@pytest.mark.parametrize(
    ("environ", "shim_address"),
    [({}, "127.0.0.1"), ({"HOST_ADDRESS": "0.0.0.0"}, "0.0.0.0"), ({"HOST": "0.0.0.0"}, "127.0.0.1")],
    ids=["default", "HOST_ADDRESS", "HOST"],
)
def test_only_the_shims_port_can_be_published_beyond_loopback_and_only_by_host_address(
    environ: dict[str, str], shim_address: str, services: dict[str, Any]
) -> None:
    published = {
        name: [interpolate(port, environ) for port in service.get("ports", [])] for name, service in services.items()
    }

    assert published == {
        "triton": ["127.0.0.1:8010:8010", "127.0.0.1:8011:8011", "127.0.0.1:8012:8012", "127.0.0.1:8013:8013"],
        "shim": [f"{shim_address}:8000:8000"],
        "haproxy": [],
    }
    assert not any("network_mode" in service for service in services.values())


def test_published_ports_are_the_launchers(services: dict[str, Any]) -> None:
    settings = standalone.settings.Settings.from_environment({})
    published = [port for service in services.values() for port in service.get("ports", [])]
    by_name = {name: int(default) for port in published for name, default in INTERPOLATION.findall(port)[-1:]}

    assert by_name == {"PORT": settings.port, **settings.server_ports}


def test_the_shim_listens_where_its_port_is_mapped_and_calls_triton_by_name(services: dict[str, Any]) -> None:
    environment = services["shim"]["environment"]
    (port,) = services["shim"]["ports"]
    tritons = {mapping.rsplit(":", 1)[1] for mapping in services["triton"]["ports"]}

    assert environment["HOST"] == "0.0.0.0"
    assert environment["PORT"] == port.rsplit(":", 1)[1]
    assert re.fullmatch(rf"http://triton:({'|'.join(tritons)})", interpolate(environment["TRITON_URL"]))
    assert re.fullmatch(rf"http://triton:({'|'.join(tritons)})/healthz", interpolate(environment["HEALTH_URL"]))


def test_the_balancer_knows_the_servers_of_eight_gpus(services: dict[str, Any]) -> None:
    environment = services["haproxy"]["environment"]
    apart = [standalone.settings.Settings.from_environment({}).of_server(number) for number in range(8)]

    assert {name: value for name, value in environment.items() if name[-1].isdigit()} == {
        **{f"TRITON_{number}": f"triton:{each.triton_http_port}" for number, each in enumerate(apart, 1)},
        **{f"HEALTH_{number}": str(each.supervisor_port) for number, each in enumerate(apart, 1)},
    }
    assert "RESOLVE_AGAIN" in environment
    assert services["haproxy"]["profiles"]
    (volume,) = services["haproxy"]["volumes"]
    assert volume["read_only"] is True
    assert (ROOT / volume["source"]).is_file()


def test_the_checkpoint_is_mounted_read_only_where_the_model_looks(services: dict[str, Any]) -> None:
    (volume,) = (each for each in services["triton"]["volumes"] if isinstance(each, dict))
    environ = {"QWEN_MODEL_DIR": "/data/Qwen-Image-Edit-2511"}

    assert volume["read_only"] is True
    assert volume["bind"] == {"create_host_path": False}
    assert interpolate(volume["source"], environ) == "/data/Qwen-Image-Edit-2511"
    assert volume["source"].startswith("${QWEN_MODEL_DIR:?")
    assert volume["target"] == services["triton"]["environment"]["QWEN_MODEL_DIR"]
    assert Path(interpolate(volume["target"], environ)).name == "Qwen-Image-Edit-2511"


def test_what_the_compilers_made_outlasts_the_container(services: dict[str, Any]) -> None:
    (place,) = arguments_of("Dockerfile.triton", "VOLUME")
    environ = dict(each.split("=") for line in arguments_of("Dockerfile.triton", "ENV") for each in line.split())

    assert f"compiled:{place}" in services["triton"]["volumes"]
    assert {Path(environ[name]).parent for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")} == {Path(place)}
    assert f"chown 1000:1000 {place}" in " ".join(arguments_of("Dockerfile.triton", "RUN"))


def test_triton_gets_the_gpus_and_shared_memory(services: dict[str, Any]) -> None:
    (device,) = services["triton"]["deploy"]["resources"]["reservations"]["devices"]

    assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
    assert services["triton"]["shm_size"] == "2gb"


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_gets_more_time_to_stop_than_it_takes_to_drain(service: str, services: dict[str, Any]) -> None:
    part = shim.settings if service == "shim" else standalone.settings
    drain = part.Settings.from_environment({}).drains_for

    assert seconds(services[service]["stop_grace_period"]) >= drain + 20


@pytest.mark.parametrize(("service", "modules"), SERVICES.items(), ids=SERVICES)
def test_a_service_gets_every_setting_that_it_reads(service: str, modules: list[Any], services: dict[str, Any]) -> None:
    read = set[str]().union(*map(setting_names, modules))

    assert set(services[service]["environment"]) == read - (NOT_IN_THE_CONTAINER if service == "triton" else set())


@pytest.mark.parametrize(("module", "known"), [("shim", "API_KEY"), ("model", "MAX_JOBS"), ("launcher", "PORT")])
def test_setting_names_are_found_in_the_code(module: str, known: str) -> None:
    assert known in setting_names(MODULES[module])


def test_the_example_environment_lists_exactly_the_settings_that_are_read() -> None:
    compose_file = (ROOT / "docker-compose.yml").read_text("utf-8")
    read = set[str]().union(*map(setting_names, MODULES.values()))
    interpolated = {name for name, _ in INTERPOLATION.findall(compose_file)}

    assert sorted(name for name, _ in example()) == sorted(read | interpolated)


@pytest.mark.parametrize("module", MODULES.values(), ids=MODULES)
def test_the_example_environment_shows_the_defaults(module: Any) -> None:
    assert module.Settings.from_environment(dict(example())) == module.Settings.from_environment({})


def test_the_example_environment_leaves_out_only_defaults_that_are_empty_or_depend_on_something_else() -> None:
    assert {name for name, value in example() if not value} == WITHOUT_A_FIXED_DEFAULT


def test_the_example_environment_shows_what_the_compose_file_falls_back_to() -> None:
    compose_file = (ROOT / "docker-compose.yml").read_text("utf-8")
    shown = dict(example())

    falls_back = {name: default for name, default in INTERPOLATION.findall(compose_file) if default}
    by_name_of_the_container = {name for name, default in falls_back.items() if "//triton:" in default}

    assert by_name_of_the_container == {"TRITON_URL", "HEALTH_URL"}
    assert {name: falls_back[name] for name in falls_back.keys() - by_name_of_the_container}.items() <= shown.items()
