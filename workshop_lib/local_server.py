"""`workshop serve` as a process of its own, for a notebook or a test.

The process watches a pipe that only its parent holds, and ends with it, however the parent ends.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from workshop_lib import WorkshopError
from workshop_lib.serving import READY

if TYPE_CHECKING:
    from openai import OpenAI


@dataclass
class LocalServer:
    """A `workshop serve` in a process of its own. url: its address, with /v1; model: the name to ask for."""

    url: str
    model: str
    process: subprocess.Popen
    log: IO[str]

    @property
    def pid(self) -> int:
        """Its process number."""
        return self.process.pid

    def client(self, **options) -> "OpenAI":
        """The official client, pointed here."""
        import openai

        return openai.OpenAI(base_url=self.url, api_key="none", **options)

    def metrics(self) -> str:
        """The text of /metrics."""
        with urllib.request.urlopen(self.url.removesuffix("/v1") + "/metrics", timeout=10) as answer:
            return answer.read().decode("utf-8")

    def said(self) -> str:
        """What the server has written to stderr so far."""
        self.log.seek(0)
        return self.log.read()

    def stop(self) -> None:
        """Ends the process; called again, it does nothing."""
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


def start(
    folder: Path | str, *, max_batch: int = 8, queue: int = 64, timeout: float = 60.0, name: str | None = None, patience: float = 120.0
) -> LocalServer:
    """`workshop serve` on a free port of this machine; returns when it answers. It ends with `stop`, and with this process at the latest.

    Raises WorkshopError, with the server's own words, when it does not come up within `patience` seconds.
    """
    folder = Path(folder).resolve()
    command = [
        sys.executable, "-m", "workshop_lib.cli", "serve", "--model", str(folder), "--port", "0", "--max-batch", str(max_batch),
        "--queue", str(queue), "--timeout", str(timeout), "--end-with-stdin", *(["--name", name] if name else []),
    ]  # fmt: skip
    log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - lives as long as the server
    # A session of its own: interrupting a notebook's cell interrupts all of the kernel's session, and must not stop the server.
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, encoding="utf-8",
                               env=os.environ | {"PYTHONIOENCODING": "utf-8"}, start_new_session=True)  # fmt: skip
    impatient = threading.Timer(patience, process.kill)
    impatient.start()
    server = LocalServer("", name or folder.name, process, log)
    try:
        server.url = next((line.removeprefix(READY).strip() for line in process.stdout if line.startswith(READY)), "")
    finally:
        impatient.cancel()
        if not server.url:
            server.stop()
    if not server.url:
        said = server.said()[-600:].strip().removeprefix("오류: ")
        raise WorkshopError(said or f"서버가 {patience:g}초 안에 뜨지 않았다. 기계가 바쁘면 patience를 늘린다.")
    return server


@contextlib.contextmanager
def running(folder: Path | str, **options) -> Iterator[LocalServer]:
    """`start` for the length of a with block."""
    server = start(folder, **options)
    try:
        yield server
    finally:
        server.stop()
