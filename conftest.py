"""The ground that every test stands on: no network, a workspace of its own, no progress bars, Ctrl-C as usual."""

import os
import signal
import sys
import tempfile
from pathlib import Path

OFFLINE = str(Path(__file__).parent / "tests" / "offline")
WORKSPACE = tempfile.TemporaryDirectory(prefix="workshop-test-")

os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [OFFLINE, os.environ.get("PYTHONPATH")]))
os.environ.update(
    WORKSHOP_HOME=WORKSPACE.name, WORKSHOP_PROFILE="tiny", TQDM_DISABLE="1", HF_HUB_DISABLE_PROGRESS_BARS="1",
    HF_HUB_OFFLINE="1", OMP_WAIT_POLICY="PASSIVE",
)  # fmt: skip
os.environ.pop("WORKSHOP_DATA", None)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job hands down "ignore", also to what tests start
if sys.modules.get("sitecustomize") is None or sys.modules["sitecustomize"].__file__ != str(Path(OFFLINE, "sitecustomize.py")):
    sys.modules.pop("sitecustomize", None)
    sys.path.insert(0, OFFLINE)
    import sitecustomize  # noqa: F401
