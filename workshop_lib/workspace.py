"""Where a learner's artefacts live, and how they come to be.

A workspace is a folder (`WORKSHOP_HOME`, default `runs/default` of this checkout). Every stage owns one sub-folder, written
under a temporary name and renamed when it is complete, so that a crash, a full disk or a `kill -9` leaves
either the old artefact or none. `meta.json` beside the artefact records where it came from: settings, seed,
the hashes of its inputs, library versions, seconds. An artefact whose settings or inputs have changed is stale
and is built anew.

Notable choices
- A stage is identified by a fingerprint of what it reads (its profile section, seed, data files, and the content hashes
  of its inputs), so turning one knob rebuilds only what stands on it.
- The temporary folder is named by that fingerprint and survives an interruption: a stage that keeps
  checkpoints in it (pretraining) goes on from there when it is started again.
"""

from __future__ import annotations

import errno
import hashlib
import importlib
import json
import multiprocessing
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from workshop_lib import WorkshopError, __version__
from workshop_lib.profile import Profile, get_profile

REPOSITORY = Path(__file__).resolve().parent.parent
META = {"stage", "hash", "inputs", "fingerprint", "bytes", "seconds", "peak_rss_mb"}  # keys that every meta.json has
MEASURED = ("metrics.json", "history.jsonl")  # hold seconds, which differ in every run: no part of what an artefact is


@dataclass(frozen=True)
class Stage:
    """One step of the course: `build` is 'module:function', called with a `Job` and returning flat metrics.

    `product` is what a reader calls the artefact.
    """

    name: str
    week: int
    title: str
    build: str
    inputs: tuple[str, ...] = ()
    product: str = ""


@dataclass(frozen=True)
class Job:
    """What a stage's build function is given.

    `out` exists and becomes the artefact when the function returns. `settings` is the stage's section of the profile.
    `data` is a folder of real data in its original formats, or None for the bundled corpora.
    """

    out: Path
    inputs: Mapping[str, Path]
    settings: object
    seed: int
    data: Path | None


STAGES = {
    stage.name: stage
    for stage in (
        Stage("environment", 1, "환경 점검", "workshop_lib.environment:build", product="점검 기록"),
        Stage("corpus", 2, "말뭉치 정제", "workshop_lib.cleaning:build", product="깨끗한 말뭉치"),
        Stage("tokenizer", 3, "토크나이저 학습", "workshop_lib.tokenization:build", ("corpus",), "한국어 토크나이저"),
        Stage("comparison", 4, "구조 비교", "workshop_lib.comparison:build", ("corpus", "tokenizer"), "작은 모델들의 비교"),
        Stage("base_model", 5, "사전학습", "workshop_lib.pretraining:build", ("corpus", "tokenizer"), "바탕 모델"),
        Stage("task_model", 6, "미세조정", "workshop_lib.finetuning:build", ("tokenizer", "base_model"), "감성 분류기"),
        Stage("evaluation", 7, "평가", "workshop_lib.evaluation:build", ("corpus", "base_model", "task_model"), "평가 보고서"),
        Stage("compression", 8, "압축", "workshop_lib.compression:build", ("corpus", "base_model", "task_model"), "가벼운 모델"),
        Stage("alignment", 9, "정렬", "workshop_lib.posttraining:build", ("corpus", "base_model"), "대화 모델"),
    )
}


