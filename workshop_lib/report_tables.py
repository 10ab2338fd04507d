"""What the report card shows of each week: the few numbers that matter, each beside its baseline.

A table is data: row labels and metric names. A label with ↑ or ↓ says which way is better; only then is a value marked against
its baseline. Every number comes from metrics.json; the card computes none (it only scales: shares to percent, bytes to MB).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from workshop_lib.display import number

UNMEASURED = "측정 안 함"
SHARES = re.compile(r"^(?!re(moved|paired)_).*(accuracy|preferred|polite|right|refusal|precision|recall|acceptance|unk_rate|mfu|exact|_f1"
                    r"|distinct2|different|commonest)")  # fmt: skip
SIZES = re.compile(r"bytes$|state_bytes_")
SIGNED = re.compile(r"_change|_minus_")


@dataclass(frozen=True)
class Grid:
    """One table. `rows`: a label and a metric name for each column ("" where the question makes no sense).

    `reference`: the columns or rows that are baselines. `absent`: why a metric may not be there, by a part of its name.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    reference: tuple[str, ...] = ()
    title: str = ""
    absent: Mapping[str, str] = field(default_factory=dict)


def _each(names: Mapping[str, str], *keys: str) -> tuple[tuple[str, ...], ...]:
    return tuple((label, *(key.format(name) for key in keys)) for name, label in names.items())


DEFECTS = {"pii": "개인 정보", "mojibake": "깨진 글자", "boilerplate": "메뉴와 꼬리말", "exact_duplicate": "똑같은 글",
           "near_duplicate": "거의 같은 글", "spam": "광고"}  # fmt: skip
TOKENIZERS = {"": "우리 토크나이저", "unigram_": "Unigram", "wordpiece_": "WordPiece", "char_bpe_": "글자 BPE",
              "english_": "영어로 배운 바이트 BPE"}  # fmt: skip
ARCHITECTURES = {"rnn": "RNN", "transformer": "Transformer", "mamba": "Mamba", "mamba2": "Mamba-2", "rwkv": "RWKV-7", "moe": "MoE + MLA",
                 "hybrid": "하이브리드"}  # fmt: skip
SOURCES = {"story": "이야기", "encyclopedia": "백과", "news": "기사", "nsmc": "영화평", "prose": "산문"}
METHODS = {"full": "전체 미세조정", "adapted": "추가 사전학습 + 전체", "lora": "LoRA", "dora": "DoRA", "qlora": "QLoRA", "ia3": "IA³",
           "waveft": "WaveFT", "linear_probe": "선형 탐침", "random_init": "무작위 초기값에서"}  # fmt: skip
TASKS = {"sentiment": "영화평 감성", "topics": "기사 주제", "nli": "자연어 추론", "sts": "문장 유사도", "boolq": "예/아니요 독해"}
SMALLER = {"fp32": "float32", "int8": "INT8", "int4": "INT4 반올림", "int4_gptq": "INT4 GPTQ", "int4_awq": "INT4 AWQ", "nf4": "NF4",
           "int3_gptq": "INT3 GPTQ", "int2_gptq": "INT2 GPTQ", "gguf": "GGUF Q8_0", "onnx_int8": "ONNX INT8", "bnb_nf4": "bitsandbytes NF4",
           "torchao_int8": "torchao INT8", "student": "증류한 학생"}  # fmt: skip
ALIGNED = {"dpo_pref_accuracy": "선호 정확도 ↑", "preferred": "바람직한 답 ↑", "polite": "공손한 답 ↑", "right": "내용이 맞는 답 ↑",
           "refusal_rate_private": "남의 정보 거절 ↑", "refusal_rate_compound": "섞어 물은 남의 정보 거절 ↑",
           "refusal_rate_own": "자기 정보 거절 ↓"}  # fmt: skip
REWARDED = {"ppo": "PPO", "ppo_without_kl": "PPO(KL 항 없이)", "grpo": "GRPO"}
LEARNT = {"votes": "내 선호를 맞힌 비율 ↑", "desk": "안내대의 선호를 맞힌 비율 ↑"}

