"""Reading files of unknown origin line by line, so that no row is ever lost in silence.

Every reader here keeps one promise: what was read is either handed on or reported as a ``Skip`` with file, line and
reason (``read == kept + reported``). Notable choices:

* Files are bytes cut at ``\\n``; ``str.splitlines`` would also cut at U+0085, U+2028 and friends inside a text.
* The encoding is found by strict decoding (UTF-8, then CP949, the superset of EUC-KR that Korean Windows writes),
  never by ``errors="replace"``.
* Memory is bounded: a line over 64 MB is skipped without ever being held whole.
* Tables are split at tabs with quoting off. The csv module (and pandas) by default takes a lone ``"`` for the start
  of a quoted field and swallows the following rows; that is how KorNLI loses lines.
"""

import codecs
import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from workshop_lib import WorkshopError

MAX_LINE_BYTES = 64 * 1024 * 1024
_SAMPLE_BYTES = 1024 * 1024
# Characters that print nothing: a text made only of them is empty. U+3164 (Hangul filler) is not white space to Python.
INVISIBLE = " \t\r\n\u00a0\u00ad\u115f\u1160\u200b\u200c\u200d\u2060\u3000\u3164\ufeff\uffa0"


@dataclass(frozen=True)
class Skip:
    """A row that was read but not kept: where it stands (line counted from 1) and why."""

    path: Path
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.path} {self.line}번째 줄: {self.reason}"


@dataclass
class Loaded:
    """Rows of a data set with the account of what became of every row read.

    ``notes`` counts what was kept yet deserves a look (duplicates, repaired quotes).
    """

    rows: list[dict]
    read: int
    skipped: list[Skip]
    notes: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.read != len(self.rows) + len(self.skipped):
            raise AssertionError(f"{self.read} rows read, but {len(self.rows)} kept and {len(self.skipped)} reported")

    def summary(self) -> str:
        """Return the account in one Korean line."""
        parts = [f"읽음 {self.read:,}", f"남김 {len(self.rows):,}", f"건너뜀 {len(self.skipped):,}"]
        return " · ".join(parts + [f"{name} {count:,}" for name, count in self.notes.items()])


def report(skip: Skip, skipped: list[Skip] | None) -> None:
    """Write ``skip`` down, or raise it as an error where nobody keeps a list."""
    if skipped is None:
        raise WorkshopError(f"{skip}. 그 줄을 고치거나 지운다.")
    skipped.append(skip)


def check_file(path: Path | str) -> Path:
    """Return ``path`` if it is a file with something in it.

    Raises:
        WorkshopError: missing, a folder, empty, or not readable.
    """
    path = Path(path)
    if path.is_dir():
        raise WorkshopError(f"{path}: 파일이 아니라 폴더이다. 폴더 안의 파일 하나를 지정한다.")
    try:
        with path.open("rb") as file:
            if not file.read(1):
                raise WorkshopError(f"{path}: 빈 파일이다. 다시 내려받거나 다른 파일을 지정한다.")
    except FileNotFoundError as error:
        raise WorkshopError(f"{path}: 파일이 없다. 경로와 이름을 확인한다.") from error
    except OSError as error:
        raise WorkshopError(f"{path}: 파일을 열 수 없다({error.strerror}). 읽기 권한을 확인한다.") from error
    return path


def _decodes(raw: bytes, encoding: str, cut: bool = False) -> bool:
    """Tell whether ``raw`` is valid in ``encoding``; with ``cut``, its last character may be incomplete."""
    try:
        codecs.getincrementaldecoder(encoding)().decode(raw, final=not cut)
    except UnicodeDecodeError:
        return False
    return True