@dataclass(frozen=True)
class Workspace:
    """A folder of artefacts together with the settings that they are built with."""

    home: Path
    profile: Profile
    data: Path | None = None

    def path(self, stage: str) -> Path:
        """The folder of a stage's artefact, whether or not it has been built."""
        return self.home / _stage(stage).name

    def meta(self, stage: str) -> dict | None:
        """`meta.json` of a finished artefact, or None. Raises WorkshopError when it is broken."""
        path = self.path(stage) / "meta.json"
        meta = _read_json(path)
        if meta is not None and not meta.keys() >= META:
            missing = ", ".join(sorted(META - meta.keys()))
            raise WorkshopError(f"{path}이(가) 깨졌다({missing} 없음). 이 폴더를 지우고 다시 실행한다.")
        return meta

    def metrics(self, stage: str) -> dict[str, float]:
        """The numbers that a finished stage measured; empty if it has not been built or is broken."""
        return {} if self.damaged(stage) else _read_json(self.path(stage) / "metrics.json") or {}

    def damaged(self, stage: str) -> str | None:
        """The first file of a finished artefact that is gone or no longer as long as it was; None if there is none."""
        for name, size in (self.meta(stage) or {}).get("files", {}).items():
            path = self.path(stage) / name
            if not path.is_file() or path.stat().st_size != size:
                return name
        return None

    def present_hash(self, stage: str) -> str | None:
        """The hash of a finished artefact's files as they are now, whatever meta.json says; None if there is none or a file is gone."""
        meta = self.meta(stage)
        if meta is None or self.damaged(stage):
            return None
        paths = sorted(self.path(stage) / name for name in meta.get("files", ()))
        return content_hash(self.path(stage), [path for path in paths if path.name not in MEASURED])

    def status(self, stage: str) -> str:
        """'missing', 'broken' (files gone or cut short), 'stale' (settings, data or inputs have changed) or 'ready'."""
        meta = self.meta(stage)
        if meta is None:
            return "missing"
        if self.damaged(stage):
            return "broken"
        if any(self.status(name) != "ready" for name in _stage(stage).inputs):
            return "stale"
        return "ready" if meta["fingerprint"] == self._fingerprint(_stage(stage)) else "stale"

    def require(self, stage: str, say: Callable[[str], None] | None = print) -> Path:
        """The artefact's folder; builds it, and what it needs, when it is missing, broken or stale.

        Raises WorkshopError for an unknown stage, a missing data folder, or a failed build.
        """
        spec = _stage(stage)
        if self.data is not None and not self.data.is_dir():
            raise WorkshopError(f"데이터 폴더 {self.data}이(가) 없다. --data 또는 WORKSHOP_DATA의 경로를 확인한다.")
        _make_folder(self.home)
        for name in spec.inputs:
            self.require(name, say)
        if self.status(stage) == "ready":
            return self.path(stage)
        if getattr(multiprocessing.current_process(), "_inheriting", False):
            # A worker of a stage imports the script that started it; without the guard it would wait here for its parent.
            raise WorkshopError('스크립트에서는 require를 `if __name__ == "__main__":` 아래에서 부른다.')
        from filelock import FileLock, Timeout

        lock = FileLock(self.home / f".{stage}.lock")
        try:
            held = lock.acquire(timeout=0)
        except Timeout:
            if say:
                say(f"[{spec.week}주차] {spec.title}: 다른 실행이 만들고 있어 기다린다.")
            held = lock.acquire()
        with held:
            status = self.status(stage)  # another notebook may have built it while this one waited
            if status != "ready":
                if say:
                    why = {"stale": "설정이나 입력이 바뀌어 다시 만든다",
                           "broken": f"{self.damaged(stage)} 파일이 없어졌거나 잘려 다시 만든다"}.get(status, "만든다")
                    say(f"[{spec.week}주차] {spec.title}: {why}.")
                self._build(spec)
        return self.path(stage)

    def lineage(self) -> list[dict]:
        """Finished artefacts in course order: stage, hash, inputs' hashes, bytes, seconds, status."""
        rows = []
        for name in STAGES:
            if meta := self.meta(name):
                keep = ("stage", "hash", "inputs", "bytes", "seconds")
                rows.append({key: meta[key] for key in keep} | {"status": self.status(name)})
        return rows

    def _inputs(self, spec: Stage) -> dict[str, str]:
        return {name: (self.meta(name) or {}).get("hash", "") for name in spec.inputs}

    def _settings(self, spec: Stage) -> object:
        return getattr(self.profile, spec.name, None)

    def _fingerprint(self, spec: Stage) -> str:
        settings = self._settings(spec)
        reads_data = self.data is not None and spec.name != "environment"
        parts = {
            "stage": spec.name,
            "settings": asdict(settings) if settings else None,
            "seed": self.profile.seed,
            "inputs": self._inputs(spec),
            "data": _data_listing(self.data) if reads_data else None,
        }
        return _sha256(json.dumps(parts, sort_keys=True).encode())

    def _build(self, spec: Stage) -> None:
        fingerprint = self._fingerprint(spec)
        out = self.home / ".partial" / f"{spec.name}-{fingerprint[:12]}"
        _make_folder(out)
        job = Job(
            out=out,
            inputs={name: self.path(name) for name in spec.inputs},
            settings=self._settings(spec),
            seed=self.profile.seed,
            data=self.data,
        )
        module, function = spec.build.split(":")
        build = getattr(importlib.import_module(module), function)
        try:
            self._fill(spec, job, build, fingerprint)
        except Exception as error:
            if _disk_full(error):  # each library has its own kind of error for it
                raise WorkshopError(f"디스크가 가득 차서 '{spec.title}' 단계를 멈추었다. {self.home}이(가) 있는 디스크의 공간을 비우고 "
                                    "같은 명령을 다시 실행한다. 완성된 산출물은 그대로 있다.") from error
            raise
        final = self.path(spec.name)
        old = self.home / ".partial" / f"{spec.name}-old"
        shutil.rmtree(old, ignore_errors=True)
        if final.exists():
            final.rename(old)
        out.rename(final)
        shutil.rmtree(old, ignore_errors=True)

    def _fill(self, spec: Stage, job: Job, build: Callable[[Job], dict[str, float]], fingerprint: str) -> None:
        """Build into the job's folder, and write beside it what was measured and where it came from."""
        out = job.out
        start = time.perf_counter()
        metrics = build(job)
        seconds = time.perf_counter() - start
        _write_json(out / "metrics.json", metrics)
        files = sorted(p for p in out.rglob("*") if p.is_file() and p.name != "metrics.json")
        for path in files:  # safetensors writes weights that only their owner may read; a server may run as somebody else
            path.chmod((out / "metrics.json").stat().st_mode)
        meta = {
            "stage": spec.name,
            "week": spec.week,
            "profile": self.profile.name,
            "seed": self.profile.seed,
            "settings": asdict(job.settings) if job.settings else {},
            "data": str(self.data) if self.data else "bundled",
            "inputs": self._inputs(spec),
            "fingerprint": fingerprint,
            "hash": content_hash(out, [p for p in files if p.name not in MEASURED]),
            "bytes": sum(p.stat().st_size for p in files),
            "files": {p.relative_to(out).as_posix(): p.stat().st_size for p in [*files, out / "metrics.json"]},
            "seconds": round(seconds, 2),
            "peak_rss_mb": round(peak_rss_mb()),
            "versions": _versions(),
        }
        _write_json(out / "meta.json", meta)