GRIDS: dict[str, tuple[Grid, ...]] = {
    "environment": (
        Grid(("값", "전체"), (("준비된 도구", "tools_ready", "tools_listed"),), ("전체",)),
        Grid(("값",), (("CPU 코어", "cores"), ("메모리(GB)", "memory_gb"), ("행렬곱 최고 속도(GFLOP/s)", "matmul_gflops"))),
    ),
    "corpus": (
        Grid(("남은 것", "들어온 것"), (("문서", "docs_out", "docs_in"),), ("들어온 것",)),
        Grid(("정밀도", "재현율"), (("버리기 전체", "precision_removal", "recall_removal"),
             *_each(DEFECTS, "precision_{}", "recall_{}")), title="심어 둔 결함을 얼마나 찾았나"),
        Grid(("값",), (("새어 나간 개인 정보(건)", "pii_leaked"), ("정답과 글자까지 같은 글", "clean_exact"), ("남은 글자", "chars_out"))),
    ),
    "tokenizer": (
        Grid(("토큰당 글자 ↑", "왕복 실패(글) ↓", "모르는 조각 ↓", "어절당 토큰", "어휘"), _each(
            TOKENIZERS, "{}chars_per_token", "{}roundtrip_failures", "{}unk_rate", "{}tokens_per_eojeol", "{}vocab_size"),
            ("영어로 배운 바이트 BPE",)),
    ),
    "comparison": (
        Grid(("검증 BPC ↓", "읽는 시간의 지수", "쓸 때의 상태", "초당 학습 토큰", "파라미터"), _each(
            ARCHITECTURES, "val_bpc_{}", "prefill_exponent_{}", "decode_state_bytes_{}", "train_tokens_per_s_{}", "params_{}"), ("RNN",)),
    ),
    "base_model": (
        Grid(("우리 모델 ↓", "5-gram", "유니그램", "고르게 찍기"), (
            ("모든 글", "val_bpc", "ngram_bpc", "unigram_bpc", "uniform_bpc"), *_each(SOURCES, "val_bpc_{}", "ngram_bpc_{}", "", "")),
            ("5-gram", "유니그램", "고르게 찍기"), "검증 BPC", {"bpc_": "이 데이터에는 그런 글이 없다"}),
        Grid(("값",), (("파라미터", "params"), ("학습 토큰", "train_tokens"), ("초당 토큰", "tokens_per_s"), ("MFU", "mfu"))),
    ),
    "task_model": (
        Grid(("정확도 ↑", "학습한 수", "저장할 크기", "초"), (
            *_each(METHODS, "{}_accuracy", "{}_trainable_params", "{}_adapter_bytes", "{}_seconds"),
            ("TF-IDF", "tfidf_accuracy", "", "", "tfidf_seconds"), ("다수 라벨", "majority_accuracy", "", "", "")),
            ("TF-IDF", "다수 라벨")),
    ),
    "evaluation": (
        Grid(("미세조정한 분류기 ↑", "TF-IDF", "다수 라벨", "예시 없이 묻기", "예시와 함께 묻기", "문항"), _each(
            TASKS, "{}_accuracy", "{}_tfidf_accuracy", "{}_majority_accuracy", "{}_zero_shot_accuracy", "{}_few_shot_accuracy", "{}_items"),
            ("TF-IDF", "다수 라벨"), absent={"few_shot": "문항이 길어 문맥에 예시를 넣을 자리가 없다"}),
        Grid(("모델이 쓴 답 ↑", "글에서 아무 낱말"), _each({"accuracy": "정확히 같은 답", "f1": "글자 F1"},
             "reading_{}", "reading_random_word_{}"), ("글에서 아무 낱말",), "독해"),
    ),
    "compression": (
        Grid(("BPC", "크기 ↓", "감성 정확도", "초당 토큰"), _each(SMALLER, "{}_bpc", "{}_bytes", "{}_accuracy", "{}_tokens_per_s"),
             ("float32",), absent={"bnb_": "bitsandbytes를 이 기계에서 쓸 수 없다", "torchao_": "torchao를 이 기계에서 쓸 수 없다",
                                   "tokens_per_s": "글을 쓰는 속도는 몇 가지 방법에서만 잰다",
                                   "accuracy": "분류기는 그 방법으로 줄이지 않는다"}),
        Grid(("BPC의 차이 ↓",), (("INT4: GPTQ − 반올림", "int4_gptq_minus_int4_bpc"), ("INT4: AWQ − 반올림", "int4_awq_minus_int4_bpc"),
                               ("작은 모델: 증류 − 처음부터", "distilled_minus_scratch_bpc")), title="같은 글에서 짝지어 잰 차이"),
        Grid(("초안이 받아들여진 비율", "속도 배율"), _each({"": "작은 모델이 초안", "table_": "표가 초안"}, "speculative_{}acceptance",
             "speculative_{}speedup"), title="추측 디코딩"),
    ),
    "alignment": (
        Grid(("정렬 후(DPO)", "정렬 전(SFT)", "차이"), _each(ALIGNED, "{}_after", "{}_before", "{}_change"), ("정렬 전(SFT)",)),
        Grid(("정렬 후", "정렬 전", "정답"), (("모든 답", "distinct2_after", "distinct2_before", "distinct2_true"),
                                     ("공손한 답만", "distinct2_polite_after", "distinct2_polite_before", "distinct2_true_polite"),
                                     ("뽑아 쓴 답", "distinct2_sampled_after", "distinct2_sampled_before", "")), ("정렬 전", "정답"),
             "답이 얼마나 여러 가지인가(서로 다른 글자쌍의 비율, distinct-2)"),
        Grid(("DPO", "모방만", "DPO 항만(큰 걸음)", "DPO − 모방"), (
            ("바람직한 답 ↑", "preferred_after", "imitation_preferred", "plain_preferred", "dpo_minus_imitation_preferred"),
            ("선호 정확도 ↑", "dpo_pref_accuracy_after", "imitation_pref_accuracy", "plain_pref_accuracy",
             "dpo_minus_imitation_pref_accuracy")), ("모방만",), "무엇이 효과를 냈나"),
        Grid(("보상", "배우기 전", "차이 ↑", "맞는 답", "배우기 전의 맞는 답"), _each(REWARDED, "{}_reward_after", "{}_reward_before",
             "{}_reward_change", "{}_right_after", "{}_right_before"), ("배우기 전", "배우기 전의 맞는 답"), "보상으로 배우기"),
        Grid(("값", "견줄 것"), (("SFT 검증 손실 ↓ (견줄 것: 사전학습만)", "sft_val_loss", "base_val_loss"),
                             ("보상 모델 정확도 ↑ (견줄 것: 긴 답 고르기)", "rm_accuracy", "rm_accuracy_longer")), ("견줄 것",)),
        Grid(("정렬 후", "정렬 전", "정답"), (
            *_each({"pref_accuracy": "선호 정확도", "val_loss": "검증 손실(토큰당 nat)"}, "chatbot_{}_after", "chatbot_{}_before", ""),
            *_each({"distinct2": "distinct-2", "different": "서로 다른 답"}, "chatbot_{}_after", "chatbot_{}_before", "chatbot_{}_true"),
            *_each({"commonest": "가장 흔한 답의 비율", "distinct2_sampled": "distinct-2, 뽑아 쓸 때",
                    "different_sampled": "서로 다른 답, 뽑아 쓸 때", "commonest_sampled": "가장 흔한 답의 비율, 뽑아 쓸 때"},
                   "chatbot_{}_after", "chatbot_{}_before", "")),
            ("정렬 전", "정답"), "실제 잡담", {"chatbot_": "실제 데이터(챗봇)로 돌렸을 때만 잰다"}),
    ),
    "course": (
        Grid(("지금", "전체"), (("준비된 단계", "stages_ready", "stages"), ("해시가 맞는 입력", "edges_matching", "edges")), ("전체",)),
        Grid(("값",), (("만드는 데 든 시간(초)", "total_seconds"), ("산출물의 크기", "total_bytes"), ("최대 메모리(MB)", "peak_rss_mb")),
             absent={"peak": "아직 아무 단계도 실행하지 않았다"}),
    ),
    "feedback": (
        Grid(("다시 배운 뒤", "배우기 전", "차이"), _each(LEARNT, "feedback_{}_pref_accuracy_after", "feedback_{}_pref_accuracy_before",
             "feedback_{}_pref_accuracy_change"), ("배우기 전",), "내 평가로 한 번 더",
             {"feedback_": "데모에서 모은 평가로 다시 배우는 `workshop feedback`을 아직 실행하지 않았다"}),
    ),
}  # fmt: skip

