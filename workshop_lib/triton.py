"""The model behind NVIDIA's Triton Inference Server, on a machine without a GPU too.

A Triton server reads a model repository: a folder a model, with config.pbtxt (names, types and shapes of inputs and outputs, how many
instances) and a numbered folder a version. Ours holds the ONNX graph of `onnx_export`, the tokenizer and `triton_model` as model.py.

Notable choices
- The server is the one that the package nvidia-pytriton carries, installed in an environment of its own (it is no dependency of the
  course), or NVIDIA's container. `find` looks for either.
- The client is plain HTTP with JSON (`/v2/models/NAME/generate`), so that what goes over the wire can be read.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from workshop_lib import WorkshopError

CONTAINER = Path("/opt/tritonserver/bin/tritonserver")
MODEL = "korean_llm"
GET = (
    "Triton이 없다. 리눅스에서 `python -m venv ~/triton`, `~/triton/bin/pip install nvidia-pytriton onnxruntime tokenizers` 뒤에 "
    "WORKSHOP_TRITON=~/triton으로 알린다. 컨테이너로 띄우는 법은 docker/serve/README.md에 있다."
)
_CONFIG = """\
name: "{name}"
backend: "python"
max_batch_size: 0
input [
  {{ name: "prompt" data_type: TYPE_STRING dims: [ 1 ] }},
  {{ name: "max_tokens" data_type: TYPE_INT32 dims: [ 1 ] optional: true }},
  {{ name: "temperature" data_type: TYPE_FP32 dims: [ 1 ] optional: true }},
  {{ name: "seed" data_type: TYPE_INT32 dims: [ 1 ] optional: true }}
]
output [
  {{ name: "text" data_type: TYPE_STRING dims: [ 1 ] }},
  {{ name: "tokens" data_type: TYPE_INT32 dims: [ 1 ] }},
  {{ name: "milliseconds" data_type: TYPE_FP32 dims: [ 1 ] }}
]
instance_group [ {{ count: {instances} kind: KIND_CPU }} ]
"""


def write_repository(folder: Path, out: Path, name: str = MODEL, instances: int = 1, threads: int = 1, int8: bool = False) -> Path:
    """A model repository at `out` with the model of `folder`. instances: how many requests are answered at once; threads: for each."""
    from workshop_lib.engine import end_tokens
    from workshop_lib.onnx_export import to_onnx
    from workshop_lib.tokenization import load

    version = out / name / "1"
    version.mkdir(parents=True, exist_ok=True)
    to_onnx(folder, version / "model.onnx", int8=int8)
    tokenizer = load(folder)
    shutil.copyfile(folder / "tokenizer.json", version / "tokenizer.json")
    shutil.copyfile(Path(__file__).with_name("triton_model.py"), version / "model.py")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    settings = {
        "bos": tokenizer.bos_token_id, "ends": sorted(end_tokens(tokenizer)),
        "context": config["max_position_embeddings"], "threads": threads,
    }  # fmt: skip
    (version / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    (out / name / "config.pbtxt").write_text(_CONFIG.format(name=name, instances=instances), encoding="utf-8")
    return out


@dataclass(frozen=True)
class Installation:
    """Where a Triton server is. root: folder of backends/, where it is not the usual one; python: whose packages model.py sees."""

    binary: Path
    root: Path | None = None
    libraries: Path | None = None
    python: Path | None = None
    python_version: str = ""
    version: str = "?"


def find() -> Installation | None:
    """The server of the environment that WORKSHOP_TRITON names (a folder, or its Python), of this one, or of NVIDIA's container."""
    if named := os.environ.get("WORKSHOP_TRITON"):
        path = Path(named).expanduser()
        python = path / "bin" / "python" if path.is_dir() else path
        if not python.is_file():
            raise WorkshopError(f"WORKSHOP_TRITON이 가리키는 {path}에 파이썬 환경이 없다. nvidia-pytriton을 설치한 환경의 폴더를 적는다.")
        return _pytriton(python)
    if importlib.util.find_spec("pytriton"):
        return _pytriton(Path(sys.executable))
    binary = shutil.which("tritonserver") or (CONTAINER if CONTAINER.is_file() else None)
    return Installation(Path(binary)) if binary else None


def _pytriton(python: Path) -> Installation | None:
    """The server inside the package nvidia-pytriton of another Python, which is asked where it is without importing it."""
    question = (
        "import importlib.metadata as m, importlib.util as u, sys; s = u.find_spec('pytriton'); "
        "print(s.submodule_search_locations[0], '%d.%d' % sys.version_info[:2], m.version('nvidia-pytriton'), sep='\\n') if s else None"
    )
    answer = subprocess.run([python, "-c", question], capture_output=True, text=True, encoding="utf-8", timeout=60)
    lines = answer.stdout.splitlines()
    if answer.returncode or len(lines) != 3:
        return None
    package = Path(lines[0])
    stub = package / "tritonserver" / "python_backend_stubs" / lines[1] / "triton_python_backend_stub"
    binary = package / "tritonserver" / "bin" / "tritonserver"
    if not (stub.is_file() and binary.is_file()):
        return None
    return Installation(binary, package / "tritonserver", package.parent / "nvidia_pytriton.libs", python, lines[1], lines[2])


