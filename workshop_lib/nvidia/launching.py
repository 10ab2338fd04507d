"""Week 5 under NeMo Run: the same pretraining, launched here, on a Slurm cluster or on rented machines.

    python -m workshop_lib.nvidia.launching local train.bin record.json --processes 2
    python -m workshop_lib.nvidia.launching slurm train.bin record.json --nodes 2     # shows the batch script, sends nothing
    python -m workshop_lib.nvidia.launching skypilot train.bin record.json --nodes 2  # shows the task, rents nothing

What is launched never changes (`training_script`); only the executor does. Notable choices
- The script takes one argument, a JSON file. NeMo Run quotes arguments for a shell, and its local executor has none.
- torchrun must be found: the local executor gets the PATH of the Python that runs this.
- The container and the account come from environment variables, for they belong to the cluster and not to the course.

Needs its own environment (`make test-nvidia`).
"""

import argparse
import contextlib
import io
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

try:
    import nemo_run as run
except ModuleNotFoundError:
    if __name__ != "__main__":
        raise
    raise SystemExit("오류: 이 파이썬에는 NeMo Run이 없다. `make test-nvidia`가 만드는 .venv-nvidia/bin/python으로 실행한다.") from None
from nemo_run.core.tunnel.client import LocalTunnel
from nemo_run.run.job import Job

from workshop_lib import WorkshopError

IMAGE = "WORKSHOP_IMAGE"      # container of the Slurm and SkyPilot jobs, e.g. the one that docker/ builds from NGC
ACCOUNT, PARTITION = "SLURM_ACCOUNT", "SLURM_PARTITION"


