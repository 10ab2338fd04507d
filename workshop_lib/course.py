"""The stages in their order, and the report card of what they measured.

The report holds nothing that was not measured: every number comes from a stage's `metrics.json`. A stage that has not
been run shows "측정 안 함" and why.
"""

from __future__ import annotations

import base64
import html
import io
import json
import re
import time
from collections.abc import Callable
from pathlib import Path

from workshop_lib import WorkshopError
from workshop_lib.display import number
from workshop_lib.workspace import STAGES, Workspace, peak_rss_mb

# What the card shows first of each stage; the other measurements follow below.
HIGHLIGHTS = {
    "environment": {"cores": "CPU 코어", "matmul_gflops": "행렬곱 최고 속도(GFLOP/s)", "tools_ready": "준비된 도구"},
    "corpus": {"docs_in": "들어온 문서", "docs_out": "남은 문서", "chars_out": "남은 글자", "docs_per_s": "초당 문서"},
    "tokenizer": {
        "vocab_size": "어휘 크기", "chars_per_token": "토큰당 글자", "roundtrip_failures": "왕복 실패",
    },
    "comparison": {
        "val_bpc_transformer": "검증 BPC(Transformer)", "val_bpc_mamba2": "검증 BPC(Mamba-2)", "val_bpc_rwkv": "검증 BPC(RWKV-7)",
        "val_bpc_hybrid": "검증 BPC(하이브리드)", "prefill_exponent_transformer": "읽는 시간의 지수(Transformer)",
        "prefill_exponent_mamba2": "읽는 시간의 지수(Mamba-2)",
    },
    "base_model": {
        "params": "파라미터", "train_tokens": "학습 토큰", "val_bpc": "검증 BPC", "ngram_bpc": "5-gram BPC",
        "unigram_bpc": "유니그램 BPC", "tokens_per_s": "초당 토큰", "mfu": "MFU",
    },
    "task_model": {
        "adapted_accuracy": "정확도(추가 사전학습)", "full_accuracy": "정확도(전체 미세조정)", "lora_accuracy": "정확도(LoRA)",
        "dora_accuracy": "정확도(DoRA)",
        "linear_probe_accuracy": "정확도(선형 탐침)", "random_init_accuracy": "정확도(무작위 초기값)", "tfidf_accuracy": "정확도(TF-IDF)",
        "majority_accuracy": "정확도(다수 라벨)", "lora_trainable_params": "학습한 수(LoRA)", "held_out": "검증용 리뷰",
    },
    "evaluation": {
        "sentiment_accuracy": "정확도(영화평 감성)", "topics_accuracy": "정확도(기사 주제)", "nli_accuracy": "정확도(자연어 추론)",
        "nli_zero_shot_accuracy": "정확도(자연어 추론, 예시 없이 묻기)", "sts_accuracy": "정확도(문장 유사도)",
        "boolq_accuracy": "정확도(예/아니요 독해)", "reading_accuracy": "정확히 맞힌 비율(독해)", "bpc": "문자당 비트(BPC)",
    },
    "compression": {
        "fp32_bpc": "BPC(float32)", "int8_bpc": "BPC(INT8)", "int4_bpc": "BPC(INT4 반올림)", "int4_gptq_bpc": "BPC(INT4 GPTQ)",
        "int4_awq_bpc": "BPC(INT4 AWQ)", "nf4_bpc": "BPC(NF4)", "fp32_bytes": "바이트(float32)", "int4_gptq_bytes": "바이트(INT4 GPTQ)",
        "int4_gptq_loss": "BPC 손해 비율(INT4 GPTQ)", "int4_byte_share": "양자화한 층의 크기 비율(INT4)",
        "distilled_bpc": "BPC(증류한 학생)", "scratch_small_bpc": "BPC(처음부터 학습한 같은 크기)",
        "fp32_tokens_per_s": "초당 토큰(float32)", "int4_gptq_tokens_per_s": "초당 토큰(INT4 GPTQ)",
        "onnx_int8_tokens_per_s": "초당 토큰(ONNX INT8)", "speculative_acceptance": "초안이 받아들여진 비율",
        "speculative_speedup": "추측 디코딩의 속도 배율",
    },
    "alignment": {
        "sft_val_loss": "검증 손실(SFT, 토큰당 nat)", "rm_accuracy": "보상 모델의 정확도",
        "dpo_pref_accuracy_before": "선호 정확도(SFT)", "dpo_pref_accuracy_after": "선호 정확도(DPO)",
        "preferred_before": "바람직한 답의 비율(SFT)", "preferred_after": "바람직한 답의 비율(DPO)",
        "imitation_preferred": "바람직한 답의 비율(모방만)", "plain_preferred": "바람직한 답의 비율(DPO 항만, 큰 걸음)",
        "dpo_margin": "DPO의 마진", "wanted_loss_change": "바람직한 대화의 손실 변화율",
        "distinct2_before": "distinct-2(SFT)", "distinct2_after": "distinct-2(DPO)",
        "ppo_reward_before": "PPO 보상(전)", "ppo_reward_after": "PPO 보상(후)", "ppo_kl": "PPO의 KL(답당 nat)",
        "ppo_without_kl_reward_after": "PPO 보상(KL 항 없이)", "ppo_without_kl_right_after": "맞는 답의 비율(KL 항 없이)",
        "grpo_reward_before": "GRPO 보상(전)", "grpo_reward_after": "GRPO 보상(후)",
        "refusal_rate_private_before": "남의 정보 거절(SFT)", "refusal_rate_private_after": "남의 정보 거절(DPO)",
        "refusal_rate_own_before": "자기 정보 거절(SFT)", "refusal_rate_own_after": "자기 정보 거절(DPO)",
    },
}