# The one comparison of each week that the top of the card shows: label, metric, label of the baseline, its metric.
HEADLINES: dict[str, tuple[str, str, str, str]] = {
    "environment": ("준비된 도구", "tools_ready", "전체", "tools_listed"),
    "corpus": ("남은 문서", "docs_out", "들어온 문서", "docs_in"),
    "tokenizer": ("토큰당 글자 ↑", "chars_per_token", "영어 토크나이저", "english_chars_per_token"),
    "comparison": ("검증 BPC(Mamba) ↓", "val_bpc_mamba", "RNN", "val_bpc_rnn"),
    "base_model": ("검증 BPC ↓", "val_bpc", "5-gram", "ngram_bpc"),
    "task_model": ("감성 정확도 ↑", "adapted_accuracy", "TF-IDF", "tfidf_accuracy"),
    "evaluation": ("주제 정확도 ↑", "topics_accuracy", "TF-IDF", "topics_tfidf_accuracy"),
    "compression": ("크기(INT4 GPTQ) ↓", "int4_gptq_bytes", "float32", "fp32_bytes"),
    "alignment": ("바람직한 답 ↑", "preferred_after", "정렬 전", "preferred_before"),
    "course": ("해시가 맞는 입력", "edges_matching", "전체", "edges"),
}