def detect_encoding(path: Path) -> str:
    """Return "utf-8" or "cp949": the one in which fewer lines of a sample fail to decode (UTF-8 wins a tie).

    The sample is the 1 MiB that begins with the first byte that is not ASCII, wherever in the file that is.

    Raises:
        WorkshopError: the file is UTF-16, or most lines of the sample decode in neither.
    """
    with Path(path).open("rb") as file:
        chunk = file.read(_SAMPLE_BYTES)
        if chunk[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise WorkshopError(f"{path}: UTF-16으로 저장된 파일이다. 편집기에서 UTF-8로 다시 저장한다.")
        while chunk.isascii():
            chunk = file.read(_SAMPLE_BYTES)
            if not chunk:
                return "utf-8"
        sample = chunk.lstrip(bytes(range(128)))
        sample += file.read(_SAMPLE_BYTES - len(sample))
        whole = not file.read(1)
    lines = sample.split(b"\n")
    failures = {encoding: sum(not _decodes(line, encoding, cut=not whole and place == len(lines))
                              for place, line in enumerate(lines, start=1) if not line.isascii())
                for encoding in ("utf-8", "cp949")}
    best = min(failures, key=failures.get)
    if 2 * failures[best] > sum(not line.isascii() for line in lines):  # a picture, too, has a line or two that decode
        raise WorkshopError(f"{path}: UTF-8로도 EUC-KR(CP949)로도 읽히지 않는다. 글 파일인지 확인하고 UTF-8로 다시 저장한다.")
    return best


def read_lines(path: Path | str, skipped: list[Skip] | None = None) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, text without its line end) of a text file in UTF-8, EUC-KR or CP949.

    A line that cannot be read (wrong bytes, a NUL byte, more than 64 MB) goes to ``skipped``.

    Raises:
        WorkshopError: missing, empty or unreadable file, a folder, neither encoding; a bad line if ``skipped`` is None.
    """
    path = check_file(path)
    encoding = detect_encoding(path)
    with path.open("rb") as file:
        number = 0
        while raw := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(raw) > MAX_LINE_BYTES and not raw.endswith(b"\n"):
                size = len(raw)
                del raw
                while piece := file.readline(_SAMPLE_BYTES):
                    size += len(piece)
                    if piece.endswith(b"\n"):
                        break
                report(Skip(path, number, f"한 줄이 {size / 2**20:,.0f} MB로 너무 길다(최대 {MAX_LINE_BYTES >> 20} MB)"), skipped)
                continue
            raw = raw.removesuffix(b"\n").removesuffix(b"\r")
            if number == 1:
                raw = raw.removeprefix(b"\xef\xbb\xbf")
            if b"\0" in raw:
                report(Skip(path, number, "NUL 바이트가 들어 있다"), skipped)
                continue
            try:
                text = raw.decode(encoding)
            except UnicodeDecodeError as error:
                report(Skip(path, number, f"{encoding.upper()}로 읽히지 않는 바이트가 {error.start + 1}번째에 있다"), skipped)
                continue
            yield number, text


def parse_json(text: str, where: str) -> object:
    """Parse JSON text. Lone surrogates, which no file could store again, are refused too.

    Raises:
        ValueError: with the reason in Korean.
    """
    try:
        value = json.loads(text)
        text.encode("utf-8")
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"{where}짝이 없는 서러게이트 문자가 있다") from error
    except json.JSONDecodeError as error:
        line = f" {error.lineno}번째 줄" if error.lineno > 1 else ""
        raise ValueError(f"{where}JSON 형식이 아니다({error.msg},{line} {error.colno}번째 글자)") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}JSON으로 읽을 수 없다(너무 깊거나 너무 긴 수가 있다)") from error
    return value


def read_json_lines(path: Path | str, skipped: list[Skip] | None = None) -> Iterator[tuple[int, dict]]:
    """Yield (line number, object) of a JSONL file. Blank lines are no rows; a broken line goes to ``skipped``."""
    for number, line in read_lines(path, skipped):
        if not line.strip():
            continue
        try:
            value = parse_json(line, "")
        except ValueError as error:
            report(Skip(Path(path), number, str(error)), skipped)
            continue
        if isinstance(value, dict):
            yield number, value
        else:
            report(Skip(Path(path), number, f"JSON 객체가 아니라 {type(value).__name__}이다"), skipped)


def read_json_array(path: Path | str) -> list:
    """Return the list in a JSON file that is one array, as KLUE's are.

    Raises:
        WorkshopError: broken JSON (with its line), another top-level value, or a bad line as in ``read_lines``.
    """
    text = "\n".join(line for _, line in read_lines(path))
    try:
        value = parse_json(text, "")
    except ValueError as error:
        raise WorkshopError(f"{path}: {error}. 파일이 끊겼을 수 있으니 다시 내려받는다.") from error
    if not isinstance(value, list):
        raise WorkshopError(f"{path}: JSON 배열이 아니라 {type(value).__name__}이다. KLUE 원본 파일인지 확인한다.")
    return value


def read_table(path: Path | str, columns: Sequence[str], skipped: list[Skip], separator: str = "\t"
               ) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (line number, {column: value}) of a table with a header line, one row a line.

    Tab-separated rows are split with quoting off. Comma-separated rows follow RFC 4180, but a row must end on its
    line: a quote left open spoils one row, not all that follow. Blank lines are rows too, and are reported.

    Raises:
        WorkshopError: the header lacks one of ``columns``.
    """
    path = Path(path)
    lines = read_lines(path, skipped)
    _, first = next(lines, (0, ""))
    header = [name.strip() for name in first.split(separator)]
    if missing := [name for name in columns if name not in header]:
        raise WorkshopError(f"{path} 1번째 줄: 머리글에 {', '.join(missing)} 열이 없다. 있는 열은 {', '.join(header)}이다. "
                            "원본 형식의 파일인지 확인한다.")
    for number, line in lines:
        if separator == "\t":
            values = line.split("\t")
        else:
            try:
                values = next(csv.reader(io.StringIO(line), delimiter=separator, strict=True), [])
            except csv.Error as error:
                report(Skip(path, number, f"따옴표가 맞지 않는다({error})"), skipped)
                continue
        if len(values) != len(header):
            report(Skip(path, number, f"열이 {len(header)}개여야 하는데 {len(values)}개이다"), skipped)
            continue
        yield number, dict(zip(header, values, strict=True))


