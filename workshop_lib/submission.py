"""A submitted notebook as data: its top-level statements, and what an exercise's function needs of them.

A student's notebook cannot simply be run to be graded: it trains models, some of its cells fail, and its check cells may be gone.
Here it is read without running anything. `Submission.needed` finds the function that the student wrote for an exercise and, from the
names that it uses, the imports, helpers and constants that it stands on, wherever in the notebook they are.

Notable choices
- What a name means is asked of Python's own `symtable`, so a local variable called `text` does not bring in a cell that trains a model.
- Where an exercise is defined more than once, the last definition that is not the untouched stub counts.
- Answers are compared by their syntax tree: without comments, docstrings, annotations, and with local names numbered.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
import symtable
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from workshop_lib import WorkshopError
from workshop_lib.notebooks import DEFINITION

WEEK_NAME = re.compile(r"week[\s_-]?(\d{1,2})|(\d{1,2})\s*주", re.IGNORECASE)
CHECK_IMPORT = re.compile(r"workshop_lib\.exercises\.week(\d\d)\b|workshop_lib\.exercises import .*\bweek(\d\d)\b")
CELL_ID = re.compile(r"w(\d\d)-")  # the course's own cells: Jupyter keeps their ids
RUN_AS_IT_IS = re.compile(r"%%(?:time|timeit|capture|prun)\b")  # cell magics whose cell is Python all the same
SHORTEST_ANSWER = 2  # lines: two students who both wrote the only sensible line have not copied


@dataclass(frozen=True)
class Statement:
    """A top-level statement of a code cell. `reads` and `binds`: the notebook's names that it uses and defines."""

    node: ast.stmt
    cell: int  # among the code cells, from 1
    reads: frozenset[str]
    binds: frozenset[str]
    changes: frozenset[str]  # names whose value it alters without binding them: table[k] = v, words.append(w), n += 1

    @property
    def source(self) -> str:
        """The statement as Python code."""
        return ast.unparse(self.node)


