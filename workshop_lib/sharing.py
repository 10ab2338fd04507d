"""`workshop push`: the finished model as a folder that anybody can load, with its card, and onto the Hugging Face Hub.

    export    weights, tokenizer, chat template, generation settings, README.md, lineage.json, and a GGUF file on request
    inspect   what is looked at before anything leaves the machine; among it, a process without this package loads the folder and writes
    push      the folder onto the Hub; without a token it only says what it would do

Notable choices
- A new repository is private unless it is asked to be public: what is once public has been copied.
- Only the files that `export` writes are uploaded, and only if every check is passed.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from workshop_lib import WorkshopError
from workshop_lib.model_card import model_card, shared_stage, write_lineage
from workshop_lib.workspace import STAGES, Workspace

Kind = Literal["f32", "f16", "q8_0"]
SUFFIXES = (".safetensors", ".json", ".jinja", ".md", ".gguf", ".txt", ".model")  # no pickle, no code
NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9])?")
SECRET = re.compile(r"hf_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9]{20,}")
GGUF_ERROR = {"f32": 0.0, "f16": 1e-3, "q8_0": 1 / 127}  # of the largest value of a tensor (f16, norms) or of a block of 32 (q8_0)
LOG_IN = ("토큰을 https://huggingface.co/settings/tokens 에서 'Write' 권한으로 만들고, "
          "`hf auth login`을 실행하거나 HF_TOKEN 환경 변수에 둔다.")  # fmt: skip

ALONE = """
import sys
class Without:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "workshop_lib":
            raise ImportError("workshop_lib is not here")
sys.meta_path.insert(0, Without())
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, question = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder)
if question:
    messages = [{"role": "user", "content": question}]
    inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
else:
    inputs = tokenizer("<s>", return_tensors="pt", add_special_tokens=False)
with torch.no_grad():
    output = model.generate(**inputs, max_new_tokens=40, do_sample=False)
sys.stdout.reconfigure(encoding="utf-8")
print(tokenizer.decode(output[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))
"""


@dataclass(frozen=True)
class Check:
    """One look at a folder before it is shared."""

    name: str
    ok: bool
    detail: str


def export(workspace: Workspace, out: Path, model: Path | None = None, gguf: Kind | None = None, repo: str = "") -> Path:
    """Write the model to `out` (replaced if an earlier export) so that `AutoModelForCausalLM.from_pretrained` reads it without our code.

    model: a model folder (default: week 9's, else week 5's). gguf: also as model-<kind>.gguf, read back and compared. repo: for the card.
    Raises WorkshopError when there is no model, it is no causal Llama, or `out` holds what no export wrote.
    """
    from workshop_lib.exporting import to_serving

    stage = shared_stage(workspace) if model is None else _stage_of(workspace, model)
    folder = model or workspace.path(stage)
    _check_model(workspace, folder, stage)
    if out.exists() and not (out.is_dir() and (not any(out.iterdir()) or (out / "lineage.json").is_file())):
        raise WorkshopError(f"{out}에 내보낸 모델이 아닌 것이 있다. 덮어쓰지 않는다. --out으로 다른 폴더를 지정한다.")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as place:
        new = to_serving(folder, Path(place) / "new", dtype="float32")
        _keep_sampling(folder, new)
        file = f"model-{gguf}.gguf" if gguf else ""
        if gguf:
            _write_gguf(new, new / file, gguf)
        (new / "README.md").write_text(model_card(workspace, repo, stage, file), encoding="utf-8")
        write_lineage(workspace, stage, new / "lineage.json")
        shutil.rmtree(out, ignore_errors=True)
        new.rename(out)
    return out


def inspect(folder: Path) -> list[Check]:
    """Look at an exported folder as a stranger would: files, card, template, secrets, and whether it runs without this package."""
    if not folder.is_dir():
        raise WorkshopError(f"{folder}: 폴더가 없다. 먼저 모델을 내보낸다.")
    files = _files(folder)
    odd = [file.relative_to(folder).as_posix() for file in files if file.suffix not in SUFFIXES]
    checks = [Check("파일", not odd, f"{len(files)}개, {_size(sum(file.stat().st_size for file in files))}" if not odd
                    else f"올리지 않을 꼴의 파일이 있다: {', '.join(odd[:5])}")]  # fmt: skip
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    checks.append(Check("모델 카드", text.startswith("---\n") and "\nlicense:" in text and "## 한계" in text, _said_about(text)))
    leaked = _leaks(folder, files)
    checks.append(Check("비밀과 경로", not leaked, leaked or "토큰이나 이 기계의 경로가 들어 있지 않다"))
    template = (folder / "chat_template.jinja").is_file() or "chat_template" in _text(folder / "tokenizer_config.json")
    checks.append(Check("대화 틀", template, "있다" if template else "chat_template이 없다"))
    said, fault = runs_alone(folder, "도서관은 몇 시에 열어요?" if template else "")
    checks.append(Check("강의 코드 없이 읽고 쓰기", not fault, fault or f"“{' '.join(said.split())[:60]}”"))
    return checks


def runs_alone(folder: Path, question: str = "") -> tuple[str, str]:
    """(what the model wrote, why it failed) in a process in which this package cannot be imported. question: "" writes on from <s>."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", ALONE, str(folder.resolve()), question],
        capture_output=True, text=True, encoding="utf-8", errors="replace", cwd=folder, check=False,
    )  # fmt: skip
    if done.returncode:
        return "", "transformers로 읽거나 쓰지 못했다: " + (done.stderr.strip().splitlines() or ["까닭을 알 수 없다"])[-1][:300]
    return done.stdout, ""