def finite(value: object) -> bool:
    """Whether a metric holds a number that can be shown and compared."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def shown(key: str, value: object, like: float | None = None, unit: bool = True) -> str:
    """A metric as a reader wants it: shares in percent, bytes in kB or MB, differences signed. like: the value whose unit is taken."""
    if not finite(value):
        return f"{UNMEASURED}(값이 {value})"
    size, signed = abs(value if like is None else like), SIGNED.search(key)
    sign = "+" if signed and value > 0 else ""
    if SIZES.search(key):
        scale, places, name = (1e6, 2, " MB") if size >= 1e6 else (1e3, 1, " kB") if size >= 1e3 else (1, 0, " B")
    elif SHARES.search(key) and size <= 1:
        scale, places, name = 0.01, 1, " %p" if signed else " %"
    else:
        return sign + number(int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 1e15 else value)
    return f"{sign}{value / scale:,.{places}f}{name if unit else ''}"


def interval(metrics: Mapping[str, float], key: str) -> tuple[float, float] | None:
    """The 95 % interval that was measured with a metric, if there is one."""
    for stem in (key, f"{key}_ci", re.sub("accuracy$", "ci", key)):
        low, high = metrics.get(f"{stem}_low"), metrics.get(f"{stem}_high")
        if finite(low) and finite(high):
            return low, high
    return None


def with_interval(metrics: Mapping[str, float], key: str) -> str:
    """A metric's value and, in brackets, its interval."""
    ends = interval(metrics, key) if finite(metrics[key]) else None
    inside = ", ".join(shown(key, end, metrics[key], unit=False) for end in ends or ())
    return shown(key, metrics[key]) + (f" [{inside}]" if ends else "")
