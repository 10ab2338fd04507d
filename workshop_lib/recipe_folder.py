"""The folder that `workshop recipes` writes: the recipes of a workspace's profile, and the data that they read.

Notable choices
- Recipes are written whether or not the artefacts are there: they hold settings. What they read is written where it can be, and what
  waits for an artefact is said, with the command that makes it.
- Pretraining text goes as Megatron's token files, which NeMo AutoModel reads too; everything else as JSON lines.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from workshop_lib.recipes import Places, Recipe, recipes
from workshop_lib.workspace import STAGES, Workspace, write_rows

FILES = Path(__file__).with_name("recipe_files")


@dataclass(frozen=True)
class Missing:
    """An artefact that is not there, and the files of the folder that wait for it."""

    stage: str
    files: tuple[str, ...]

    def __str__(self) -> str:
        week = STAGES[self.stage].week
        return f"{', '.join(self.files)}: {STAGES[self.stage].product}이(가) 없다. `workshop run --weeks 1-{week}`을 먼저 실행한다"


def write(workspace: Workspace, folder: Path, say: Callable[[str], None] = print) -> list[Missing]:
    """Fill `folder` with the recipes of the workspace's profile, the data that they read, and a README. Returns what could not be
    written, or could not be run, for want of an artefact.

    The token files are as long as the profile's training (2 bytes a token). Raises WorkshopError as `Places.of` does.
    """
    folder = folder.absolute()
    places = Places.of(workspace.home, folder)
    status = {stage: workspace.status(stage) for stage in STAGES}
    ready = {stage for stage in STAGES if status[stage] in ("ready", "stale")}
    vocabulary = _vocabulary(workspace.path("tokenizer")) if "tokenizer" in ready else None
    found = recipes(workspace.profile, places, vocabulary)
    for recipe in found:
        path = folder / recipe.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(as_yaml(recipe), encoding="utf-8")
    shutil.copy(FILES / "reviews.py", folder / "automodel" / "reviews.py")
    shutil.copy(FILES / "megatron_pretrain.py", folder / "megatron" / "pretrain.py")
    say(f"레시피 {len(found)}개를 썼다. 데이터를 쓴다.")
    needed = [stage for stage in STAGES if any(stage in recipe.needs for recipe in found)]
    if old := [STAGES[stage].product for stage in needed if status[stage] == "stale"]:
        say(f"지금의 설정으로 만든 것이 아닌 산출물: {', '.join(old)}. 레시피와 크기가 다를 수 있다. "
            f"`workshop run --profile {workspace.profile.name}`을 먼저 실행하거나, 그렇게 만든 폴더를 --home으로 준다.")
    write_data(workspace, folder / "data", tokens={"tokenizer", "corpus"} <= ready)
    if "base_model" in ready:
        _write_classifier(workspace, folder / "data" / "classifier")
    missing = [
        Missing(stage, tuple(recipe.path for recipe in found if stage in recipe.needs))
        for stage in needed if stage not in ready
    ]  # fmt: skip
    (folder / "README.md").write_text(readme(found, workspace.profile.name, missing), encoding="utf-8")
    return missing


def write_data(workspace: Workspace, folder: Path, tokens: bool = True) -> None:
    """For training and validation: tokens_*.bin and .idx (week 5), reviews_*.jsonl (week 6), chats_*.jsonl and pairs_*.jsonl (week 9)."""
    from workshop_lib.corpora import desk
    from workshop_lib.labelled import sentiment

    folder.mkdir(parents=True, exist_ok=True)
    profile = workspace.profile
    task, align, seed = profile.task_model, profile.alignment, profile.seed
    real = workspace.data is not None and (workspace.data / "nsmc").is_dir()
    rows, held_out = (task.rows, task.held_out) if real else (task.bundled_rows, task.bundled_held_out)
    train, validation = sentiment(workspace.data, rows, held_out, seed)
    for name, part in (("train", train), ("validation", validation)):
        write_rows(folder / f"reviews_{name}.jsonl", _columns(part, "document", "label"))
    for name, count, pairs, start in (("train", align.conversations, align.pairs, seed),
                                      ("validation", align.held_out, align.held_out_pairs, 0)):  # fmt: skip
        write_rows(folder / f"chats_{name}.jsonl", _columns(desk.conversations(count, start, name), "messages"))
        write_rows(folder / f"pairs_{name}.jsonl", _columns(desk.pairs(pairs, start, name), "prompt", "chosen", "rejected"))
    if tokens:
        _write_tokens(workspace, folder)


def _write_tokens(workspace: Workspace, folder: Path) -> None:
    from transformers import AutoTokenizer

    from workshop_lib.indexed import write_indexed
    from workshop_lib.packing import read_documents

    tokenizer = AutoTokenizer.from_pretrained(workspace.path("tokenizer"))
    settings, corpus = workspace.profile.base_model, workspace.path("corpus")
    budget = settings.steps * settings.batch_size * settings.context + 1
    for name, limit in (("train", budget), ("validation", None)):
        write_indexed(read_documents(corpus / f"{name}.jsonl", workspace.profile.seed), tokenizer, folder / f"tokens_{name}", limit)


def _write_classifier(workspace: Workspace, folder: Path) -> None:
    """The base model with a new head for the two labels: where the LoRA of week 6 starts."""
    from transformers import AutoTokenizer
    from transformers.utils import logging as messages

    from workshop_lib.classification import classifier, save_classifier

    base, bar = workspace.path("base_model"), messages.is_progress_bar_enabled()
    messages.disable_progress_bar()
    save_classifier(classifier(base, workspace.profile.seed), AutoTokenizer.from_pretrained(base), folder)
    if bar:
        messages.enable_progress_bar()


def readme(found: Iterable[Recipe], profile: str, missing: Iterable[Missing] = ()) -> str:
    """The folder's README: each file with the command that starts it, and what is missing."""
    lines = (FILES / "README.md").read_text(encoding="utf-8").replace("{profile}", profile).rstrip().splitlines()
    table = ["| 주 | 파일 | 도구 | 하는 일 | 명령 |", "|---|---|---|---|---|"]
    table += [f"| {r.week} | {r.path} | {r.tool} | {r.about} | `{r.command}` |" for r in found]
    waits = [f"- {item}." for item in missing]
    at = lines.index("{table}")
    return "\n".join([*lines[:at], *table, *(["", "아직 돌릴 수 없는 것:", "", *waits] if waits else []), *lines[at + 1 :]]) + "\n"


def as_yaml(recipe: Recipe) -> str:
    """A recipe as its file: what it is for and how it differs in Korean comments, then the content."""
    import yaml

    head = [f"{recipe.week}주차: {recipe.about}. {recipe.tool}.", *recipe.note, f"실행: {recipe.command}"]
    comment = "".join(f"# {line}\n" for line in head)
    plain = json.loads(json.dumps(recipe.content))  # nothing shared: no anchors in the file
    return comment + yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=200)


def _vocabulary(folder: Path) -> int:
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    return max([*tokenizer["model"]["vocab"].values(), *(token["id"] for token in tokenizer.get("added_tokens", []))]) + 1


def _columns(rows: Iterable[dict], *names: str) -> list[dict]:
    return [{name: row[name] for name in names} for row in rows]