def push(folder: Path, repo: str, token: str | None = None, dry_run: bool = False, private: bool = True, endpoint: str | None = None,
         say: Callable[[str], None] = print) -> str | None:  # fmt: skip
    """Upload an exported folder as the model repository NAME/REPO. Returns its address, or None when nothing was uploaded.

    token: default what `hf auth login` or HF_TOKEN left; without one it is a dry run. endpoint: another Hub (default: HF_ENDPOINT).
    Raises WorkshopError for a bad name, a failed check, a wrong token, no network, or an upload that broke off.
    """
    from huggingface_hub import get_token

    check_name(repo)
    checks = inspect(folder)
    for check in checks:
        say(f"{'✅' if check.ok else '❌'} {check.name}: {check.detail}")
    for file in _files(folder):
        say(f"   {file.relative_to(folder).as_posix():<32} {_size(file.stat().st_size):>10}")
    if failed := [check.name for check in checks if not check.ok]:
        raise WorkshopError(f"올리지 않았다. 먼저 고칠 것: {', '.join(failed)}")
    token = token or get_token()
    if dry_run or not token:
        say(f"모의 실행이다. 아무것도 올리지 않았다. 올리면 {repo} 저장소({'비공개' if private else '공개'})에 위 파일이 들어간다.")
        if not token:
            say(LOG_IN)
        return None
    return _upload(folder, repo, token, private, endpoint, say)


def check_name(repo: str) -> None:
    """Raises WorkshopError unless `repo` is NAME/REPO as the Hub takes it."""
    parts = repo.split("/")
    fine = len(parts) == 2 and all(NAME.fullmatch(part) for part in parts)
    if not fine or "--" in repo or ".." in repo or repo.endswith(".git"):
        raise WorkshopError(f"저장소 이름 '{repo}'을(를) 쓸 수 없다. 사용자/이름 꼴로, 영문자·숫자·-·_·. 만 쓴다. 예: hong/korean-desk")


def _upload(folder: Path, repo: str, token: str, private: bool, endpoint: str | None, say: Callable[[str], None]) -> str:
    from huggingface_hub import HfApi

    api = HfApi(endpoint=endpoint, token=token)
    try:
        me = api.whoami()
    except Exception as error:
        raise _trouble(error, "허브에 로그인하지 못했다") from error
    mine = [me["name"], *(org["name"] for org in me.get("orgs", []))]
    if repo.partition("/")[0] not in mine:
        raise WorkshopError(f"이 토큰으로는 '{repo.partition('/')[0]}' 아래에 올릴 수 없다. 쓸 수 있는 이름: {', '.join(mine)}")
    try:
        address = str(api.create_repo(repo, private=private, exist_ok=True))
    except Exception as error:
        raise _trouble(error, f"저장소 {repo}을(를) 만들지 못했다") from error
    say(f"{address}에 올리는 중")
    try:
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message="workshop push",
                          allow_patterns=[file.relative_to(folder).as_posix() for file in _files(folder)])  # fmt: skip
    except (Exception, KeyboardInterrupt) as error:
        raise _trouble(error, "올리다가 끊겼다. 같은 명령을 다시 실행하면 이미 올라간 큰 파일은 다시 보내지 않는다") from error
    say(f"올렸다: {address}")
    return address


