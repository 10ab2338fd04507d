"""A submitted notebook as data: its top-level statements, and what an exercise's function needs of them.

A student's notebook cannot simply be run to be graded: it trains models, some of its cells fail, its check cells may be gone. Here it is
read without running anything. `needed` finds the function that was written for an exercise and, from the names that it uses, the imports,
helpers and constants that it stands on, wherever in the notebook they are. What a name means is asked of Python's own `symtable`, so
that a local variable called `text` does not bring in the cell that trains a model.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
import symtable
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from workshop_lib import WorkshopError
from workshop_lib.notebooks import DEFINITION

CHECK_IMPORT = re.compile(r"workshop_lib\.exercises\.week(\d\d)\b")
CELL_ID = re.compile(r"w(\d\d)-")  # the course's own cells: Jupyter keeps their ids
NOT_PYTHON = re.compile(r"^(\s*)(?:[%!?].*|.*\?\s*)$", re.MULTILINE)  # magics, shell commands, questions
FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef
LATE = FUNCTION | ast.ClassDef  # looks its names up when it is called, and not where it stands
PLAIN = LATE | ast.Assign | ast.AnnAssign | ast.Import | ast.ImportFrom  # binds its names for sure, and not only on some branch


@dataclass(frozen=True)
class Statement:
    """A top-level statement: the names that it reads, those that it binds, and those whose value it only alters (t[k] = v, n += 1)."""

    node: ast.stmt
    cell: int  # among the code cells, from 1
    reads: frozenset[str]
    binds: frozenset[str]
    alters: frozenset[str]

    def answers(self, name: str) -> bool:
        """Whether it defines a function: by def, lambda or another name; `f = check(f)` does not."""
        named = isinstance(self.node, ast.Assign) and isinstance(self.node.value, ast.Lambda | ast.Name)
        return name in self.binds and (named or isinstance(self.node, FUNCTION))


@dataclass
class Submission:
    """A notebook's statements in order, the cells that could not be read (number → why), and the functions in these (name → number).

    week: by its cells' ids and its import of `check`, for students rename files; None for no notebook of this course.
    """

    statements: list[Statement] = field(default_factory=list)
    broken: dict[int, str] = field(default_factory=dict)
    broken_names: dict[str, int] = field(default_factory=dict)
    week: int | None = None

    def answer(self, name: str) -> int | None:
        """Index of the statement that defines an exercise's function: the last that is not the untouched stub; None without one."""
        found = [index for index, statement in enumerate(self.statements) if statement.answers(name)]
        return next((i for i in reversed(found) if not is_stub(self.statements[i].node)), found[-1] if found else None)

    def needed(self, name: str, given: Iterable[str], exercises: Iterable[str]) -> list[int]:
        """Indices, in order, of the statements that define an exercise's function and all that it uses. The exercise must have an answer.

        given: names that somebody else supplies (the reference, for an exercise that this student got wrong). exercises: the week's
        names, which only an answer defines.
        """
        root = self.answer(name)
        given, exercises = {*given, "check"}, set(exercises)
        waiting, chosen = [root], {i for i, statement in enumerate(self.statements) if "*" in statement.binds}
        while waiting:
            index = waiting.pop()
            if index in chosen:
                continue
            chosen.add(index)
            statement = self.statements[index]
            for wanted in statement.reads - given:
                if wanted in exercises:
                    waiting += [] if (other := self.answer(wanted)) is None else [other]
                else:
                    waiting += self._bindings(wanted, max(root, index) if isinstance(statement.node, LATE) else index - 1)
        return sorted(chosen)

    def _bindings(self, name: str, last: int) -> list[int]:
        """What gives a name its value up to statement `last`: the last plain binding and what alters it after; else the next binding."""
        found = []
        for index in range(last, -1, -1):
            statement = self.statements[index]
            if name in statement.binds and isinstance(statement.node, PLAIN):
                # torch.manual_seed(0) does not make another torch.
                changing = isinstance(statement.node, ast.Assign | ast.AnnAssign)
                return [index, *(i for i in found if changing or name in self.statements[i].binds - self.statements[i].alters)]
            if name in statement.binds | statement.alters:
                found.append(index)
        return found or [i for i in range(last + 1, len(self.statements)) if name in self.statements[i].binds][:1]