@dataclass
class TritonServer:
    """A running server. url: its HTTP address, without /v2."""

    url: str
    metrics_url: str
    process: subprocess.Popen
    folder: tempfile.TemporaryDirectory

    @property
    def pid(self) -> int:
        """Its process number."""
        return self.process.pid

    def ready(self) -> bool:
        """Whether the server answers and all its models are loaded."""
        try:
            return urllib.request.urlopen(f"{self.url}/v2/health/ready", timeout=2).status == 200
        except OSError:
            return False

    def generate(
        self, prompt: str, max_tokens: int = 64, temperature: float = 0.0, seed: int = 0, model: str = MODEL, timeout: float = 60.0
    ) -> dict[str, object]:
        """Continue `prompt`: {"text", "tokens", "milliseconds" (inside the model)}. Raises WorkshopError where the server refuses."""
        body = {"prompt": prompt, "max_tokens": max_tokens, "temperature": temperature, "seed": seed}
        request = urllib.request.Request(
            f"{self.url}/v2/models/{model}/generate", json.dumps(body).encode("utf-8"), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                said = json.loads(answer.read())
        except urllib.error.HTTPError as error:
            words = error.read().decode("utf-8", "replace")
            with contextlib.suppress(ValueError):
                words = json.loads(words)["error"]
            raise WorkshopError(f"Triton이 {error.code}로 거절했다: {words[:300]}") from error
        except OSError as error:
            raise WorkshopError(f"Triton {self.url}에 연결할 수 없다({error}).") from error
        return {name: said[name] for name in ("text", "tokens", "milliseconds")}

    def metrics(self) -> str:
        """What Prometheus reads: nv_inference_request_success and others."""
        return urllib.request.urlopen(self.metrics_url, timeout=5).read().decode("utf-8")

    def said(self) -> str:
        """The server's own record."""
        return Path(self.folder.name, "log").read_text(encoding="utf-8", errors="replace")

    def stop(self) -> None:
        """Ends the server and all that it started; may be called twice."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # it leads a group of its own: model processes that outlived it go too
        self.process.wait()
        self.folder.cleanup()


def start(repository: Path, installation: Installation | None = None, patience: float = 120.0) -> TritonServer:
    """A Triton server for `repository` on free ports of this machine; returns when its models are loaded.

    Raises WorkshopError where Triton is not installed, or does not come up within `patience` seconds (with its own last words).
    """
    installation = installation or find()
    if installation is None:
        raise WorkshopError(GET)
    folder = tempfile.TemporaryDirectory(prefix="workshop-triton-")
    http, metrics = _free_ports(2)
    command = [
        str(installation.binary), f"--model-repository={repository}", "--http-address=127.0.0.1", f"--http-port={http}",
        "--allow-grpc=false", "--metrics-address=127.0.0.1", f"--metrics-port={metrics}", "--exit-timeout-secs=5",
        "--disable-auto-complete-config",
    ]  # fmt: skip
    environment = dict(os.environ)
    if installation.root:
        command.append(f"--backend-directory={_backends(installation, Path(folder.name))}")
    if installation.libraries:
        environment["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, [environment.get("LD_LIBRARY_PATH"), str(installation.libraries)]))
    if installation.python:
        environment["PATH"] = os.pathsep.join([str(installation.python.parent), environment["PATH"]])
    for name in ("PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV"):  # those of this environment would mislead the server's Python
        environment.pop(name, None)
    with open(Path(folder.name, "log"), "wb") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True, preexec_fn=_end_with_parent
        )
    server = TritonServer(f"http://127.0.0.1:{http}", f"http://127.0.0.1:{metrics}/metrics", process, folder)
    deadline = time.monotonic() + patience
    try:
        while not server.ready():
            if process.poll() is not None or time.monotonic() > deadline:
                raise WorkshopError(f"Triton이 뜨지 않았다. 마지막 기록:\n{_last_errors(server.said())}")
            time.sleep(0.1)
    except BaseException:
        server.stop()
        raise
    return server


@contextlib.contextmanager
def running(repository: Path, installation: Installation | None = None, patience: float = 120.0) -> Iterator[TritonServer]:
    """`start` for the length of a with block."""
    server = start(repository, installation, patience)
    try:
        yield server
    finally:
        server.stop()


def _backends(installation: Installation, folder: Path) -> Path:
    """The folder of back ends as Triton wants it: the Python back end beside the program for this version of Python."""
    target = folder / "backends" / "python"
    target.mkdir(parents=True)
    for file in (installation.root / "backends" / "python").iterdir():
        if file.is_file():
            (target / file.name).symlink_to(file)
    stubs = installation.root / "python_backend_stubs"
    shutil.copy(stubs / installation.python_version / "triton_python_backend_stub", target / "triton_python_backend_stub")
    return target.parent


def _end_with_parent() -> None:
    """Called in the new process: Linux sends it SIGTERM when the process that started it is gone."""
    import ctypes

    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


def _last_errors(log: str) -> str:
    lines = [line for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("E") or "rror" in line or "failed" in line]
    return "\n".join((errors or lines)[-6:])[-900:]


def _free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        return [stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1] for _ in range(number)]