def _trouble(error: BaseException, what: str) -> WorkshopError:
    """A Hub error in words that say what to do."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    chain, link = [], error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    status = next((code for e in chain if (code := getattr(getattr(e, "response", None), "status_code", None))), None)
    if any(isinstance(e, OfflineModeIsEnabled) for e in chain):
        why = "HF_HUB_OFFLINE이 켜져 있다. 끄고 다시 실행한다."
    elif status == 401:
        why = f"토큰이 틀렸거나 기한이 지났다. {LOG_IN}"
    elif status == 403:
        why = f"토큰에 쓰기 권한이 없다. {LOG_IN}"
    elif status == 413:
        why = "허브가 이 크기의 파일을 받지 않는다."
    elif status == 429:
        why = "요청이 너무 잦다고 한다. 몇 분 뒤에 다시 실행한다."
    elif status:
        why = f"허브가 {status}로 답했다. 잠시 뒤에 다시 실행한다."
    elif isinstance(error, KeyboardInterrupt):
        why = "멈추라고 했다."
    else:
        why = f"네트워크 연결을 확인하고 다시 실행한다({type(chain[-1]).__name__})."
    return WorkshopError(f"{what}: {why}")


def _check_model(workspace: Workspace, folder: Path, stage: str) -> None:
    if stage and (name := workspace.damaged(stage)):
        raise WorkshopError(f"{folder / name} 파일이 없어졌거나 잘렸다. `workshop run --weeks {STAGES[stage].week}`로 다시 만든다.")
    path = folder / "config.json"
    if not path.is_file():
        raise WorkshopError(f"{folder}에 모델이 없다(config.json). `workshop run`으로 먼저 만들거나 --model로 모델 폴더를 지정한다.")
    try:
        kinds = json.loads(path.read_text(encoding="utf-8")).get("architectures") or []
    except ValueError as error:
        raise WorkshopError(f"{path}이(가) 깨졌다({error}).") from error
    if kinds != ["LlamaForCausalLM"]:
        raise WorkshopError(f"{folder}의 모델은 {', '.join(kinds) or '알 수 없는 구조'}이다. 글을 쓰는 모델(LlamaForCausalLM)만 내보낸다.")


def _stage_of(workspace: Workspace, folder: Path) -> str:
    # Numbers of the workspace are told only of the workspace's own models; of any other ("") nothing is known.
    return next((name for name in ("alignment", "base_model") if workspace.path(name).resolve() == folder.resolve()), "")


def _keep_sampling(folder: Path, out: Path) -> None:
    """`to_serving` leaves the sampling to the engine; here the folder's own temperature and top-k stay."""
    source = folder / "generation_config.json"
    kept = json.loads(source.read_text(encoding="utf-8")) if source.is_file() else {}
    path = out / "generation_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings |= {key: kept[key] for key in ("temperature", "top_k", "top_p", "eos_token_id") if key in kept}
    path.write_text(json.dumps(settings, indent=1), encoding="utf-8")


def _write_gguf(folder: Path, path: Path, kind: Kind) -> None:
    """Write, read back, and compare: every tensor within what the kind can hold, and the tokenizer on a sentence."""
    import numpy as np
    from safetensors.numpy import load_file
    from transformers import AutoTokenizer

    from workshop_lib.gguf_export import gguf_tokenizer, read_gguf, to_gguf

    metadata, tensors = read_gguf(to_gguf(folder, path, kind))
    weights = load_file(folder / "model.safetensors")
    sentence = "도서관은 아침 9시에 문을 엽니다. Hello"
    same = gguf_tokenizer(metadata).encode(sentence).ids == AutoTokenizer.from_pretrained(folder).encode(sentence, add_special_tokens=False)
    wrong = [name for name, values in weights.items() if name not in tensors or tensors[name].shape != values.shape
             or np.abs(tensors[name] - values).max() > GGUF_ERROR[kind] * np.abs(values).max()]  # fmt: skip
    if wrong or not same:
        path.unlink(missing_ok=True)
        raise WorkshopError(f"GGUF를 다시 읽으니 처음과 다르다: {', '.join(wrong[:3]) or '토크나이저'}. --gguf 없이 내보낸다.")


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.relative_to(folder).parts[0].startswith("."))


def _leaks(folder: Path, files: list[Path]) -> str:
    homes = {str(Path.home()), str(Path.cwd()), str(folder.resolve().parent)} - {"/"}
    for file in files:
        if file.suffix not in (".md", ".json", ".jinja", ".txt"):
            continue
        text = _text(file)
        if SECRET.search(text):
            return f"{file.name}에 토큰 같은 글이 있다"
        if found := next((home for home in homes if len(home) > 4 and home in text), None):
            return f"{file.name}에 이 기계의 경로가 있다: {found}"
    return ""


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _said_about(card: str) -> str:
    return f"{len(card):,}자, 재지 않은 값 {card.count('측정 안 함')}곳" if card else "README.md가 없다"


def _size(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size >= 1e5 else f"{size / 1e3:,.1f} kB"