def read_parquet(path: Path | str, column: str = "text") -> Iterator[tuple[int, str | None]]:
    """Yield (row number from 1, value of ``column``) of a Parquet file, a batch at a time.

    Raises:
        WorkshopError: not a Parquet file, or no such column.
    """
    import pyarrow
    from pyarrow import parquet

    path = check_file(path)
    try:
        with parquet.ParquetFile(path) as file:
            if column not in file.schema_arrow.names:
                raise WorkshopError(f"{path}: '{column}' 열이 없다. 있는 열은 {', '.join(file.schema_arrow.names)}이다.")
            number = 0
            for batch in file.iter_batches(batch_size=1_000, columns=[column]):
                for value in batch.column(0).to_pylist():
                    number += 1
                    yield number, value
    except (pyarrow.ArrowException, OSError) as error:
        raise WorkshopError(f"{path}: Parquet 파일로 읽을 수 없다({type(error).__name__}). 다시 내려받는다.") from error


def read_documents(path: Path | str, seed: int | None = None) -> Iterator[dict]:
    """Documents of a finished train.jsonl or validation.jsonl; in shuffled order when a seed is given.

    Only the lines' positions are held in memory.

    Raises WorkshopError for a missing or empty file or a broken line, naming file and line.
    """
    import numpy as np

    path = Path(path)
    if not path.is_file():
        raise WorkshopError(f"말뭉치 파일 {path}이(가) 없다. 앞 단계(workshop run --weeks 2)를 먼저 실행한다.")
    with path.open("rb") as file:
        starts, at = [], 0
        for line in file:
            starts.append(at)
            at += len(line)
        if not starts:
            raise WorkshopError(f"말뭉치 파일 {path}이(가) 비어 있다. 2주차의 정제 보고서에서 남은 문서 수를 확인한다.")
        order = range(len(starts)) if seed is None else np.random.default_rng(seed).permutation(len(starts)).tolist()
        for row in order:
            file.seek(starts[row])
            line = file.readline()
            if not line.strip():
                continue
            try:
                document = json.loads(line)
                if not isinstance(document["text"], str):
                    raise TypeError("text가 글이 아니다")
            except (ValueError, KeyError, TypeError) as error:
                raise WorkshopError(
                    f"{path} {row + 1}번째 줄을 문서로 읽을 수 없다({error}). 줄마다 'text'가 있는 JSON이어야 한다. "
                    "2주차 말뭉치를 다시 만든다."
                ) from error
            yield document