def run(workspace: Workspace, weeks: tuple[int, int] = (1, 10), say: Callable[[str], None] = print) -> None:
    """Build every stage of the given weeks (first and last included), in order; what stands is left alone.

    Raises WorkshopError when the range holds no stage, or as a stage does.
    """
    chosen = [stage for stage in STAGES.values() if weeks[0] <= stage.week <= weeks[1]]
    if not chosen:
        raise WorkshopError(f"{weeks[0]}-{weeks[1]}주차에는 실행할 단계가 없다. 단계: {_stage_list()}")
    for stage in chosen:
        start = time.perf_counter()
        ready = workspace.status(stage.name) == "ready"
        workspace.require(stage.name, say)
        took = "이미 있다" if ready else f"{time.perf_counter() - start:.1f}초"
        say(f"[{stage.week}주차] {stage.title}: {took} → {workspace.path(stage.name)}")


def report(workspace: Workspace) -> dict:
    """What was measured, as `report.json` holds it."""
    weeks: dict[str, dict] = {}
    seconds: dict[str, float] = {}
    peak = 0.0
    for name, stage in STAGES.items():
        if meta := workspace.meta(name):
            weeks.setdefault(f"week{stage.week:02d}", {}).update(workspace.metrics(name))
            seconds[name] = meta["seconds"]
            peak = max(peak, meta["peak_rss_mb"])
    return {
        "profile": workspace.profile.name,
        "data": str(workspace.data) if workspace.data else "bundled",
        "machine": _machine(workspace),
        "weeks": weeks,
        "seconds": seconds,
        "peak_rss_mb": round(peak or peak_rss_mb()),
    }


def write_report(workspace: Workspace) -> Path:
    """Write report.json, report.md and report.html into the workspace; returns the path of report.md."""
    if not workspace.home.is_dir():
        raise WorkshopError(f"작업 폴더 {workspace.home}이(가) 없다. 먼저 `workshop run`을 실행한다.")
    card = report(workspace)
    texts = {
        "report.json": json.dumps(card, ensure_ascii=False, indent=1) + "\n",
        "report.md": markdown(workspace, card),
        "report.html": page(workspace, card),
    }
    for name, text in texts.items():
        temporary = workspace.home / f".{name}.tmp"
        try:
            temporary.write_text(text, encoding="utf-8", errors="replace")
            temporary.replace(workspace.home / name)
        finally:
            temporary.unlink(missing_ok=True)
    return workspace.home / "report.md"


def markdown(workspace: Workspace, card: dict) -> str:
    """The report card as Markdown."""
    lines = ["# 성적표", "", *(f"- {key}: {value}" for key, value in _header(card)), ""]
    for title, note, highlights, rest, samples in _sections(workspace):
        lines += [f"## {title}", "", note, ""]
        if highlights:
            lines += ["| 항목 | 값 |", "| --- | --- |", *(f"| {k} | {v} |" for k, v in highlights), ""]
        if rest:
            lines += ["<details><summary>나머지 측정값</summary>", "", "| 항목 | 값 |", "| --- | --- |"]
            lines += [*(f"| {k} | {v} |" for k, v in rest), "", "</details>", ""]
        for sample in samples:
            lines += ["> " + sample.replace("\n", "\n> "), ""]
    return "\n".join(lines)