def current() -> Workspace:
    """The workspace that the environment names: WORKSHOP_HOME, WORKSHOP_PROFILE, WORKSHOP_DATA."""
    home = os.environ.get("WORKSHOP_HOME")
    data = os.environ.get("WORKSHOP_DATA")
    return Workspace(
        home=Path(home).expanduser().absolute() if home else REPOSITORY / "runs" / "default",
        profile=get_profile(),
        data=Path(data).expanduser().absolute() if data else None,
    )


def require(stage: str) -> Path:
    """The folder of a finished artefact of the current workspace, built first if need be."""
    return current().require(stage)


def build_order(inputs: Mapping[str, Sequence[str]]) -> list[str]:
    """Every stage after all of its inputs (a topological order, Kahn 1962); of those that could come next, the first of the mapping.

    inputs: stage → the stages that it reads. Raises WorkshopError where some wait for each other, or for one that is not there.
    """
    order: list[str] = []
    while len(order) < len(inputs):
        free = next((name for name, needs in inputs.items() if name not in order and set(needs) <= set(order)), None)
        if free is None:
            raise WorkshopError(f"서로를 기다리거나 없는 것을 기다리는 단계가 있다: {', '.join(n for n in inputs if n not in order)}")
        order.append(free)
    return order


def stale_after(inputs: Mapping[str, Sequence[str]], changed: str) -> list[str]:
    """What must be built again when a setting of `changed` is turned: itself and all that stands on it, in the order of building."""
    stale: list[str] = []
    for name in build_order(inputs):
        if name == changed or set(inputs[name]) & set(stale):
            stale.append(name)
    return stale


def peak_rss_mb() -> float:
    """Peak resident memory of this process so far, in MB (10^6 bytes)."""
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset / 1e6
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def _stage(name: str) -> Stage:
    if name not in STAGES:
        raise WorkshopError(f"'{name}' 단계는 없다. {', '.join(STAGES)} 가운데 하나를 쓴다.")
    return STAGES[name]


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise WorkshopError(f"작업 폴더 {path}을(를) 만들 수 없다: {error.strerror}. --home 또는 WORKSHOP_HOME을 바꾼다.") from error


def _disk_full(error: BaseException | None) -> bool:
    while error is not None:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _read_json(path: Path) -> dict | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise ValueError(f"{type(value).__name__}")
        return value
    except FileNotFoundError:
        return None
    except ValueError as error:  # of JSON or of UTF-8
        raise WorkshopError(f"{path}이(가) 깨졌다({error}). 이 폴더를 지우고 다시 실행한다.") from error


def write_rows(path: Path, rows: Iterable[Mapping]) -> None:
    """Rows as JSON lines."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def _write_json(path: Path, value: object) -> None:
    text = json.dumps(value, ensure_ascii=False, indent=1, sort_keys=True) + "\n"
    path.write_text(text, encoding="utf-8", errors="replace")  # a path may hold bytes that are no text


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def content_hash(root: Path, files: Iterable[Path] | None = None) -> str:
    """SHA-256 of what a folder holds: of each file, in the order of the paths, its path below `root`, a zero byte, and the SHA-256 of
    its content. Neither the folder's own name nor any time is part of it. `files`: only these, in this order.
    """
    digest = hashlib.sha256()
    for path in sorted(p for p in root.rglob("*") if p.is_file()) if files is None else files:
        digest.update(f"{path.relative_to(root).as_posix()}\0".encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _data_listing(folder: Path) -> list[tuple[str, int, int]]:
    # Size and modification time stand for the content: hashing 100 GB at every start would take minutes.
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return [(p.relative_to(folder).as_posix(), p.stat().st_size, p.stat().st_mtime_ns) for p in files]


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version(), "workshop_lib": __version__}
    for package in ("torch", "numpy", "transformers", "tokenizers"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