@dataclass
class Submission:
    """The statements of a notebook in order, and the cells that could not be read (number among code cells → why)."""

    statements: list[Statement] = field(default_factory=list)
    broken: dict[int, str] = field(default_factory=dict)
    broken_names: dict[str, int] = field(default_factory=dict)  # functions whose definition stands in such a cell
    votes: dict[int, int] = field(default_factory=dict)  # week → how much speaks for it

    def answer(self, name: str) -> int | None:
        """Index of the statement that defines an exercise's function, or None."""
        found = [i for i, s in enumerate(self.statements) if name in s.binds and _is_answer(s.node)]
        return next((i for i in reversed(found) if not is_stub(self.statements[i].node)), found[-1] if found else None)

    def needed(self, name: str, given: Iterable[str] = (), exercises: Iterable[str] = ()) -> list[int]:
        """Indices, in order, of the statements that define an exercise's function and all that it uses.

        `given`: names that somebody else supplies (the reference of an exercise that this student got wrong). `exercises`: the week's
        names, which only an answer defines: `merge_pair = check(merge_pair)` does not. Raises KeyError without an answer.
        """
        root = self.answer(name)
        if root is None:
            raise KeyError(name)
        given, exercises = {*given, "check"}, set(exercises)
        chosen: set[int] = {i for i, s in enumerate(self.statements) if "*" in s.binds}
        waiting, seen = [root], {(name, root)}
        while waiting:
            index = waiting.pop()
            if index in chosen and index != root:
                continue
            chosen.add(index)
            statement = self.statements[index]
            # A function looks its names up when it is called; any other statement, where it stands.
            defines = isinstance(statement.node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            limit = max(root, index) if defines else index
            for wanted in statement.reads - given:
                if wanted in exercises:
                    found = [] if wanted == name or (other := self.answer(wanted)) is None else [other]
                else:
                    found = self._bindings(wanted, limit, index)
                waiting += [i for i in found if (wanted, i) not in seen]
                seen |= {(wanted, i) for i in found}
        return sorted(chosen)

    def _bindings(self, name: str, limit: int, asking: int) -> list[int]:
        """What gives `name` its value before statement `limit`: the last plain binding and what alters it after; else the first later."""
        found = []
        for index in range(limit, -1, -1):
            statement = self.statements[index]
            if index == asking or name not in statement.binds | statement.changes:
                continue
            found.append(index)
            if name in statement.binds and name not in statement.changes and _is_plain(statement.node):
                if isinstance(statement.node, ast.Assign | ast.AnnAssign):
                    return found
                return [i for i in found if name in self.statements[i].binds]  # torch.manual_seed(0) does not make another torch
        later = (i for i in range(limit + 1, len(self.statements)) if name in self.statements[i].binds)
        return found or list(later)[:1]

    def calls_reference(self, name: str, indices: Iterable[int], reference: str) -> bool:
        """Whether the answer to `name` leaves the work to the library's own function, called `reference` there."""
        working = [s for i in indices if not isinstance((s := self.statements[i]).node, ast.Import | ast.ImportFrom)]
        imported = _from_library(self.statements[i].node for i in indices)
        own = {bound for statement in working for bound in statement.binds}
        for statement in working:
            shadowed = own - _from_library([statement.node]).keys()  # an import inside the function comes before what is outside
            for node in ast.walk(statement.node):
                if isinstance(node, ast.Name) and imported.get(node.id) == reference and node.id not in shadowed:
                    return True
                if isinstance(node, ast.Attribute) and node.attr == reference and _root(node) in imported.keys() - shadowed:
                    return True
                if isinstance(node, ast.Attribute) and node.attr == "reference" and imported:
                    return True
        return False


def read(path: Path) -> Submission:
    """Read a notebook file. Raises WorkshopError when it is empty or no notebook; a broken cell is noted, not raised."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise WorkshopError("UTF-8이 아니어서 읽을 수 없다. 다시 저장해 낸다.") from error
    except OSError as error:
        raise WorkshopError(f"파일을 읽을 수 없다({error.strerror}).") from error
    if not text.strip():
        raise WorkshopError("빈 파일이다.")
    try:
        cells = json.loads(text)["cells"]
        code = [cell for cell in cells if cell["cell_type"] == "code"]
        sources = ["".join(cell["source"]) for cell in code]
    except (json.JSONDecodeError, KeyError, TypeError, RecursionError) as error:
        raise WorkshopError(f"노트북 파일이 아니거나 깨졌다({type(error).__name__}).") from error
    submission = Submission()
    for cell in cells:
        if match := CELL_ID.match(str(cell.get("id", ""))):
            _vote(submission, int(match[1]), 1)
    for number, source in enumerate(sources, 1):
        for match in CHECK_IMPORT.finditer(source):
            _vote(submission, int(match[1] or match[2]), 10)
        _add_cell(submission, number, source)
    return submission


def week_of(submission: Submission, names: Callable[[int], set[str]]) -> int | None:
    """The week that a notebook belongs to: by its cells' ids and its import of `check`, else by the exercises that it defines; or None.

    names: the exercises of a week. The file's name does not count: students rename files.
    """
    best = max(submission.votes, key=submission.votes.get, default=0)
    if submission.votes.get(best, 0) >= 3 and 1 <= best <= 10:
        return best
    defined = {name for s in submission.statements for name in s.binds if _is_answer(s.node)} | submission.broken_names.keys()
    shares = {week: len(defined & own) / len(own) for week in range(1, 11) if (own := names(week))}
    best = max(shares, key=shares.get, default=0)
    return best if shares.get(best, 0) >= 0.5 else None


def week_in_name(name: str) -> int | None:
    """The week that a file's name speaks of (week03_tokenizer, 3주차), or None."""
    match = WEEK_NAME.search(name)
    week = int(match[1] or match[2]) if match else 0
    return week if 1 <= week <= 10 else None


def is_stub(node: ast.stmt) -> bool:
    """Whether a definition is as the student edition gives it: a docstring and `raise NotImplementedError`, `...` or `pass`."""
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return False
    body = _without_docstring(node.body)
    if not body or isinstance(body[-1], ast.Pass) or (isinstance(body[-1], ast.Expr) and isinstance(body[-1].value, ast.Constant)):
        return len(body) <= 1
    if len(body) != 1 or not isinstance(body[0], ast.Raise):
        return False
    raised = body[0].exc.func if isinstance(body[0].exc, ast.Call) else body[0].exc
    return isinstance(raised, ast.Name) and raised.id == "NotImplementedError"


def fingerprint(node: ast.stmt) -> str | None:
    """What stays of a function when comments, docstring, annotations and its own local names are taken away, as a hash.

    None for what says nothing about copying: a stub, an answer of one line, anything that is no function.
    """
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or is_stub(node):
        return None
    copy = ast.parse(ast.unparse(node)).body[0]
    for inner in ast.walk(copy):
        if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
            inner.body, inner.returns, inner.decorator_list = _without_docstring(inner.body) or [ast.Pass()], None, []
        elif isinstance(inner, ast.arg):
            inner.annotation = None
    if len(ast.unparse(ast.Module(copy.body, [])).splitlines()) < SHORTEST_ANSWER:
        return None
    _Renamed(copy).visit(copy)
    return hashlib.sha256(ast.dump(copy).encode()).hexdigest()


class _Renamed(ast.NodeTransformer):
    """Numbers the names that a function binds, in the order in which they come."""

    def __init__(self, function: ast.AST):
        bound: list[str] = []
        for node in ast.walk(function):
            if isinstance(node, ast.arg):
                bound.append(node.arg)
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or (isinstance(node, ast.ExceptHandler) and node.name):
                bound.append(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                bound.append(node.id)
        self.names = {name: f"v{number}" for number, name in enumerate(dict.fromkeys(bound))}

    def visit_Name(self, node: ast.Name) -> ast.Name:
        node.id = self.names.get(node.id, node.id)
        return node

    def visit_arg(self, node: ast.arg) -> ast.arg:
        node.arg = self.names[node.arg]
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        self.generic_visit(node)
        return ast.Assign([node.target], node.value, lineno=0) if node.value else ast.Pass()

    def visit_FunctionDef(self, node):
        node.name = self.names.get(node.name, node.name)
        return self.generic_visit(node)

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_ExceptHandler(self, node):
        node.name = self.names.get(node.name, node.name)
        return self.generic_visit(node)


def _add_cell(submission: Submission, number: int, source: str) -> None:
    source, broken = _python(source), None
    try:
        tree = ast.parse(source) if source else ast.Module([], [])
        submission.statements += [_statement(node, number) for node in tree.body]
        return
    except SyntaxError as error:
        broken = f"문법 오류: {error.lineno}번째 줄, {error.msg}"
    except (RecursionError, MemoryError, ValueError) as error:  # thousands of brackets, a null byte
        broken = f"읽을 수 없는 셀: {type(error).__name__}"
    submission.broken[number] = broken
    submission.broken_names |= {name: number for name in DEFINITION.findall(source)}


def _python(source: str) -> str:
    """A cell without the notebook's own words: magics, shell commands, questions."""
    if source.lstrip().startswith("%%"):
        first, _, rest = source.lstrip().partition("\n")
        source = rest if RUN_AS_IT_IS.match(first) else ""
    try:
        ast.parse(source)
        return source
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        kept = (re.sub(r"^(\s*)(?:[%!].*|\?.*|.*\?\s*)$", r"\1pass", line) for line in source.splitlines())
        return "\n".join(kept)


def _statement(node: ast.stmt, cell: int) -> Statement:
    table = symtable.symtable(ast.unparse(node), "<cell>", "exec")
    reads = {s.get_name() for s in table.get_symbols() if s.is_referenced()}
    binds = {s.get_name() for s in table.get_symbols() if s.is_assigned() or s.is_imported() or s.is_namespace()}
    inner = list(table.get_children())
    while inner:
        scope = inner.pop()
        reads |= {s.get_name() for s in scope.get_symbols() if s.is_global()}
        inner += scope.get_children()
    changes = set()
    for part in ast.walk(node):
        if isinstance(part, ast.AugAssign) and isinstance(part.target, ast.Name):
            changes.add(part.target.id)
        elif isinstance(part, ast.Attribute | ast.Subscript) and not isinstance(part.ctx, ast.Load):
            changes.add(_root(part))
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and isinstance(node.value.func, ast.Attribute):
        changes.add(_root(node.value.func))
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        changes = set()  # not before it is called
    if isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
        binds = {"*"}
    return Statement(node, cell, frozenset(reads | changes - {None}), frozenset(binds), frozenset(changes - {None}))


def _from_library(nodes: Iterable[ast.AST]) -> dict[str, str]:
    """What is imported from this package, in a function too: name here → name there."""
    found = {}
    for node in (inner for outer in nodes for inner in ast.walk(outer)):
        module = node.module if isinstance(node, ast.ImportFrom) else None
        for alias in node.names if isinstance(node, ast.Import | ast.ImportFrom) else ():
            if (module or alias.name).split(".")[0] == "workshop_lib":
                found[alias.asname or (alias.name if module else alias.name.split(".")[0])] = alias.name
    return found


def _root(node: ast.AST) -> str | None:
    """The name at the left end of a.b[c].d"""
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


def _is_answer(node: ast.stmt) -> bool:
    """A definition, `f = lambda …`, `f = other`, an import of the student's own file: but not `f = check(f)`."""
    if isinstance(node, ast.Assign):
        return isinstance(node.value, ast.Lambda | ast.Name)
    if isinstance(node, ast.ImportFrom):
        return (node.module or "").split(".")[0] != "workshop_lib"
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


def _is_plain(node: ast.stmt) -> bool:
    """Whether a statement binds its names for sure, and not only on some branch."""
    kinds = ast.Assign | ast.AnnAssign | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Import | ast.ImportFrom
    return isinstance(node, kinds)


def _without_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    first = body[0].value if body and isinstance(body[0], ast.Expr) else None
    return body[1:] if isinstance(first, ast.Constant) and isinstance(first.value, str) else body


def _vote(submission: Submission, week: int, weight: int) -> None:
    submission.votes[week] = submission.votes.get(week, 0) + weight
