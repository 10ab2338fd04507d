"""The models that a demo can talk to, each behind a server of its own, which is started when it is first asked for."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from workshop_lib import WorkshopError
from workshop_lib.chat_client import connect

if TYPE_CHECKING:
    from openai import OpenAI

    from workshop_lib.local_server import LocalServer
    from workshop_lib.segmentation import Segmenter

BASE = "base_model"
OF_THE_COURSE = {  # where in a workspace a model stands, and how it is called
    "alignment": "정렬한 모델", "feedback/model": "피드백으로 다시 맞춘 모델", "alignment/sft": "SFT만 한 모델", BASE: "기본 모델",
}  # fmt: skip
ALIGNED, FEEDBACK = OF_THE_COURSE["alignment"], OF_THE_COURSE["feedback/model"]


@dataclass(frozen=True)
class Talker:
    """A model that answers: its client, the name to ask for, and, where its tokenizer is known, how it cuts a text."""

    label: str
    client: OpenAI
    model: str
    segmenter: Segmenter | None = None


def of_workspace(home: Path) -> dict[str, Path]:
    """Label → folder of the models that a workspace holds, those that can chat best first."""
    return {label: home / place for place, label in OF_THE_COURSE.items() if (home / place / "config.json").is_file()}


def source(where: str) -> Path | str:
    """What `--compare` names: an address, or a model folder. Raises WorkshopError for a folder without a model."""
    if "://" in where:
        return where
    folder = Path(where).expanduser()
    if not (folder / "config.json").is_file():
        raise WorkshopError(f"--compare의 {where}은(는) 모델 폴더가 아니다(config.json이 없다). 폴더나 http://로 시작하는 주소를 쓴다.")
    return folder


class Talkers:
    """Label → model folder, or address of a server with /v1. `close` ends every server that was started."""

    def __init__(self, sources: Mapping[str, Path | str], key: str = "none"):
        self._sources, self._key = dict(sources), key
        self._talking: dict[str, Talker] = {}
        self._stacks: dict[str, contextlib.ExitStack] = {}
        self._servers: dict[str, LocalServer] = {}
        self._lock = threading.Lock()

    @property
    def labels(self) -> list[str]:
        """In the order in which a menu shows them."""
        return list(self._sources)

    def add(self, label: str, talker: Talker) -> None:
        """One that talks already, put first; its owner closes it."""
        self._sources = {label: talker.model} | self._sources
        self._talking[label] = talker

    def renew(self, label: str, folder: Path) -> None:
        """The model under this label is another one now."""
        with self._lock:
            self._stop(label)
            self._sources[label] = folder

    def started(self, label: str) -> bool:
        """Whether it talks already, so that nobody need wait."""
        return label in self._talking

    def get(self, label: str) -> Talker:
        """The one of this label, started if need be, or again where its server has died. Raises WorkshopError where it cannot be had."""
        if label not in self._sources:
            raise WorkshopError(f"'{label}' 모델은 없다. 있는 모델: {', '.join(self._sources)}")
        with self._lock:
            if label in self._servers and self._servers[label].process.poll() is not None:
                self._stop(label)
            if label not in self._talking:
                with contextlib.ExitStack() as stack:
                    self._talking[label] = self._start(label, self._sources[label], stack)
                    self._stacks[label] = stack.pop_all()
            return self._talking[label]

    def _start(self, label: str, source: Path | str, stack: contextlib.ExitStack) -> Talker:
        if isinstance(source, str):
            client, model = connect(source, key=self._key)
            return Talker(label, stack.enter_context(client), model)
        from workshop_lib import local_server

        name = "feedback" if label == FEEDBACK else None
        server = stack.enter_context(local_server.running(source, name=name))
        self._servers[label] = server
        client = stack.enter_context(server.client(timeout=120.0, max_retries=0))
        return Talker(label, client, server.model, segmenter(source))

    def _stop(self, label: str) -> None:
        self._talking.pop(label, None)
        self._servers.pop(label, None)
        if stack := self._stacks.pop(label, None):
            stack.close()

    def close(self) -> None:
        """End every server that was started here."""
        with self._lock:
            for label in list(self._talking):
                self._stop(label)


def segmenter(folder: Path) -> Segmenter:
    """How the tokenizer of a model folder cuts a text."""
    from workshop_lib.segmentation import from_pretrained
    from workshop_lib.tokenization import load

    return from_pretrained(Path(folder).name, load(Path(folder)))
