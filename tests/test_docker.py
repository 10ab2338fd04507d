"""The images and the services around them: what a linter asks of a Dockerfile, and that every name in the files leads somewhere."""

import contextlib
import http.server
import json
import os
import re
import runpy
import shlex
import shutil
import socket
import subprocess
import sys
import threading
import time
import tomllib
import urllib.error
import urllib.request
from dataclasses import dataclass
from fnmatch import fnmatch

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from workshop_lib import triton
from workshop_lib.cli import main
from workshop_lib.workspace import REPOSITORY

DOCKER = REPOSITORY / "docker"
FILES = ("Dockerfile", "Dockerfile.ngc")
healthcheck = runpy.run_path(str(DOCKER / "healthcheck.py"))["status"]


def text(name):
    return (REPOSITORY / name).read_text(encoding="utf-8")


# ---- Dockerfiles ----------------------------------------------------------------------------------------------------


@dataclass
class Stage:
    """One FROM and what follows it. steps: (instruction, argument) with continuation lines joined."""

    base: str
    name: str
    steps: list

    def all(self, instruction):
        return [argument for word, argument in self.steps if word == instruction]


def stages(content):
    """The stages of a Dockerfile, arguments before the first FROM filled in."""
    lines = [line for line in content.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    found, arguments = [], {}
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        word, _, argument = line.strip().partition(" ")
        argument = " ".join(argument.split())
        if word == "FROM":
            base, _, name = re.sub(r"\$\{(\w+)\}", lambda m: arguments.get(m[1], ""), argument).partition(" AS ")
            found.append(Stage(base, name, []))
        elif found:
            found[-1].steps.append((word, argument))
        elif word == "ARG":
            name, _, value = argument.partition("=")
            arguments[name] = value
    return found


def commands(run):
    """The commands of a RUN line, each as its words."""
    lexer = shlex.shlex(run, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    found = [[]]
    for word in lexer:
        if word in {"&&", "||", ";"}:
            found.append([])
        else:
            found[-1].append(word)
    return found


def complaints(content):
    """What a linter would say of a Dockerfile (hadolint's rules that matter here), a word for each rule broken."""
    said = set()
    for stage in stages(content):
        tag = stage.base.partition(":")[2]
        if not re.search(r"\d", tag) or tag.startswith("latest"):
            said.add("base")  # DL3006, DL3007
        users = stage.all("USER")
        if not users or users[-1].split(":")[0] in {"root", "0"}:
            said.add("root")  # DL3002
        for run in stage.all("RUN"):
            for words in commands(run):
                if "sudo" in words:
                    said.add("sudo")  # DL3004
                if words[:2] == ["apt-get", "install"] and not {"--yes", "--no-install-recommends"} <= set(words):
                    said.add("apt")  # DL3014, DL3015
                if words[:2] == ["apt-get", "install"] and "rm -rf /var/lib/apt/lists/*" not in run:
                    said.add("cache")  # DL3009
                if "pip" in words and "install" in words:
                    if "--no-cache-dir" not in words:
                        said.add("cache")  # DL3042
                    if not {"--constraint", "--requirement"} & set(words) and words[-2:] != ["--editable", "."]:
                        said.add("unpinned")  # DL3013
        if stage.all("ADD"):
            said.add("add")  # DL3020
        if any(not folder.startswith("/") for folder in stage.all("WORKDIR")):
            said.add("workdir")  # DL3000
        if any(not start.startswith("[") for start in stage.all("CMD") + stage.all("ENTRYPOINT")):
            said.add("shell form")  # DL3025
        if not stage.all("HEALTHCHECK"):
            said.add("healthcheck")
        if re.search(r"TOKEN|PASSWORD|SECRET", " ".join(stage.all("ENV") + stage.all("ARG"))):
            said.add("secret")
        if re.search(r"token=|password=", " ".join(stage.all("CMD"))):
            said.add("open")  # JupyterLab's token given in the image, or switched off
    return said


@pytest.mark.parametrize("name", FILES)
def test_nothing_to_complain_of(name):
    assert complaints(text(f"docker/{name}")) == set()


@pytest.mark.parametrize(
    ("right", "wrong", "word"),
    [
        ("debian:bookworm-20261005-slim", "debian", "base"),
        ("debian:bookworm-20261005-slim", "debian:latest", "base"),
        ("USER ${USER_ID}", "USER root", "root"),
        ("USER ${USER_ID}", "", "root"),
        ("RUN apt-get update", "RUN sudo apt-get update", "sudo"),
        (" --no-install-recommends", "", "apt"),
        ("&& rm -rf /var/lib/apt/lists/*", "&& true", "cache"),
        ("pip install --no-cache-dir --no-deps --requirement", "pip install --no-deps --requirement", "cache"),
        (" --constraint constraints.txt torch", " torch", "unpinned"),
        ("COPY --chown=student:student . .", "ADD . .", "add"),
        ("WORKDIR /course", "WORKDIR course", "workdir"),
        ('CMD ["jupyter", "lab"', 'CMD jupyter lab; echo ["', "shell form"),
        ("HEALTHCHECK", "LABEL", "healthcheck"),
        ("LANG=C.UTF-8", "LANG=C.UTF-8 JUPYTER_TOKEN=1234", "secret"),
        ('"--no-browser"', '"--no-browser", "--IdentityProvider.token="', "open"),
    ],
)
def test_the_linter_sees_each_fault(right, wrong, word):
    content = text("docker/Dockerfile")
    assert right in content
    assert word in complaints(content.replace(right, wrong))


def ignored(path):
    """Whether .dockerignore keeps a path out of the build."""
    rules = [line for line in text(".dockerignore").splitlines() if line and not line.startswith("#")]
    parts = path.split("/")
    tails = ["/".join(parts[i:]) for i in range(len(parts))]
    anywhere = any(fnmatch(tail, rule[3:]) for rule in rules if rule.startswith("**/") for tail in tails)
    return anywhere or any(fnmatch(parts[0], rule) for rule in rules)


@pytest.mark.parametrize("name", FILES)
def test_every_copied_path_is_there_and_reaches_the_build(name):
    for stage in stages(text(f"docker/{name}")):
        for copy in stage.all("COPY"):
            *sources, _ = [word for word in copy.split() if not word.startswith("--")]
            for source in sources:
                assert (REPOSITORY / source).exists() and not ignored(source), source


def test_the_build_gets_the_course_and_not_what_lies_around():
    for name in ("pyproject.toml", "constraints.txt", "README.md", "LICENSE", "notebooks", "solutions", "tests", "workshop_lib", "jupyter",
                 "docker/healthcheck.py"):  # fmt: skip
        assert (REPOSITORY / name).exists() and not ignored(name), name
    for name in (".git", ".venv", ".venv-nvidia", "runs", "grades", ".env", "docker/.env", "workshop_lib/__pycache__", "x.egg-info"):
        assert ignored(name), name


@pytest.mark.parametrize("name", FILES)
def test_the_course_images_are_korean_and_keep_their_pytorch(name):
    lab = stages(text(f"docker/{name}"))[-1]
    runs = " ".join(lab.all("RUN"))
    assert "fonts-nanum" in runs and "LANG=C.UTF-8" in " ".join(lab.all("ENV"))
    # The lock without PyTorch and its CUDA packages, and nothing resolved beside it.
    pattern = re.search(r"grep --invert-match --extended-regexp '([^']+)' constraints.txt", runs)[1]
    kept = [line for line in text("constraints.txt").splitlines() if not re.search(pattern, line)]
    names = {re.match(r"[\w.-]+", line)[0] for line in kept if not line.startswith("#")}
    assert not {n for n in names if re.match(r"nvidia|cuda|torch$|triton$", n)} and {"torchao", "transformers", "jupyterlab"} <= names
    installs = [words for run in lab.all("RUN") for words in commands(run) if words[:2] == ["pip", "install"]]
    assert installs and all("--no-deps" in words for words in installs)
    if name == "Dockerfile":
        assert "download.pytorch.org/whl/cpu" in " ".join(lab.all("ARG"))
    else:
        assert "--system-site-packages" in runs and "--ignore-installed" in runs and "PIP_CONSTRAINT= " in " ".join(lab.all("ENV"))
        assert not any("torch" in words for words in commands(runs) if "pip" in words)


def test_the_release_of_ngc_is_written_once():
    content = [line for line in text("docker/Dockerfile.ngc").splitlines() if not line.startswith("#")]
    assert sum(bool(re.search(r"\d\d\.\d\d-py3", line)) for line in content) == 1
    for path in [*DOCKER.rglob("*"), *REPOSITORY.glob("*.md"), *(REPOSITORY / "workshop_lib").glob("*.py")]:
        if path.is_file() and path.name != "Dockerfile.ngc":
            assert not re.search(r"nvidia/(pytorch|tritonserver):\d", path.read_text(encoding="utf-8")), path


@pytest.mark.parametrize("name", FILES)
def test_hadolint_agrees(name):
    if not (hadolint := shutil.which("hadolint")):
        pytest.skip("hadolint가 없다")
    done = subprocess.run([hadolint, str(DOCKER / name)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


# ---- Compose --------------------------------------------------------------------------------------------------------


def filled(value):
    """A compose value with every ${NAME:-default} replaced by its default."""
    if isinstance(value, dict):
        return {key: filled(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [filled(inner) for inner in value]
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value) if isinstance(value, str) else value


def compose(name):
    return filled(yaml.safe_load(text(f"docker/{name}")))


def test_the_services_run_without_a_gpu():
    services = compose("compose.yaml")["services"]
    assert set(services) == {"lab", "serve", "triton"}
    for service in services.values():
        assert not {"deploy", "gpus", "runtime", "devices", "privileged"} & set(service)
        assert service["cap_drop"] == ["ALL"] and service["image"].startswith("llm-workshop:")


def test_servers_listen_to_the_world_outside_their_container_and_the_notebooks_want_a_token():
    """What the host may see is for `ports` to say: inside, 127.0.0.1 would be reached by nobody."""
    for name in FILES:
        [lab] = [stage for stage in stages(text(f"docker/{name}")) if "jupyter" in "".join(stage.all("CMD"))]
        assert "--ip=0.0.0.0" in lab.all("CMD")[-1] and lab.all("HEALTHCHECK")[-1].endswith('/api/contents", "403"]')
    services = compose("compose.yaml")["services"]
    command = services["serve"]["command"]
    assert command[command.index("--host") + 1] == "0.0.0.0" and services["serve"]["healthcheck"]["test"][-1] == "200"
    assert all(volume.endswith(":ro") for volume in services["triton"]["volumes"])  # a server writes nothing to a learner's artefacts


def test_only_the_override_asks_for_a_gpu():
    services = compose("compose.gpu.yaml")["services"]
    assert set(services) == {"lab", "serve", "vllm", "tensorrt-llm"}
    for service in services.values():
        (device,) = service["deploy"]["resources"]["reservations"]["devices"]
        assert device["driver"] == "nvidia" and device["capabilities"] == ["gpu"]
    for name in ("lab", "serve"):
        assert services[name]["build"] == {"dockerfile": "docker/Dockerfile.ngc", "target": "lab"}


@pytest.mark.parametrize("name", ["compose.yaml", "compose.gpu.yaml"])
def test_every_name_in_a_compose_file_leads_somewhere(name):
    content = compose(name)
    ports = []
    for service in content["services"].values():
        build = service.get("build", {})
        if build:
            names = {stage.name for stage in stages(text(build["dockerfile"]))}
            assert build.get("context", "..") == ".." and build.get("target", "") in names
        else:
            tag = service["image"].partition(":")[2]
            assert re.search(r"\d", tag) and tag != "latest"
        ports += service.get("ports", [])
        for volume in service.get("volumes", []):
            source, target = volume.split(":")[:2]
            assert source == "runs" or (DOCKER / source).exists(), volume
            assert target.startswith(("/course/", "/etc/"))
    assert all(port.startswith("127.0.0.1:") for port in ports)
    assert len({port.split(":")[1] for port in ports}) == len(ports)  # all can be up at once


def test_the_services_say_what_the_library_understands(capsys):
    services = compose("compose.yaml")["services"]
    program, command, *options = services["serve"]["command"]
    assert program == "workshop"
    with pytest.raises(SystemExit):
        main([command, "--help"])
    said = capsys.readouterr().out
    assert all(option in said for option in options if option.startswith("--"))
    assert {"JUPYTER_TOKEN", "WORKSHOP_PROFILE"} == set(services["lab"]["environment"])
    assert "docker compose up lab" in text("docker/compose.yaml")
    assert "docker compose -f compose.yaml -f compose.gpu.yaml up lab" in text("docker/compose.gpu.yaml")


def test_the_launch_files_name_what_the_exports_write():
    base, gpu = compose("compose.yaml")["services"], compose("compose.gpu.yaml")["services"]
    said = text("docker/serve/README.md")
    triton_stage = next(stage for stage in stages(text("docker/Dockerfile.ngc")) if stage.name == "triton")
    # The server's own Python reads no PYTHONPATH, and its NumPy must stay the first.
    assert not triton_stage.all("ENV") and re.search(r"echo /opt/packages > .*\.pth", triton_stage.all("RUN")[0])
    assert "--model-repository=/course/runs/repository" in triton_stage.all("CMD")[0] and 'Path("runs/repository")' in said
    assert "--model=/course/runs/serving" in gpu["vllm"]["command"] and 'Path("runs/serving")' in said
    assert f"--served-model-name={triton.MODEL}" in gpu["vllm"]["command"]
    assert "trtllm-serve /course/runs/serving" in gpu["tensorrt-llm"]["command"]
    assert "kv_cache_config" in yaml.safe_load(text("docker/serve/tensorrt_llm.yaml"))
    assert any(volume.startswith("./serve/tensorrt_llm.yaml:") for volume in gpu["tensorrt-llm"]["volumes"])
    for name in ("triton", "vllm", "tensorrt-llm"):
        port = {**base, **gpu}[name]["ports"][0].split(":")[1]
        assert f"up {name}" in said and f"127.0.0.1:{port}/" in said
    assert f"/v2/models/{triton.MODEL}/generate" in said


@pytest.mark.parametrize("files", [["compose.yaml"], ["compose.yaml", "compose.gpu.yaml"]])
def test_docker_compose_reads_the_files(files):
    if not shutil.which("docker") or subprocess.run(["docker", "compose", "version"], capture_output=True).returncode:
        pytest.skip("docker compose가 없다")
    command = ["docker", "compose", *(word for name in files for word in ("-f", name)), "config", "--quiet"]
    done = subprocess.run(command, cwd=DOCKER, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# ---- What runs inside -----------------------------------------------------------------------------------------------


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def test_the_health_check_tells_a_status_from_silence():
    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(int(self.path[1:]))
            self.end_headers()

        def log_message(self, *arguments):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        assert [healthcheck(f"{address}/{code}") for code in (200, 403, 503)] == [200, 403, 503]
        for wanted, code in (("200", 0), ("403", 1)):
            assert subprocess.run([sys.executable, str(DOCKER / "healthcheck.py"), f"{address}/200", wanted]).returncode == code
        server.shutdown()
    assert healthcheck(f"http://127.0.0.1:{free_port()}/") == 0


@pytest.mark.slow
@pytest.mark.parametrize("token", ["", "teaches-llm"])
def test_jupyterlab_starts_as_in_the_image_and_wants_its_token(token, tmp_path):
    """The image's own CMD and HEALTHCHECK: no token given means a fresh one, never none. An open configuration in the home is not read."""
    lab = stages(text("docker/Dockerfile"))[-1]
    command = json.loads(lab.all("CMD")[0])
    check = json.loads(re.search(r"CMD (\[.*\])", lab.all("HEALTHCHECK")[0])[1])
    port = free_port()
    command = [sys.executable, "-m", "jupyter", *command[1:-1], "--allow-root", f"--ServerApp.root_dir={tmp_path}"]
    command = [word.replace("8888", str(port)).replace("0.0.0.0", "127.0.0.1") for word in command]
    environment = {**os.environ, "JUPYTER_TOKEN": token, "JUPYTER_CONFIG_PATH": str(REPOSITORY / "jupyter"), "HOME": str(tmp_path)}
    log = tmp_path / "said"
    with open(log, "w") as said, subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=said, stderr=said) as server:
        try:
            wanted = [sys.executable, str(REPOSITORY / check[1]), check[2].replace("8888", str(port)), check[3]]
            deadline = time.monotonic() + 60
            while subprocess.run(wanted).returncode:
                assert server.poll() is None and time.monotonic() < deadline, log.read_text()
                time.sleep(0.3)
            given = token or re.search(r"token=(\w{20,})", log.read_text())[1]
            request = urllib.request.Request(f"http://127.0.0.1:{port}/api/contents")
            request.add_header("Authorization", f"token {given}")
            with urllib.request.urlopen(request, timeout=10) as answer:
                assert answer.status == 200
            with contextlib.suppress(urllib.error.HTTPError):
                request.add_header("Authorization", "token wrong")
                urllib.request.urlopen(request, timeout=10)
                pytest.fail("a wrong token was let in")
        finally:
            server.terminate()


# ---- conda and the lock ---------------------------------------------------------------------------------------------


def test_the_lock_satisfies_what_the_project_asks():
    project = tomllib.loads(text("pyproject.toml"))["project"]
    asked = [Requirement(line) for line in project["dependencies"] + sum(project["optional-dependencies"].values(), [])]
    locked = {}
    for line in text("constraints.txt").splitlines():
        if line and not line.startswith("#"):
            requirement = Requirement(line)
            locked.setdefault(requirement.name.lower().replace("_", "-"), []).append(next(iter(requirement.specifier)).version)
    for requirement in asked:
        name = requirement.name.lower().replace("_", "-")
        if name != "workshop-lib":
            assert all(requirement.specifier.contains(Version(version), prereleases=True) for version in locked[name]), name


def test_conda_the_image_and_the_ci_agree_with_the_project():
    environment = yaml.safe_load(text("environment.yml"))
    python, pip, packages = environment["dependencies"]  # nothing else of conda's own: two sources of versions would drift apart
    version = python.removeprefix("python=")
    assert pip == "pip" and packages == {"pip": ["--constraint constraints.txt", "--editable .[dev]"]}
    project = tomllib.loads(text("pyproject.toml"))["project"]
    assert "dev" in project["optional-dependencies"] and ".[dev]" in text("Makefile") and (REPOSITORY / "constraints.txt").exists()
    assert Requirement("python" + project["requires-python"]).specifier.contains(Version(version))
    assert f'python-version: "{version}"' in text(".github/workflows/ci.yml")
    (debian,) = re.findall(r"^FROM debian:([a-z]+)-", text("docker/Dockerfile"), re.MULTILINE)
    assert {"bookworm": "3.11", "trixie": "3.13"}[debian] == version
