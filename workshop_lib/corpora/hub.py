"""Bringing the public sets from the Hugging Face Hub into a data folder, in their original file formats.

``workshop data get`` ends here. What is written is what ``public`` reads, so a folder filled by hand and one filled
from the Hub are the same thing. A file appears under its name only when it is complete.
"""

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from urllib.request import getproxies

from workshop_lib import WorkshopError
from workshop_lib.environment import online

WIKIPEDIA_DOCUMENTS = 20_000  # of some 650,000: plenty for a laptop
_UNREACHABLE = ("허브에서 {name} 자료를 받지 못했다({why}). 네트워크 연결을 확인하고 다시 실행한다. "
                "네트워크가 없어도 강의에 딸린 말뭉치로 모든 주를 할 수 있다.")
NLI_LABELS = ("entailment", "neutral", "contradiction")  # the order of the Hub's class numbers


def download(data_dir: Path | str, sets: Iterable[str] = ("nsmc", "klue", "kobest"), load: Callable | None = None) -> list[Path]:
    """Fetch the named sets ("nsmc", "klue", "kobest", "wikipedia") and return the files written.

    Files that are already there are left alone. ``load`` stands for ``datasets.load_dataset``.

    Raises:
        WorkshopError: unknown set, no network, or a set whose columns are not the expected ones.
    """
    data_dir = Path(data_dir)
    sets = list(sets)
    if unknown := [name for name in sets if name not in _PARTS]:
        raise WorkshopError(f"'{unknown[0]}'이라는 자료는 모른다. 다음 가운데 고른다: {', '.join(_PARTS)}")
    if data_dir.exists() and not data_dir.is_dir():
        raise WorkshopError(f"{data_dir}: 폴더가 아니라 파일이다. 자료를 둘 폴더를 지정한다.")
    wanted = [(data_dir / file, arguments, write) for name in sets for file, arguments, write in _PARTS[name]]
    missing = [part for part in wanted if not part[0].exists()]
    if missing and load is None:
        # Asked here, for the Hub's client would try again for a minute. With a proxy, a mirror or a cache only it can know.
        if not (getproxies() or {"HF_ENDPOINT", "HF_HUB_OFFLINE"} & os.environ.keys() or online()):
            raise WorkshopError(_UNREACHABLE.format(name=missing[0][1][0], why="huggingface.co에 닿지 않는다"))
        from datasets import load_dataset as load
    written = []
    for path, arguments, write in missing:
        print(f"{arguments[0]} → {path}")
        try:
            rows = load(*arguments[:-1], **arguments[-1])
        except Exception as error:  # datasets, huggingface_hub and requests each have their own kinds
            raise WorkshopError(_UNREACHABLE.format(name=arguments[0], why=type(error).__name__)) from error
        _write(path, lambda rows=rows, write=write: write(rows), arguments[0])
        written.append(path)
    return written


def _write(path: Path, lines: Callable[[], Iterable[str]], name: str) -> None:
    """Write the lines to a temporary file and give it its name at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        with part.open("w", encoding="utf-8", newline="") as file:
            file.writelines(lines())
        os.replace(part, path)
    except KeyError as error:
        raise WorkshopError(f"{name}: 허브의 자료에 {error} 열이 없다. 자료의 형식이 바뀌었으니 강의 저장소의 새 판을 받는다.") from error
    except OSError as error:
        raise WorkshopError(f"{path}: 쓰지 못했다({error.strerror}). 남은 디스크 공간과 쓰기 권한을 확인한다.") from error
    finally:
        part.unlink(missing_ok=True)


def _cell(value: object) -> str:
    """A table cell: a tab or line break inside would make two cells or rows of it."""
    return " ".join(str("" if value is None else value).replace("\t", " ").splitlines())


def _nsmc(rows: Iterable[dict]) -> Iterable[str]:
    yield "id\tdocument\tlabel\n"
    for row in rows:
        yield f"{_cell(row['id'])}\t{_cell(row['document'])}\t{_cell(row['label'])}\n"


def _boolq(rows: Iterable[dict]) -> Iterable[str]:
    yield "ID\tText\tQuestion\tAnswer\r\n"
    for number, row in enumerate(rows, start=1):
        yield f"{number}\t{_cell(row['paragraph'])}\t{_cell(row['question'])}\t{bool(row['label'])}\r\n"


def _array(convert: Callable[[dict], dict]) -> Callable[[Iterable[dict]], Iterable[str]]:
    def lines(rows: Iterable[dict]) -> Iterable[str]:
        yield json.dumps([convert(row) for row in rows], ensure_ascii=False, indent=4) + "\n"

    return lines


def _nli(origin: str) -> Callable[[dict], dict]:
    """The original files call the origin of a premise ``genre`` in train and ``source`` in dev."""
    return lambda row: {"guid": row["guid"], origin: row["source"], "premise": row["premise"], "hypothesis": row["hypothesis"],
                        "gold_label": NLI_LABELS[row["label"]]}


def _sts(row: dict) -> dict:
    return {key: row[key] for key in ("guid", "source", "sentence1", "sentence2", "labels")}


def _ynat(row: dict) -> dict:
    from workshop_lib.corpora.public import TOPICS

    return {"guid": row["guid"], "title": row["title"], "label": TOPICS[row["label"]]}


def _wikipedia(rows: Iterable[dict]) -> Iterable[str]:
    for number, row in enumerate(rows):
        if number == WIKIPEDIA_DOCUMENTS:
            return
        yield json.dumps({"text": row["text"], "source": "wikipedia", "title": row["title"]}, ensure_ascii=False) + "\n"


def _part(file: str, *arguments: str, write: Callable, **options: object) -> tuple[str, tuple, Callable]:
    return file, (*arguments, options), write


_PARTS = {
    "nsmc": [_part(f"nsmc/ratings_{split}.txt", "e9t/nsmc", revision="refs/convert/parquet", split=split, write=_nsmc)
             for split in ("train", "test")],
    "klue": [_part("klue/klue-nli-v1.1_train.json", "klue/klue", "nli", split="train", write=_array(_nli("genre"))),
             _part("klue/klue-nli-v1.1_dev.json", "klue/klue", "nli", split="validation", write=_array(_nli("source"))),
             _part("klue/klue-sts-v1.1_train.json", "klue/klue", "sts", split="train", write=_array(_sts)),
             _part("klue/klue-sts-v1.1_dev.json", "klue/klue", "sts", split="validation", write=_array(_sts)),
             _part("klue/ynat-v1.1_train.json", "klue/klue", "ynat", split="train", write=_array(_ynat)),
             _part("klue/ynat-v1.1_dev.json", "klue/klue", "ynat", split="validation", write=_array(_ynat))],
    "kobest": [_part(f"kobest/BoolQ_{name}.tsv", "skt/kobest_v1", "boolq", split=split, write=_boolq)
               for name, split in (("train", "train"), ("dev", "validation"), ("test", "test"))],
    "wikipedia": [_part("prose/wikipedia.jsonl", "wikimedia/wikipedia", "20231101.ko", split="train", streaming=True, write=_wikipedia)],
}
