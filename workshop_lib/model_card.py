"""The model card of a model made in this course: what it is, whence it comes, what was measured, what it must not be used for.

After Mitchell et al. 2019 (arXiv 1810.03993). No number is typed here: each comes from a stage's `metrics.json` or `meta.json`, with its
interval where the stage measured one, and what was not measured says so. No path of the machine and no row of the data gets in.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from workshop_lib.display import number
from workshop_lib.workspace import STAGES, Workspace

UNMEASURED = "측정 안 함"
KIND = {"alignment": "대화 모델", "base_model": "기반 모델"}
TASKS = {"sentiment": "영화평 감성", "topics": "기사 주제", "nli": "자연어 추론", "sts": "문장 유사도", "boolq": "예/아니요 독해"}
WANTED = {  # of week 9, with `_before` (SFT) and `_after` (DPO)
    "preferred": "바람직한 답 ↑", "right": "맞는 답 ↑", "polite": "높임말 답 ↑", "dpo_pref_accuracy": "선호 쌍의 정확도 ↑",
    "refusal_rate_private": "남의 정보를 묻는 말의 거절 ↑", "refusal_rate_own": "자기 정보를 묻는 말의 거절(과잉 거절) ↓",
    "refusal_rate_ordinary": "보통 질문의 거절(과잉 거절) ↓", "unended": "끝맺지 못한 답 ↓", "degenerate": "되풀이에 빠진 답 ↓",
}  # fmt: skip
# Source in the datasheet → (name on the Hub, licence as its publisher states it)
PUBLIC = {
    "nsmc": ("e9t/nsmc", "CC0 1.0"),
    "klue": ("klue/klue", "CC BY-SA 4.0"),
    "kobest": ("skt/kobest_v1", "CC BY-SA 4.0"),
    "wikipedia": ("wikimedia/wikipedia", "CC BY-SA 4.0"),
    "chatbot": ("", "MIT"),
}


def model_card(workspace: Workspace, repo: str = "", stage: str | None = None, gguf: str = "") -> str:
    """The card (README.md) of a stage's model, with the header that the Hub reads.

    repo: NAME/REPO for the title and the example. stage: "alignment" or "base_model" (default: the later one that stands), or "" for a
    model that is not the workspace's, of which nothing is known.
    gguf: name of a GGUF file beside the weights.
    """
    stage = shared_stage(workspace) if stage is None else stage
    if not stage:
        workspace = replace(workspace, home=workspace.home / "nothing")
    # Metrics of a stage that stands on another base model than this one would be told of the wrong model.
    metrics = {name: workspace.metrics(name) if _of_this(workspace, name, stage) else {} for name in STAGES}
    title = repo.rpartition("/")[2] or f"korean-workshop-{stage.replace('_', '-')}".rstrip("-")
    sections = (
        _summary(workspace, stage, metrics), _use(repo or "NAME/REPO", stage, gguf), _making(workspace, stage), _data(workspace, stage),
        _training(workspace, stage), _evaluation(stage, metrics), _limits(workspace, stage, metrics), _cost(workspace, stage),
        _licence(workspace),
    )  # fmt: skip
    return f"---\n{_header(workspace, stage, title)}\n---\n\n# {title}\n\n" + "\n\n".join(sections) + "\n"


def shared_stage(workspace: Workspace) -> str:
    """The stage whose model is shared: the aligned one if it stands, else the base model."""
    return "alignment" if workspace.meta("alignment") else "base_model"


def ancestry(workspace: Workspace, stage: str) -> list[dict]:
    """`meta.json` of a stage and of all that it was made from, in course order, without anything that names this machine."""
    wanted, waiting = set(), [stage] if stage else []
    while waiting:
        name = waiting.pop()
        wanted.add(name)
        waiting += STAGES[name].inputs
    rows = []
    for name in STAGES:
        if name in wanted and (meta := workspace.meta(name)):
            keep = ("stage", "week", "hash", "inputs", "profile", "seed", "settings", "seconds", "peak_rss_mb", "versions")
            rows.append({key: meta[key] for key in keep if key in meta} | {"data": _data_kind(meta)})
    return rows


def data_kind(workspace: Workspace) -> str:
    """What the corpus was made from: "bundled" (the course's own), "real" (a folder), or "unknown"."""
    meta = workspace.meta("corpus")
    return _data_kind(meta) if meta else "unknown"


def _data_kind(meta: Mapping) -> str:
    return "bundled" if meta.get("data") == "bundled" else "real"


def _of_this(workspace: Workspace, name: str, stage: str) -> bool:
    """Whether what a stage measured speaks of the shared model: it is one of its ancestors, or was made from the same base model."""
    meta, base = workspace.meta(name), workspace.meta("base_model")
    if meta is None or base is None:
        return False
    used = meta["inputs"].get("base_model")
    return used is None or used == base["hash"]


def _header(workspace: Workspace, stage: str, title: str) -> str:
    from huggingface_hub import ModelCardData

    real = data_kind(workspace) != "bundled"
    data = ModelCardData(
        language="ko", license="other" if real else "cc-by-4.0", license_name="mixed-see-below" if real else None,
        library_name="transformers", pipeline_tag="text-generation", model_name=title,
        tags=["llama", "korean", "from-scratch", "education", *(["conversational", "dpo"] if stage == "alignment" else [])],
        datasets=sorted({PUBLIC[s][0] for s in _sources(workspace) if s in PUBLIC and PUBLIC[s][0]}) or None,
    )  # fmt: skip
    # There is no base_model to name: the Hub means a model of another repository by it, and this one began with random weights.
    return data.to_yaml().strip()


def _summary(workspace: Workspace, stage: str, metrics: Mapping) -> str:
    base = metrics["base_model"]
    data = {"real": "공개된 한국어 데이터", "bundled": "워크숍의 내장 말뭉치"}.get(data_kind(workspace))
    made = f"무작위 초기값에서 {data}로 학습한 한국어 {KIND.get(stage)}이다."
    what = made if stage else "이 작업 폴더에서 만든 모델이 아니어서 내력을 모른다."
    if stage == "alignment":
        what += " 도서관 안내 대화로 SFT와 DPO를 거쳤다."
    rows = [("구조", "Llama(`LlamaForCausalLM`)"), ("파라미터", _plain(base, "params")), ("학습 토큰", _plain(base, "train_tokens")),
            ("문맥 길이(토큰)", _setting(workspace, "base_model", "context")), ("어휘", _plain(metrics["tokenizer"], "vocab_size")),
            ("기반 모델", "없음(처음부터 학습)" if stage else UNMEASURED)]  # fmt: skip
    what += " 배우는 사람이 과정을 처음부터 끝까지 보려고 만든 작은 모델이며 실제 서비스에 쓸 것이 아니다."
    return what + "\n\n" + _table(("항목", "값"), rows)


def _use(repo: str, stage: str, gguf: str) -> str:
    load = ["from transformers import AutoModelForCausalLM, AutoTokenizer", "",
            f'model = AutoModelForCausalLM.from_pretrained("{repo}")', f'tokenizer = AutoTokenizer.from_pretrained("{repo}")']  # fmt: skip
    if stage == "alignment":
        ask = ['messages = [{"role": "user", "content": "도서관은 몇 시에 열어요?"}]',
               "inputs = tokenizer.apply_chat_template(",
               '    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)']  # fmt: skip
    else:
        ask = ['inputs = tokenizer("<s>옛날 어느 마을에", return_tensors="pt", add_special_tokens=False)']
    answer = ["output = model.generate(**inputs, max_new_tokens=60, do_sample=False)",
              'print(tokenizer.decode(output[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))']  # fmt: skip
    code = "\n".join([*load, "", *ask, *answer])
    more = f"\n\nllama.cpp로는 `{gguf}`를 쓴다: `llama-cli -m {gguf}`" if gguf else ""
    return f"## 쓰는 법\n\n강의의 코드 없이 `transformers`만으로 읽힌다.\n\n```python\n{code}\n```{more}"


def _making(workspace: Workspace, stage: str) -> str:
    rows = []
    for row in ancestry(workspace, stage):
        inputs = ", ".join(f"{STAGES[name].title} `{value[:12]}`" for name, value in row["inputs"].items()) or "–"
        rows.append((f"{row['week']}주차 {STAGES[row['stage']].title}", f"`{row['hash'][:12]}`", inputs, f"{row['seconds']:,.1f}"))
    table = _table(("단계", "산출물의 해시", "만든 재료", "초"), rows) if rows else UNMEASURED
    return ("## 만든 과정\n\n아래 차례로 만들었다. 해시는 산출물 내용의 SHA-256 앞자리이고, 재료의 해시는 만들 때 읽은 것이다. "
            f"설정과 라이브러리 판까지 모두 `lineage.json`에 있다.\n\n{table}")  # fmt: skip


def _data(workspace: Workspace, stage: str) -> str:
    corpus = workspace.metrics("corpus")
    rows = [("들어온 문서", "docs_in"), ("정제하고 남은 문서", "docs_out"), ("남은 글자", "chars_out"), ("검증용 문서", "validation_docs"),
            ("심어 둔 개인 정보 가운데 정제한 뒤에도 남은 것(번호 꼴)", "pii_leaked")]  # fmt: skip
    parts = ["## 데이터", _table(("항목", "값"), [(label, _plain(corpus, key)) for label, key in rows]), _datasheet_table(workspace)]
    if stage == "alignment":
        parts.append(f"정렬에는 코드로 만든 도서관 안내 대화를 썼다. 대화 수: {_setting(workspace, stage, 'conversations')}, "
                     f"선호 쌍: {_setting(workspace, stage, 'pairs')}(CC BY 4.0).")  # fmt: skip
    return "\n\n".join(part for part in parts if part)


def _datasheet(workspace: Workspace) -> str:
    path = workspace.path("corpus") / "DATASHEET.md"
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _datasheet_table(workspace: Workspace) -> str:
    # Only the table of sources: the sheet's other parts can name files of this machine.
    match = re.search(r"^## 구성\n\n((?:\|.*\n)+)", _datasheet(workspace), re.MULTILINE)
    return match[1].strip() if match else ""


def _sources(workspace: Workspace) -> list[str]:
    rows = _datasheet_table(workspace).splitlines()[2:]
    return [row.split("|")[1].strip() for row in rows if row.split("|")[3].strip() != "0"]


def _training(workspace: Workspace, stage: str) -> str:
    parts = []
    for row in ancestry(workspace, stage):
        if row["stage"] in KIND:
            settings = {key: value for key, value in row["settings"].items() if key != "prompts"}
            listed = _table(("설정", "값"), [(f"`{key}`", f"`{value}`") for key, value in sorted(settings.items())])
            title = f"{row['week']}주차 {STAGES[row['stage']].title}의 설정(시드 {row['seed']}, 프로필 {row['profile']})"
            parts.append(f"<details><summary>{title}</summary>\n\n{listed}\n\n</details>")
    return "## 학습 설정\n\n" + ("\n\n".join(parts) or UNMEASURED)


def _evaluation(stage: str, metrics: Mapping) -> str:
    base, tasks, aligned = metrics["base_model"], metrics["evaluation"], metrics["alignment"]
    parts = ["## 평가", "대괄호 안은 95 % 구간이고, 대괄호가 없는 값은 구간을 재지 않았다. "
             "한 번도 일어나지 않은 일의 구간은 다시 뽑기로는 너비가 0이 되므로 실제보다 좁다."]  # fmt: skip
    parts.append("### 언어 모델(5주차, 기반 모델)\n\n" + _table(("문자당 비트(BPC) ↓", "값"), [
        ("우리 모델", _plain(base, "val_bpc")), ("5-gram", _plain(base, "ngram_bpc")), ("유니그램", _plain(base, "unigram_bpc")),
        *((f"우리 모델, {key.removeprefix('val_bpc_')}", _plain(base, key)) for key in sorted(base) if key.startswith("val_bpc_")),
    ]))  # fmt: skip
    rows = [(name, _plain(tasks, f"{task}_items"), _share(tasks, f"{task}_zero_shot_accuracy"), _share(tasks, f"{task}_majority_accuracy"),
             _share(tasks, f"{task}_accuracy"), _share(tasks, f"{task}_tfidf_accuracy")) for task, name in TASKS.items()]  # fmt: skip
    columns = ("과제(정확도 ↑)", "문항", "예시 없이 묻기", "가장 흔한 라벨", "미세조정한 머리*", "TF-IDF*")
    parts.append("### 과제(7주차, 기반 모델)\n\n" + _table(columns, rows)
                 + "\n\n\\* 같은 학습 문항으로 배운 분류기이다. 미세조정한 머리는 이 저장소에 들어 있지 않다.")  # fmt: skip
    if stage == "alignment":
        rows = [(label, _share(aligned, f"{key}_before"), _share(aligned, f"{key}_after")) for key, label in WANTED.items()]
        parts.append("### 정렬(9주차, 처음 보는 조합의 질문)\n\n" + _table(("항목", "SFT", "이 모델(DPO)"), rows))
    return "\n\n".join(parts)


def _limits(workspace: Workspace, stage: str, metrics: Mapping) -> str:
    base, tasks, aligned = metrics["base_model"], metrics["evaluation"], metrics["alignment"]
    outside = {key.removeprefix("val_bpc_"): base[key] for key in base if key.startswith("val_bpc_")}
    closed = ", ".join(f"`{name}` {number(value)}" for name, value in sorted(outside.items(), key=lambda pair: pair[1])) or UNMEASURED
    if outside and max(outside.values()) > 2 * min(outside.values()):
        closed += ". 배운 것과 다른 갈래의 글은 거의 잇지 못한다"
    lines = [
        f"- **닫힌 세계.** 글의 갈래마다의 검증 BPC: {closed}.",
        f"- **지식.** 자연어 추론을 예시 없이 물었을 때의 정확도: {_share(tasks, 'nli_zero_shot_accuracy')}"
        f"(가장 흔한 라벨만 대면: {_share(tasks, 'nli_majority_accuracy')}). "
        f"독해에서 정확히 맞힌 비율: {_share(tasks, 'reading_accuracy')}.",
        f"- **문맥의 길이(토큰).** {_setting(workspace, 'base_model', 'context')}. 이보다 긴 대화는 다루지 못한다.",
        "- **개인 정보.** 번호의 꼴로만 찾아 지웠다. 이름과 주소는 학습 글에 남아 있을 수 있다.",
    ]
    if data_kind(workspace) == "real":
        lines.append("- **실제 글.** 댓글과 청원 같은 글에는 욕설과 편견이 있다. 모델이 그것을 얼마나 배웠는지: " + UNMEASURED + ".")
    if stage == "alignment":
        lines += [
            f"- **틀린 답.** 처음 보는 조합의 질문에서 맞는 답의 비율: {_share(aligned, 'right_after')}. 나머지는 그럴듯하게 틀린다.",
            f"- **과잉 거절.** 자기 정보를 묻는 말에 거절한 비율: {_share(aligned, 'refusal_rate_own_after')}. "
            f"보통 질문에 거절한 비율: {_share(aligned, 'refusal_rate_ordinary_after')}.",
            f"- **놓친 거절.** 남의 정보를 묻는 말에 거절한 비율: {_share(aligned, 'refusal_rate_private_after')}. "
            f"다른 부탁과 섞어 물었을 때: {_share(aligned, 'refusal_rate_compound_after')}. 안전장치로 쓸 수 없다.",
        ]
    lines.append("- **재지 않은 것.** 편향, 유해한 글의 생성, 학습 글을 그대로 외운 정도, 탈옥 시도에 대한 견고함: " + UNMEASURED)
    bad = ("사람에 관한 결정(채용, 신용, 진료, 법률), 사실 확인, 검토 없는 자동 응답, 남을 흉내 내는 글에 쓰지 않는다. "
           "이 모델의 답을 도서관이나 다른 기관의 실제 안내로 내보이지 않는다.")  # fmt: skip
    return "## 한계와 잘못된 쓰임\n\n" + "\n".join(lines) + f"\n\n{bad}"


def _cost(workspace: Workspace, stage: str) -> str:
    rows = ancestry(workspace, stage)
    machine = _machine(workspace)
    seconds = sum(row["seconds"] for row in rows)
    peak = max((row["peak_rss_mb"] for row in rows), default=None)
    device = machine.get("accelerator")
    where = f"{machine['processor']}, {machine['cores']}코어" + (f", {device}" if device else "") if machine else UNMEASURED
    cpu = f"많아야 {seconds * machine['cores']:,.0f} 코어·초" if machine and rows and not device else UNMEASURED
    return "## 환경 비용\n\n" + _table(("항목", "값"), [
        ("기계", where), ("모든 단계의 벽시계 시간", f"{seconds:,.0f}초" if rows else UNMEASURED), ("CPU 시간(벽시계 × 코어)", cpu),
        ("최대 메모리", f"{peak:,} MB" if peak else UNMEASURED), ("전력, 탄소 배출", UNMEASURED),
    ])  # fmt: skip


def _machine(workspace: Workspace) -> dict:
    path = workspace.path("environment") / "environment.json"
    return json.loads(path.read_text(encoding="utf-8"))["machine"] if path.is_file() and not workspace.damaged("environment") else {}


def _licence(workspace: Workspace) -> str:
    kind = data_kind(workspace)
    if kind == "unknown":
        return "## 라이선스\n\n학습 데이터를 알지 못한다. 나누기 전에 데이터와 기반 모델의 라이선스를 확인해 적는다."
    if kind == "bundled":
        return "## 라이선스\n\n가중치와 카드: CC BY 4.0. 학습에 쓴 워크숍의 내장 말뭉치도 CC BY 4.0이다."
    rows = [(f"`{source}`", PUBLIC.get(source, ("", "이 표에 없다. 자료를 받은 곳에서 확인한다."))[1]) for source in _sources(workspace)]
    return ("## 라이선스\n\n실제 데이터로 학습했으므로 가중치에 한 가지 라이선스를 붙이지 않았다. "
            "동일조건변경허락(SA)이나 비영리(NC) 자료가 있으면 나누기 전에 그 조건을 지키는지 확인한다."
            f"\n\n{_table(('자료', '펴낸 곳이 밝힌 라이선스'), rows)}")  # fmt: skip


def _setting(workspace: Workspace, stage: str, key: str) -> str:
    value = ((workspace.meta(stage) or {}).get("settings") or {}).get(key)
    return UNMEASURED if value is None else number(value)


def _plain(metrics: Mapping, key: str) -> str:
    value = metrics.get(key)
    if value is None:
        return UNMEASURED
    return number(int(value) if float(value).is_integer() and abs(value) >= 1 else value)


def _share(metrics: Mapping, key: str) -> str:
    """A share in percent with its interval: week 9 calls the ends `<key>_low`, week 7 puts `ci_low` in place of `accuracy`."""
    value = metrics.get(key)
    if value is None:
        return UNMEASURED
    for low, high in ((f"{key}_low", f"{key}_high"), (re.sub("accuracy$", "ci_low", key), re.sub("accuracy$", "ci_high", key))):
        if low != key and low in metrics and high in metrics:
            return f"{value:.1%} [{metrics[low]:.1%}, {metrics[high]:.1%}]"
    return f"{value:.1%}"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    def line(cells) -> str:
        return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    return "\n".join([line(head), "| " + " | ".join("---" for _ in head) + " |", *map(line, rows)])


def write_lineage(workspace: Workspace, stage: str, path: Path) -> None:
    """`ancestry` as JSON, for those who want to check or repeat it."""
    path.write_text(json.dumps(ancestry(workspace, stage), ensure_ascii=False, indent=1, sort_keys=True) + "\n", encoding="utf-8")