@dataclass(frozen=True)
class Training:
    """What one launch trains: a token file of week 5, where the record goes, what differs from the profile's settings, and
    further options of `python -m workshop_lib.pretraining`."""

    tokens: str
    record: str
    settings: dict = field(default_factory=dict)
    seed: int = 0
    options: tuple[str, ...] = ()

    def write(self, path: Path) -> Path:
        """As the JSON file that `training_script` is given."""
        path.write_text(json.dumps(asdict(self), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        return path


def training_script(job: str | Path) -> run.Script:
    """`python -m workshop_lib.nvidia.training_job JOB`, for any executor. `job`: the file as the machine that trains sees it."""
    return run.Script(path="workshop_lib.nvidia.training_job", m=True, entrypoint="python", args=[str(job)])


def local_executor(processes: int = 2) -> run.LocalExecutor:
    """torchrun with `processes` processes on this machine (gloo without GPUs, NCCL with)."""
    search = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    variables = {"PATH": search, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    return run.LocalExecutor(ntasks_per_node=processes, launcher="torchrun", env_vars=variables)


def slurm_executor(
    folder: Path, nodes: int = 1, gpus: int = 8, time: str = "04:00:00", also: tuple[Path, ...] = ()
) -> run.SlurmExecutor:
    """A Slurm job with a torchrun on each node and a process for each GPU. `folder`: where job files and logs go, on a disk that
    all nodes see; it and `also` appear in the container under the same names. For the cluster's login node; from elsewhere
    give it an `SSHTunnel`.

    Reads SLURM_ACCOUNT, SLURM_PARTITION and WORKSHOP_IMAGE. The cluster needs Pyxis to start containers.
    """
    return run.SlurmExecutor(
        account=_required(ACCOUNT), partition=os.environ.get(PARTITION), nodes=nodes, ntasks_per_node=1, gpus_per_node=gpus,
        torchrun_nproc_per_node=gpus, time=time, container_image=_required(IMAGE),
        container_mounts=[f"{path}:{path}" for path in sorted({folder, *also})],
        env_vars={"WORKSHOP_PROFILE": "gpu"}, launcher="torchrun", tunnel=LocalTunnel(job_dir=str(folder)), packager=run.Packager(),
    )  # fmt: skip


def skypilot_executor(nodes: int = 1, gpus: int = 8, kind: str = "H100", also: tuple[Path, ...] = ()) -> run.SkypilotExecutor:
    """The same on machines that SkyPilot rents; costs money. `also`: folders that are copied there under the same names.

    Reads WORKSHOP_IMAGE. Raises WorkshopError without SkyPilot. The machines are given back after ten idle minutes.
    """
    image = _required(IMAGE)
    try:
        return run.SkypilotExecutor(
            gpus=kind, gpus_per_node=gpus, num_nodes=nodes, cluster_name="workshop", env_vars={"WORKSHOP_PROFILE": "gpu"},
            container_image=f"docker:{image}",  # without the word it is the name of a cloud's machine image
            file_mounts={str(path): str(path) for path in sorted(set(also))},
            autodown=True, idle_minutes_to_autostop=10, launcher="torchrun",
        )  # fmt: skip
    except AssertionError as error:
        raise WorkshopError("이 환경에 SkyPilot이 없다. `make test-nvidia`의 환경(.venv-nvidia)을 쓰거나, 새 가상환경에 "
                            "`pip install 'nemo-run[skypilot]==0.11.1' leptonai==0.27.3`을 한다.") from error


def launch(script: run.Script, executor: run.Executor, name: str = "pretraining") -> None:
    """Run to the end, the log on the screen. Raises WorkshopError when the job did not succeed."""
    with run.Experiment(name) as experiment:
        experiment.add(script, executor=executor, name=name)
        experiment.run(detach=False, tail_logs=True)
    states = {job.id: job.state.name for job in experiment.jobs}  # known once the block is left, which waits
    if set(states.values()) != {"SUCCEEDED"}:
        raise WorkshopError(f"NeMo Run의 작업이 끝까지 가지 못했다: {states}. 위의 기록에서 까닭을 본다.")


def batch_script(script: run.Script, executor: run.SlurmExecutor, name: str = "pretraining") -> str:
    """The sbatch file that `launch` would send. Nothing is sent, no cluster is asked."""
    sent = _rehearsed(script, executor, name).executor
    return Path(sent.experiment_dir, f"{sent.job_name}_sbatch.sh").read_text(encoding="utf-8")


def task_file(script: run.Script, executor: run.SkypilotExecutor, name: str = "pretraining") -> str:
    """The task that `launch` would give to SkyPilot, as YAML. Nothing is rented, no cloud is asked."""
    from sky.utils.yaml_utils import dump_yaml_str

    return dump_yaml_str(_rehearsed(script, executor, name)._dryrun_info.request.task.to_yaml_config())


def _rehearsed(script: run.Script, executor: run.Executor, name: str) -> Job:
    """The job of an experiment that has been made ready and not sent."""
    with _no_terminal(), run.Experiment(name) as experiment:
        experiment.add(script, executor=executor, name=name)
        experiment.dryrun(log=False, delete_exp_dir=False)
        return experiment.jobs[0]


@contextlib.contextmanager
def _no_terminal() -> Iterator[None]:
    """NeMo Run makes folders with a helper that listens to the keyboard, which notebooks and tests have not."""
    terminal, sys.stdin = sys.stdin, io.StringIO()
    try:
        yield
    finally:
        sys.stdin = terminal


def _required(variable: str) -> str:
    value = os.environ.get(variable)
    if not value:
        raise WorkshopError(f"환경 변수 {variable}이(가) 비어 있다. 예: {variable}=값 python -m workshop_lib.nvidia.launching …")
    return value


def main(arguments: list[str] | None = None) -> int:
    """Launch on this machine, or show what a cluster or a cloud would be sent."""
    parser = argparse.ArgumentParser(description="5주차의 사전학습을 NeMo Run으로 띄운다.")
    parser.add_argument("where", choices=("local", "slurm", "skypilot"), help="local: 여기서 실행, 나머지: 보낼 것만 보이기")
    parser.add_argument("tokens", type=Path, help="pack이 만든 토큰 파일")
    parser.add_argument("record", type=Path, help="손실을 적을 JSON 파일")
    parser.add_argument("--settings", type=json.loads, default={}, help="프로필에서 바꿀 설정(JSON)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2, help="프로세스 수: 기계마다, slurm과 skypilot에서는 GPU마다 하나")
    parser.add_argument("--nodes", type=int, default=1, help="slurm과 skypilot의 기계 수")
    chosen, options = parser.parse_known_args(arguments)  # what is not the launcher's is the training's
    tokens, record = chosen.tokens.absolute(), chosen.record.absolute()
    if not tokens.is_file():
        raise WorkshopError(f"토큰 파일이 없다: {tokens}. 5주차의 pack이 만든다.")
    record.parent.mkdir(parents=True, exist_ok=True)
    job = Training(str(tokens), str(record), chosen.settings, chosen.seed, tuple(options)).write(record.with_suffix(".job.json"))
    if chosen.where == "local":
        launch(training_script(job), local_executor(chosen.processes))
        losses = json.loads(record.read_text(encoding="utf-8"))["losses"]
        print(f"{chosen.processes}개 프로세스로 {len(losses)}단계를 마쳤다. 손실 {losses[0]:.4f} → {losses[-1]:.4f}")
    elif chosen.where == "slurm":
        print(batch_script(training_script(job), slurm_executor(
            record.parent, chosen.nodes, chosen.processes, also=(tokens.parent,))))
    else:
        print(task_file(training_script(job), skypilot_executor(
            chosen.nodes, chosen.processes, also=(record.parent, tokens.parent))))
    return 0


if __name__ == "__main__":
    from workshop_lib.cli import reported

    raise SystemExit(reported(main, "띄운 작업도 함께 끝났다."))