def page(workspace: Workspace, card: dict) -> str:
    """The report card as one HTML page with its plots inside."""

    def rows(pairs: list[tuple[str, str]]) -> str:
        cells = ((re.sub(r"`(\w+)`", r"<code>\1</code>", html.escape(k)), html.escape(v)) for k, v in pairs)
        return "".join(f"<tr><td>{key}</td><td>{value}</td></tr>" for key, value in cells)

    parts = [f"<h1>성적표</h1><table>{rows(_header(card))}</table>"]
    for title, note, highlights, rest, samples in _sections(workspace):
        parts.append(f"<h2>{html.escape(title)}</h2><p>{html.escape(note)}</p>")
        if highlights:
            parts.append(f"<table>{rows(highlights)}</table>")
        if rest:
            parts.append(f"<details><summary>나머지 측정값</summary><table>{rows(rest)}</table></details>")
        parts += [f"<blockquote>{html.escape(sample)}</blockquote>" for sample in samples]
    if curve := _loss_curve(workspace):
        parts.append(f'<h2>학습 곡선</h2><img alt="학습 토큰에 따른 검증 BPC" src="data:image/png;base64,{curve}">')
    style = (
        "body{font-family:sans-serif;max-width:52rem;margin:2rem auto;padding:0 1rem;line-height:1.6}"
        "td{border-bottom:1px solid #ddd;padding:.2rem 1rem .2rem 0}blockquote{border-left:3px solid #9bd;margin:1rem 0;"
        "padding:.2rem 1rem;white-space:pre-wrap}img{max-width:100%}"
    )
    head = f'<!doctype html><html lang="ko"><meta charset="utf-8"><title>성적표</title><style>{style}</style>'
    return head + "\n".join(parts) + "</html>\n"


def _sections(workspace: Workspace):
    for name, stage in STAGES.items():
        metrics, status = workspace.metrics(name), workspace.status(name)
        labels = HIGHLIGHTS.get(name, {})
        if status == "missing":
            note = f"측정 안 함: 이 단계를 아직 실행하지 않았다. `workshop run --weeks {stage.week}`"
        elif status == "broken":
            note = f"깨졌다: {workspace.damaged(name)} 파일이 없어졌거나 잘렸다. `workshop run --weeks {stage.week}`로 다시 만든다."
        elif status == "stale":
            note = "낡음: 설정이나 입력이 바뀐 뒤 다시 실행하지 않았다."
        else:
            note = f"{workspace.meta(name)['seconds']:.1f}초 걸렸다."
        highlights = [(f"{label} (`{key}`)", number(metrics[key])) for key, label in labels.items() if key in metrics]
        rest = [(key, number(value)) for key, value in metrics.items() if key not in labels]
        samples = [] if status == "broken" else _samples(workspace.path(name))
        yield f"{stage.week}주차 {stage.title}", note, highlights, rest, samples


def _header(card: dict) -> list[tuple[str, str]]:
    machine = card["machine"]
    words = machine and f"{machine['processor']}, {machine['cores']}코어, 메모리 {machine['memory_gb']} GB, {machine['system']}"
    if machine.get("accelerator"):
        words += f", {machine['accelerator']}"
    total = f"{sum(card['seconds'].values()):.0f}초"
    return [
        ("프로필", card["profile"]), ("데이터", card["data"]), ("기계", words or "측정 안 함"),
        ("단계 합계", total), ("최대 메모리", f"{card['peak_rss_mb']:,} MB"),
    ]


def _machine(workspace: Workspace) -> dict:
    path = workspace.path("environment") / "environment.json"
    if workspace.damaged("environment"):
        return {}
    return json.loads(path.read_text(encoding="utf-8"))["machine"] if path.exists() else {}


def _samples(folder: Path) -> list[str]:
    """What a stage's model has written, of training's last step where there are several."""
    path = folder / "samples.jsonl"
    if not path.exists():
        return []
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [row["text"] for row in rows if row.get("step") == rows[-1].get("step")]


def _loss_curve(workspace: Workspace) -> str | None:
    path = workspace.path("base_model") / "history.jsonl"
    if not path.exists() or workspace.damaged("base_model"):
        return None
    from matplotlib.figure import Figure

    from workshop_lib.display import pyplot

    pyplot()  # fonts
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if row.get("val_bpc") is not None]
    figure = Figure(figsize=(7, 3.5), dpi=90)
    axes = figure.subplots()
    axes.plot([row["tokens"] for row in rows], [row["val_bpc"] for row in rows], marker="o", label="우리 모델")
    metrics = workspace.metrics("base_model")
    for key, label, style in (("unigram_bpc", "유니그램", ":"), ("ngram_bpc", "5-gram", "--")):
        if key in metrics:
            axes.axhline(metrics[key], linestyle=style, color="gray", label=label)
    axes.set(xlabel="학습 토큰", ylabel="검증 문자당 비트(BPC)")
    axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight")
    return base64.b64encode(buffer.getvalue()).decode()


def _stage_list() -> str:
    return ", ".join(f"{stage.week}주차 {stage.title}" for stage in STAGES.values())
