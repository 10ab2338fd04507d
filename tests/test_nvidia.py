"""The NVIDIA path as far as it needs no NVIDIA package; the rest is in tests/nvidia (`make test-nvidia`)."""

import json
import re
import subprocess
import sys
from dataclasses import asdict
from importlib.util import find_spec

import numpy as np
import pytest

from workshop_lib import packing
from workshop_lib.nvidia import training_job
from workshop_lib.workspace import REPOSITORY

SMALL = {"steps": 2, "batch_size": 4, "context": 16, "layers": 1, "hidden_size": 16, "intermediate_size": 32, "heads": 2, "kv_heads": 1}


def test_a_job_file_trains(tmp_path):
    ids = np.random.default_rng(0).integers(0, 50, 500, dtype=np.uint16)
    ids.tofile(tmp_path / "train.bin")
    packed = packing.Packed(str(tmp_path / "train.bin"), "uint16", len(ids), 1, 1, 50)
    (tmp_path / "train.json").write_text(json.dumps(asdict(packed)), encoding="utf-8")
    job = {"tokens": str(tmp_path / "train.bin"), "record": str(tmp_path / "record.json"), "settings": SMALL, "seed": 0, "options": []}
    (tmp_path / "job.json").write_text(json.dumps(job), encoding="utf-8")
    training_job.main([str(tmp_path / "job.json")])
    assert len(json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))["losses"]) == 2


def test_the_package_and_the_job_import_no_nvidia_engine():
    code = "import sys, workshop_lib.nvidia.training_job; print([m for m in sys.modules if m.startswith(('nemo', 'ray'))])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("module, engine", [("curator", "ray"), ("launching", "nemo_run")])
def test_the_commands_say_which_python_has_their_engine(module, engine):
    if find_spec(engine):
        pytest.skip(f"{engine}이 있는 환경이다")
    done = subprocess.run([sys.executable, "-m", f"workshop_lib.nvidia.{module}"], capture_output=True, encoding="utf-8")
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and ".venv-nvidia/bin/python" in done.stderr


def test_the_engines_versions_are_pinned():
    lines = (REPOSITORY / "tests/nvidia/requirements.txt").read_text(encoding="utf-8").splitlines()
    for engine in ("torch", "nemo-curator", "nemo-run", "ray"):
        assert any(re.match(rf"{engine}(\[[\w,]+\])?==\d", line) for line in lines), engine


def test_torch_is_the_same_in_both_environments():
    pin = re.search(r"torch==[\d.]+", (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))[0]
    assert pin in (REPOSITORY / "tests/nvidia/requirements.txt").read_text(encoding="utf-8").splitlines()