def read(path: Path) -> Submission:
    """Read a notebook file. Raises WorkshopError when it is empty or no notebook; a broken cell is noted, not raised."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        cells = json.loads(text)["cells"] if text.strip() else None
        sources = ["".join(cell["source"]) for cell in cells or [] if cell["cell_type"] == "code"]
        ids = [str(cell.get("id", "")) for cell in cells or []]
    except OSError as error:
        raise WorkshopError(f"파일을 읽을 수 없다({error.strerror}).") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:  # of JSON, of UTF-8, of what a notebook is made of
        raise WorkshopError(f"노트북 파일이 아니거나 깨졌다({type(error).__name__}).") from error
    if cells is None:
        raise WorkshopError("빈 파일이다.")
    submission = Submission()
    weeks = [int(match[1]) for name in ids if (match := CELL_ID.match(name))]
    weeks += 10 * [int(week) for source in sources for week in CHECK_IMPORT.findall(source)]
    best = max(weeks, key=weeks.count, default=0)
    submission.week = best if 1 <= best <= 10 and weeks.count(best) >= 3 else None
    for number, source in enumerate(sources, 1):
        try:
            submission.statements += [_statement(node, number) for node in _parse(source)]
        except SyntaxError as error:
            submission.broken[number] = f"문법 오류: {error.lineno}번째 줄, {error.msg}"
        except (RecursionError, MemoryError, ValueError) as error:  # thousands of brackets, a null byte
            submission.broken[number] = f"읽을 수 없는 셀: {type(error).__name__}"
        if number in submission.broken:
            submission.broken_names |= dict.fromkeys(DEFINITION.findall(source), number)
    return submission


def is_stub(node: ast.stmt) -> bool:
    """Whether a function is as the student edition gives it: nothing but a docstring and `raise NotImplementedError`."""
    if not isinstance(node, FUNCTION) or len(body := _body(node)) != 1 or not isinstance(body[0], ast.Raise):
        return False
    return body[0].exc is not None and ast.unparse(body[0].exc).startswith("NotImplementedError")


def fingerprint(node: ast.stmt) -> str | None:
    """What stays of a function without comments, docstring, annotations and its own choice of names, as a hash.

    None for what says nothing about copying: a stub, an answer of one line, anything that is no function.
    """
    if not isinstance(node, FUNCTION) or is_stub(node):
        return None
    copy = ast.parse(ast.unparse(node)).body[0]
    bound: dict[str, str] = {}  # the names that the function itself gives, numbered as they come
    for inner in ast.walk(copy):
        if isinstance(inner, FUNCTION):
            inner.body, inner.returns, inner.decorator_list = _body(inner) or [ast.Pass()], None, []
        elif isinstance(inner, ast.arg):
            inner.annotation = None
        own = isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store) and inner.id
        if name := own or getattr(inner, "arg" if isinstance(inner, ast.arg) else "name", None):
            bound.setdefault(name, f"v{len(bound)}")
    if len(ast.unparse(ast.Module(copy.body, [])).splitlines()) < 2:
        return None
    for inner in ast.walk(copy):
        for key in ("id", "arg", "name"):
            if not isinstance(inner, ast.keyword | ast.alias) and getattr(inner, key, None) in bound:
                setattr(inner, key, bound[getattr(inner, key)])
    return hashlib.sha256(ast.dump(copy).encode()).hexdigest()


def _body(node: FUNCTION) -> list[ast.stmt]:
    return node.body[ast.get_docstring(node, clean=False) is not None :]


def _parse(source: str) -> list[ast.stmt]:
    try:
        return ast.parse(source).body
    except SyntaxError:
        return ast.parse(NOT_PYTHON.sub(r"\1pass", source)).body


def _statement(node: ast.stmt, cell: int) -> Statement:
    table = symtable.symtable(ast.unparse(node), "<cell>", "exec")
    symbols = table.get_symbols()
    reads = {symbol.get_name() for symbol in symbols if symbol.is_referenced()}
    binds = {symbol.get_name() for symbol in symbols if symbol.is_assigned() or symbol.is_imported() or symbol.is_namespace()}
    inner = list(table.get_children())
    while inner:
        scope = inner.pop()
        reads |= {symbol.get_name() for symbol in scope.get_symbols() if symbol.is_global()}
        inner += scope.get_children()
    alters = {_root(part.target) for part in ast.walk(node) if isinstance(part, ast.AugAssign)}
    places = (part for part in ast.walk(node) if isinstance(part, ast.Attribute | ast.Subscript))
    alters |= {_root(place) for place in places if isinstance(place.ctx, ast.Store)}
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and isinstance(node.value.func, ast.Attribute):
        alters.add(_root(node.value.func))  # words.append(word)
    alters = set() if isinstance(node, LATE) else alters - {""}  # a function alters nothing before it is called
    if isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
        binds = {"*"}
    return Statement(node, cell, frozenset(reads | alters), frozenset(binds), frozenset(alters))


def _root(node: ast.AST) -> str:
    """The name at the left end of a.b[c].d, or "" """
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""
