"""LLM From Scratch 워크숍: the helper package behind the ten notebooks.

One module a week, each a floor above what it imports. Importing this package loads nothing heavy;
torch, transformers and matplotlib are imported by the functions that need them.
"""

import logging
import os

__version__ = "0.1.0"

# OpenMP threads that spin while they wait make a busy laptop several times slower. Read when torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# torch's profiler (memory measurements of week 4) announces every start and stop on stderr. Read at the same moment.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")
# bitsandbytes, which transformers and PEFT load, remarks on a faster kernel that it could download.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
# torchao, which PEFT loads too, names the GPU kernels that a CPU has not, and an enumeration that torch would write otherwise.
for _name in ("torchao", "torch.utils._pytree"):
    logging.getLogger(_name).setLevel(logging.ERROR)


class WorkshopError(ValueError):
    """Something the learner can mend. The message is Korean: the value, the file and line, and what to do."""
