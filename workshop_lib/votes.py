"""What people think of answers: thumbs up and down, and choices between two answers, kept in a SQLite file.

    vote, compare           keep one; said again about the same answer, it replaces the older one
    votes, comparisons      all of them, in order of time
    counts                  how many there are

`feedback` makes preference pairs of them.

Notable choices
- One file, `<home>/feedback/votes.sqlite`, with SQLite's rollback journal and full synchronisation: a vote that was taken is on the disk,
  whatever happens next, and a process killed in the middle leaves the file as it was. Two processes may write; one waits for the other.
- A vote is about an answer to a conversation, whoever gave it: the same words from another model are the same answer.
- The file carries a number of its own (`application_id`), so that another program's database is never written into.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from workshop_lib import WorkshopError

Messages = Sequence[Mapping[str, str]]
CHAT, COMPLETION = "chat", "completion"
CHOICES = ("first", "second", "tie")
PATIENCE = 10.0  # seconds that a writer waits for another one
OURS, VERSION = 0x574B_5350, 1  # application_id ("WKSP") and user_version
SCHEMA = """
CREATE TABLE votes (
    time REAL NOT NULL, model TEXT NOT NULL, kind TEXT NOT NULL CHECK (kind IN ('chat', 'completion')),
    messages TEXT NOT NULL, answer TEXT NOT NULL, vote INTEGER NOT NULL CHECK (vote IN (-1, 1)),
    UNIQUE (kind, messages, answer)
);
CREATE TABLE comparisons (
    time REAL NOT NULL, first_model TEXT NOT NULL, second_model TEXT NOT NULL, messages TEXT NOT NULL,
    first_answer TEXT NOT NULL, second_answer TEXT NOT NULL, choice TEXT NOT NULL CHECK (choice IN ('first', 'second', 'tie')),
    UNIQUE (messages, first_answer, second_answer)
);
"""


def file(home: Path) -> Path:
    """Where a workspace keeps its votes."""
    return Path(home) / "feedback" / "votes.sqlite"


def vote(home: Path, messages: Messages, answer: str, vote: int, model: str = "", kind: str = CHAT) -> None:
    """Keep a thumb up (1) or down (-1) on an answer to a conversation; 0 takes it back.

    messages: {"role", "content"} up to the user's last words. kind: `COMPLETION` where a base model wrote a text on.
    Raises WorkshopError for another vote, and where the file cannot be written.
    """
    if vote not in (-1, 0, 1):
        raise WorkshopError(f"표는 1(좋다), -1(나쁘다), 0(거둔다) 가운데 하나이다. 받은 값: {vote}")
    key = (kind, _text(messages), answer)
    with _open(home) as database:
        if vote:
            database.execute(
                "INSERT INTO votes (time, model, kind, messages, answer, vote) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
                "time = excluded.time, model = excluded.model, vote = excluded.vote",
                (time.time(), model, *key, vote),
            )
        else:
            database.execute("DELETE FROM votes WHERE kind = ? AND messages = ? AND answer = ?", key)


def compare(home: Path, messages: Messages, answers: tuple[str, str], choice: str, models: tuple[str, str] = ("", "")) -> None:
    """Keep which of two answers to a conversation is better: "first", "second", or "tie".

    The same two answers in the other order are the same comparison. Raises WorkshopError for another choice or an unwritable file.
    """
    if choice not in CHOICES:
        raise WorkshopError(f"고를 수 있는 것은 {', '.join(CHOICES)}이다. 받은 값: {choice}")
    if answers[0] > answers[1]:  # one order for both
        answers, models = answers[::-1], models[::-1]
        choice = {"first": "second", "second": "first"}.get(choice, choice)
    with _open(home) as database:
        database.execute(
            "INSERT INTO comparisons (time, first_model, second_model, messages, first_answer, second_answer, choice) "
            "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET time = excluded.time, first_model = excluded.first_model, "
            "second_model = excluded.second_model, choice = excluded.choice",
            (time.time(), *models, _text(messages), *answers, choice),
        )


def votes(home: Path) -> list[dict]:
    """Rows {"time", "model", "kind", "messages", "answer", "vote"} in order of time; empty where nobody has voted yet."""
    return [row | {"messages": json.loads(row["messages"])} for row in _rows(home, "votes")]


def comparisons(home: Path) -> list[dict]:
    """Rows {"time", "models", "messages", "answers", "choice"} in order of time."""
    return [
        {"time": row["time"], "models": (row["first_model"], row["second_model"]), "messages": json.loads(row["messages"]),
         "answers": (row["first_answer"], row["second_answer"]), "choice": row["choice"]}
        for row in _rows(home, "comparisons")
    ]  # fmt: skip


def counts(home: Path) -> dict[str, int]:
    """{"up", "down", "comparisons"}."""
    given = votes(home)
    up = sum(row["vote"] > 0 for row in given)
    return {"up": up, "down": len(given) - up, "comparisons": len(comparisons(home))}


def _text(messages: Messages) -> str:
    """A conversation in one form only, so that the same one is found again."""
    return json.dumps([{"role": m["role"], "content": m["content"]} for m in messages], ensure_ascii=False)


def _rows(home: Path, table: str) -> list[dict]:
    if not file(home).exists():
        return []  # looking must not make a file
    with _open(home) as database:
        found = database.execute(f"SELECT * FROM {table} ORDER BY time, rowid")
        names = [column[0] for column in found.description]
        return [dict(zip(names, row)) for row in found]


@contextlib.contextmanager
def _open(home: Path) -> Iterator[sqlite3.Connection]:
    """The database, made if need be; committed when the block ends well, left as it was otherwise."""
    path = file(home)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(path, timeout=PATIENCE)) as database:
            database.execute("PRAGMA synchronous = FULL")
            _prepare(database, path)
            with database:
                yield database
    except sqlite3.Error as error:
        raise WorkshopError(_complaint(path, error)) from error
    except OSError as error:
        raise WorkshopError(f"{path.parent} 폴더를 만들 수 없다({error.strerror}). --home 또는 WORKSHOP_HOME을 바꾼다.") from error
    except UnicodeEncodeError as error:
        raise WorkshopError("글에 글자가 아닌 유니코드 값이 있어 표를 저장할 수 없다.") from error


def _prepare(database: sqlite3.Connection, path: Path) -> None:
    """Make the tables in a new file. Raises WorkshopError for a file of another program or of a later version."""

    def number(name: str) -> int:
        return database.execute(f"PRAGMA {name}").fetchone()[0]

    if not (number("application_id") or number("schema_version")):  # an empty file
        with database:
            database.execute("BEGIN IMMEDIATE")
            if not number("schema_version"):  # nobody was quicker
                for statement in SCHEMA.split(";"):
                    database.execute(statement)
                database.execute(f"PRAGMA application_id = {OURS}")
                database.execute(f"PRAGMA user_version = {VERSION}")
    if number("application_id") != OURS:
        raise WorkshopError(f"{path}은(는) 다른 프로그램의 데이터베이스이다. 다른 곳으로 옮기고 다시 한다.")
    if number("user_version") != VERSION:
        raise WorkshopError(f"{path}은(는) 이 과정의 다른 판이 쓴 것이다(판 {number('user_version')}). 다른 곳으로 옮기고 다시 한다.")


def _complaint(path: Path, error: sqlite3.Error) -> str:
    name = getattr(error, "sqlite_errorname", "") or ""
    for start, said in (
        ("SQLITE_FULL", f"디스크가 가득 차서 표를 {path}에 저장하지 못했다. 공간을 비우고 다시 한다. 앞의 표는 그대로 있다."),
        ("SQLITE_READONLY", f"{path}에 쓸 권한이 없어 표를 저장하지 못했다. 권한을 고치거나 --home으로 다른 폴더를 쓴다."),
        ("SQLITE_CANTOPEN", f"{path}을(를) 열 수 없다. 폴더의 권한을 고치거나 --home으로 다른 폴더를 쓴다."),
        ("SQLITE_PERM", f"{path}을(를) 열 권한이 없다. 권한을 고치거나 --home으로 다른 폴더를 쓴다."),
        ("SQLITE_NOTADB", f"{path}은(는) 표를 모은 파일이 아니다. 다른 곳으로 옮기고 다시 한다."),
        ("SQLITE_CORRUPT", f"{path}이(가) 깨졌다. 다른 곳으로 옮기고 다시 한다."),
        ("SQLITE_BUSY", f"다른 프로그램이 {path}을(를) {PATIENCE:g}초 넘게 붙들고 있다. 그 프로그램을 끝내고 다시 한다."),
    ):
        if name.startswith(start):
            return said
    return f"표를 {path}에서 읽거나 쓰지 못했다({error})."
