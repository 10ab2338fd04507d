"""NeMo Run launches the pretraining: here with torchrun and two processes; for Slurm the batch script is made and read."""

import importlib.util
import json
import os
from dataclasses import asdict, replace

import numpy as np
import pytest
import yaml

os.environ["NEMORUN_HOME"] = os.path.join(os.environ["WORKSHOP_HOME"], "nemo_run")  # read when it is imported
if importlib.util.find_spec("nemo_run") is None:  # there, but broken, is no reason to skip
    pytest.skip("`make test-nvidia`의 환경에서만 돈다", allow_module_level=True)

from workshop_lib import WorkshopError, packing, pretraining
from workshop_lib.nvidia import launching
from workshop_lib.profile import get_profile

pytestmark = pytest.mark.nvidia
VOCABULARY = 300
SMALL = {"steps": 6, "batch_size": 8, "context": 32, "layers": 1, "hidden_size": 32, "intermediate_size": 64, "heads": 2, "kv_heads": 1}


@pytest.fixture
def tokens(tmp_path):
    ids = np.random.default_rng(0).integers(0, VOCABULARY, 4_000, dtype=np.uint16)
    ids.tofile(tmp_path / "train.bin")
    packed = packing.Packed(str(tmp_path / "train.bin"), "uint16", len(ids), 1, 1, VOCABULARY)
    (tmp_path / "train.json").write_text(json.dumps(asdict(packed)), encoding="utf-8")
    return tmp_path / "train.bin"


def test_two_processes_launched_by_nemo_run_follow_the_curve_of_one(tokens, tmp_path):
    record = tmp_path / "record.json"
    job = launching.Training(str(tokens), str(record), SMALL).write(tmp_path / "job.json")
    launching.launch(launching.training_script(job), launching.local_executor(2))
    curve = json.loads(record.read_text(encoding="utf-8"))["losses"]
    settings = replace(get_profile().base_model, **SMALL)
    model, stream = pretraining.new_model(settings, VOCABULARY).cpu(), packing.open_packed(tokens).array()
    alone = pretraining.train(model, stream, settings, progress=False)
    # The same sums in another order: float32 rounding, which training amplifies slowly.
    assert len(curve) == SMALL["steps"] and np.abs(np.array(curve) - alone.losses).max() < 1e-4


def test_a_job_that_fails_is_an_error(tokens, tmp_path):
    job = launching.Training(str(tmp_path / "none.bin"), str(tmp_path / "record.json"), SMALL).write(tmp_path / "job.json")
    with pytest.raises(WorkshopError, match="끝까지 가지 못했다"):
        launching.launch(launching.training_script(job), launching.local_executor(2))


def test_the_slurm_script_runs_one_torchrun_a_node(tokens, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_ACCOUNT", "class")
    monkeypatch.setenv("SLURM_PARTITION", "gpu")
    monkeypatch.setenv("WORKSHOP_IMAGE", "registry.example/workshop:1")
    executor = launching.slurm_executor(tmp_path / "jobs", nodes=2, gpus=4, also=(tokens.parent,))
    script = launching.batch_script(launching.training_script(tmp_path / "job.json"), executor)
    for line in ("#SBATCH --account=class", "#SBATCH --partition=gpu", "#SBATCH --nodes=2", "#SBATCH --ntasks-per-node=1",
                 "#SBATCH --gpus-per-node=4"):
        assert line in script
    assert "--container-image registry.example/workshop:1" in script and f"{tokens.parent}:{tokens.parent}" in script
    command = next(line for line in script.splitlines() if "torchrun" in line)
    assert "--nnodes 2 --nproc-per-node 4" in command
    assert command.rstrip().endswith(f"-m workshop_lib.nvidia.training_job {tmp_path / 'job.json'}")


def test_a_cluster_without_an_account_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("SLURM_ACCOUNT", raising=False)
    with pytest.raises(WorkshopError, match="SLURM_ACCOUNT"):
        launching.slurm_executor(tmp_path)


def test_without_skypilot_it_is_named(monkeypatch):
    monkeypatch.setenv("WORKSHOP_IMAGE", "registry.example/workshop:1")
    monkeypatch.setattr("nemo_run.core.execution.skypilot._SKYPILOT_AVAILABLE", False)
    with pytest.raises(WorkshopError, match="SkyPilot이 없다"):
        launching.skypilot_executor()


def test_the_skypilot_task_runs_one_torchrun_a_machine(tokens, tmp_path, monkeypatch):
    pytest.importorskip("sky", exc_type=ImportError)
    monkeypatch.setenv("WORKSHOP_IMAGE", "registry.example/workshop:1")
    job = launching.Training(str(tokens), str(tmp_path / "record.json"), SMALL).write(tmp_path / "job.json")
    executor = launching.skypilot_executor(nodes=2, gpus=4, also=(tmp_path,))
    [resources] = executor.to_resources()
    assert resources.extract_docker_image() == "registry.example/workshop:1" and resources.accelerators == {"H100": 4}
    task = yaml.safe_load(launching.task_file(launching.training_script(job), executor))
    assert task["num_nodes"] == 2 and task["file_mounts"][str(tmp_path)] == str(tmp_path) and task["envs"]["WORKSHOP_PROFILE"] == "gpu"
    command = next(line for line in task["run"].splitlines() if "torchrun" in line)
    assert "--nnodes 2 --nproc-per-node 4" in command and command.rstrip().endswith(f"-m workshop_lib.nvidia.training_job {job}")
