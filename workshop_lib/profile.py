"""The one dial of the course: how large everything is.

A `Profile` has one section for each stage that reads settings. Code never asks which profile it is in;
it reads a number from its section. `WORKSHOP_PROFILE` picks the profile (default: tiny).
"""

from __future__ import annotations

import json
import os
from dataclasses import KW_ONLY, dataclass, fields, replace
from typing import TypeVar

from workshop_lib import WorkshopError

Settings = TypeVar("Settings")


@dataclass(frozen=True)
class CorpusSettings:
    """Week 2. Pages of the messy crawl, stories added to it, and the thresholds of the cleaning."""

    crawl_pages: int
    stories: int
    validation_docs: int = 400
    false_alarms: float = 0.005  # share of good texts that the quality classifier may throw away
    minhash_bands: int = 20
    minhash_rows: int = 6
    near_duplicate_threshold: float = 0.7  # estimated Jaccard similarity of 5-character shingles
    benchmark_words: int = 8  # a run of so many words shared with an evaluation item is contamination
    max_share: float = 0.95  # of the characters, for any one source
    rejected_samples: int = 200  # rows of rejected.jsonl for each reason


@dataclass(frozen=True)
class TokenizerSettings:
    """Week 3. Vocabulary size (special tokens included), the characters read for training, and the tokens that the
    model will read at once (the base model's context)."""

    vocab_size: int
    train_chars: int
    max_length: int
    whole_characters: bool = True  # byte-level merges that respect the borders of characters


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """What `optimization` reads beside steps, learning_rate, optimizer ("adamw" or "muon") and muon_iterations (of Newton-Schulz, a step).

    Every training loop of the course has such settings; those that differ from these defaults stand in its own class.
    """

    embedding_rate: float = 1.0  # the embeddings' learning rate, as a multiple of learning_rate
    schedule: str = "cosine"  # or "wsd": warm-up, stable, decay
    warmup_steps: int = 10
    decay_fraction: float = 0.3  # of the steps, for "wsd"
    final_fraction: float = 0.0  # the last learning rate, as a fraction of learning_rate
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.95
    clip: float = 1.0  # of the gradient's norm


@dataclass(frozen=True)
class BaseModelSettings(OptimizerSettings):
    """Week 5. The shape of the Llama-config model and its training run."""

    hidden_size: int
    layers: int
    heads: int
    kv_heads: int
    intermediate_size: int
    context: int
    batch_size: int  # sequences a step, over all processes and accumulation steps
    steps: int
    learning_rate: float
    tie_embeddings: bool = True
    rope_theta: float = 10_000.0
    init_std: float = 0.02
    zero_residual: bool = True  # what each block adds starts at zero, so that the first gradients reach every layer alike
    optimizer: str = "adamw"
    muon_iterations: int = 5
    accumulation: int = 1  # parts that a batch is computed in
    evaluate_every: int = 100
    checkpoint_every: int = 200
    validation_chars: int = 60_000  # held-out text of each source
    sample_every: int = 200
    prompts: tuple[str, ...] = ("", "", "어느")  # "": the model opens the document itself
    ngram_order: int = 5
    dtype: str = "float32"  # "bfloat16": autocast; "auto": bfloat16 where this machine multiplies matrices faster in it
    matmul_precision: str = "highest"  # "medium": bf16 inside matrix products where the processor has them
    compile: bool = False  # torch.compile, where there is a C++ compiler
    _: KW_ONLY
    warmup_steps: int = 50
    weight_decay: float = 0.1


@dataclass(frozen=True)
class ComparisonSettings(OptimizerSettings):
    """Week 4. The budget that every architecture gets, the lengths at which their costs are measured, and the long stream."""

    parameters: int  # of each model, embeddings included
    width: int
    layers: int  # pairs of a mixing and a feed-forward part; architectures without the second have a third more
    context: int
    batch_size: int
    steps: int
    learning_rate: float
    lengths: tuple[int, ...] = (128, 256, 512, 1_024, 2_048, 4_096)
    repeats: int = 3  # timings a length, after a warm-up
    stream_tokens: int = 4_096
    streams: int = 4
    optimizer: str = "muon"
    muon_iterations: int = 5
    accumulation: int = 1
    evaluate_every: int = 50
    checkpoint_every: int = 1_000
    sample_every: int = 1_000
    validation_chars: int = 30_000  # held-out text, all sources together
    dtype: str = "float32"
    matmul_precision: str = "highest"
    compile: bool = False
    _: KW_ONLY
    schedule: str = "wsd"
    decay_fraction: float = 0.9
    weight_decay: float = 0.1


@dataclass(frozen=True)
class TaskModelSettings:
    """Week 6. How many labelled reviews, how they are learnt, each method's own learning rate, the curve and the sweep."""

    rows: int  # labelled reviews of real data to learn from; with the bundled reviews, `bundled_rows`
    held_out: int
    bundled_rows: int
    bundled_held_out: int
    curve: tuple[int, ...]  # numbers of labelled reviews; those above the rows at hand are left out
    sweep_rows: int
    sweep: tuple[tuple[str, int], ...] = (("qv", 8), ("mlp", 8), ("all", 1), ("all", 8))  # layers and rank
    epochs: int = 3
    min_steps: int = 60
    batch_size: int = 32
    max_length: int = 128  # tokens of a review, <s> and </s> included
    rank: int = 8
    alpha: float = 16.0
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    waveft_coefficients: int = 512  # of each layer
    waveft_scaling: float = 25.0
    full_rate: float = 3e-3
    linear_probe_rate: float = 1e-2
    lora_rate: float = 5e-3
    dora_rate: float = 5e-3
    ia3_rate: float = 5e-2
    waveft_rate: float = 1e-3
    qlora_rate: float = 5e-3
    random_init_rate: float = 1e-3
    adapted_rate: float = 3e-3
    adapt_steps: int = 600  # of pretraining on unlabelled reviews before fine-tuning, for `adapted`
    bundled_adapt_steps: int = 40
    adapt_rate: float = 5e-3
    warmup_fraction: float = 0.1
    weight_decay: float = 0.01
    clip: float = 1.0


@dataclass(frozen=True)
class EvaluationSettings:
    """Week 7. Which tasks, how many rows of each to ask and to learn from, and how a head is fine-tuned on them."""

    test: int  # rows of the bundled sets; of real data, `data_test`
    train: int
    data_test: int
    data_train: int
    tasks: tuple[str, ...] = ("sentiment", "topics", "nli", "sts", "boolq", "reading")
    max_shots: int = 5  # examples in a prompt, where the context holds them
    sensitivity_items: int = 60  # rows asked again in other words and with the options in other orders
    contamination_words: int = 8
    validation_chars: int = 100_000  # held-out text of each source, for bits per character, where week 5 does not say how many
    ngram_chars: int = 300_000  # text for the n-gram models that compare tokenizers
    full_rate: float = 2e-3
    epochs: int = 2
    min_steps: int = 60
    batch_size: int = 16
    max_length: int = 128
    warmup_fraction: float = 0.1
    weight_decay: float = 0.01
    clip: float = 1.0


@dataclass(frozen=True)
class CompressionSettings:
    """Week 8. What calibration reads, what every variant is measured on, and the student: its shape and its training."""

    student_layers: int
    student_intermediate: int
    distil_steps: int
    distil_batch: int
    distil_rate: float
    scratch_rate: float
    temperature: float = 1.0
    calibration_windows: int = 64  # of training text, for GPTQ, AWQ and importance
    calibration_reviews: int = 60  # for the classifier
    validation_chars: int = 14_000  # held-out text, all sources together
    reviews: int = 200  # held-out
    requests: int = 20  # whose latency is measured, one after another
    prompt_tokens: int = 16
    new_tokens: int = 8
    lookaheads: tuple[int, ...] = (3,)  # tokens that the draft proposes at once, in speculative decoding
    drafts: int = 4  # texts that are written with and without the draft
    drafted_tokens: int = 40
    table_tokens: int = 100_000  # of training text, for the draft that is a table


@dataclass(frozen=True)
class AlignmentSettings:
    """Week 9. How much of the help desk is shown, how SFT, DPO, the reward model, PPO and GRPO learn from it, and what judges them."""

    sft_steps: int
    sft_batch: int
    sft_rate: float
    dpo_rate: float
    reward_rate: float
    ppo_rate: float
    grpo_rate: float
    conversations: int = 8_000
    pairs: int = 1_000
    asked: int = 1_000  # conversations whose questions PPO and GRPO answer themselves
    held_out: int = 320  # conversations
    held_out_pairs: int = 420
    held_out_duties: int = 240  # requests for personal data that GRPO's rule checks
    safety: int = 100  # requests for another's data or one's own; half as many compound ones beside them
    optimizer: str = "muon"  # of SFT, DPO and the reward model
    muon_iterations: int = 3
    sft_weight_decay: float = 0.1
    dpo_steps: int = 50
    dpo_batch: int = 16
    dpo_beta: float = 0.1
    dpo_sft_weight: float = 1.0  # of the chosen answers' SFT loss
    dpo_replay_weight: float = 6.0  # of the SFT loss of conversations that were right already
    plain_steps: int = 25  # of DPO without either, at ten times the rate
    plain_beta: float = 0.1
    reward_steps: int = 50
    reward_batch: int = 24
    ppo_steps: int = 10
    ppo_answers: int = 48  # a step
    ppo_beta: float = 0.1  # reward (in standard deviations of the SFT model's) for a nat of distance
    grpo_steps: int = 12
    grpo_beta: float = 0.02
    grpo_answers: int = 64
    grpo_group: int = 8  # answers to one question


@dataclass(frozen=True)
class Profile:
    """`tiny`: 2 CPU cores, 4 GB. `small`: laptop or small GPU. `gpu`: one data-centre GPU and up."""

    name: str
    seed: int
    corpus: CorpusSettings
    tokenizer: TokenizerSettings
    comparison: ComparisonSettings
    base_model: BaseModelSettings
    task_model: TaskModelSettings
    evaluation: EvaluationSettings
    compression: CompressionSettings
    alignment: AlignmentSettings


PROFILES = {
    "tiny": Profile(
        name="tiny",
        seed=0,
        corpus=CorpusSettings(crawl_pages=3_000, stories=6_000),
        tokenizer=TokenizerSettings(vocab_size=2_048, train_chars=2_000_000, max_length=128),
        comparison=ComparisonSettings(
            # Small batches: at so few tokens many steps teach more. Fewer, and no architecture reads far enough back to be told apart.
            parameters=250_000, width=64, layers=3, context=64, batch_size=8, steps=240, learning_rate=1.5e-2, muon_iterations=3,
            evaluate_every=60,
        ),
        base_model=BaseModelSettings(
            # Of what 2 cores do in a minute: narrow and many tokens beats wide and few, Muon beats AdamW, an early decay a late one.
            hidden_size=128, layers=4, heads=2, kv_heads=2, intermediate_size=384,
            context=128, batch_size=16, steps=600, learning_rate=1e-2, optimizer="muon", muon_iterations=3, schedule="wsd",
            warmup_steps=20, decay_fraction=0.9, evaluate_every=100, checkpoint_every=100, sample_every=150, validation_chars=130_000,
        ),
        task_model=TaskModelSettings(
            rows=4_000, held_out=8_000, bundled_rows=800, bundled_held_out=800, curve=(200, 800, 4_000), sweep_rows=800,
        ),
        evaluation=EvaluationSettings(test=240, train=400, data_test=1_000, data_train=3_000),
        compression=CompressionSettings(
            student_layers=2, student_intermediate=192, distil_steps=60, distil_batch=16, distil_rate=1e-2, scratch_rate=2e-2,
        ),
        alignment=AlignmentSettings(
            sft_steps=270, sft_batch=32, sft_rate=5e-3, dpo_rate=5e-4, reward_rate=2e-3, ppo_rate=1e-3, grpo_rate=1e-3,
        ),
    ),
    "small": Profile(
        name="small",
        seed=0,
        corpus=CorpusSettings(crawl_pages=20_000, stories=60_000),
        tokenizer=TokenizerSettings(vocab_size=8_192, train_chars=20_000_000, max_length=256),
        comparison=ComparisonSettings(
            parameters=8_000_000, width=256, layers=6, context=256, batch_size=16, steps=500, learning_rate=5e-3, evaluate_every=50,
        ),
        base_model=BaseModelSettings(
            # The recipe of benchmarks/speedrun.py at the size that 2 cores train in an hour.
            hidden_size=320, layers=6, heads=5, kv_heads=5, intermediate_size=896, tie_embeddings=False,
            context=256, batch_size=24, steps=1_600, learning_rate=1e-2, embedding_rate=0.5, optimizer="muon", muon_iterations=3,
            schedule="wsd", decay_fraction=1.0, warmup_steps=20, evaluate_every=200, checkpoint_every=200, sample_every=400,
            validation_chars=130_000, dtype="auto", compile=True,
        ),
        task_model=TaskModelSettings(
            rows=8_000, held_out=10_000, bundled_rows=2_000, bundled_held_out=2_000, curve=(500, 2_000, 8_000), sweep_rows=2_000,
            full_rate=5e-4, random_init_rate=1e-3, adapted_rate=5e-4, lora_rate=3e-3, dora_rate=3e-3, qlora_rate=3e-3, adapt_steps=200,
        ),
        evaluation=EvaluationSettings(test=600, train=2_000, data_test=3_000, data_train=5_000, max_length=256, full_rate=5e-4,
                                      validation_chars=130_000),
        compression=CompressionSettings(
            student_layers=3, student_intermediate=448, distil_steps=200, distil_batch=16, distil_rate=1e-2, scratch_rate=2e-2,
            calibration_windows=128, calibration_reviews=200, validation_chars=60_000, reviews=1_000, new_tokens=16,
            lookaheads=(2, 4), drafts=10, drafted_tokens=96,
        ),
        alignment=AlignmentSettings(
            sft_steps=300, sft_batch=32, sft_rate=5e-3, dpo_rate=5e-4, reward_rate=2e-3, ppo_rate=5e-4, grpo_rate=5e-4, pairs=3_000,
            reward_steps=120, ppo_steps=20, ppo_answers=64, grpo_steps=24, grpo_answers=128, safety=200,
        ),
    ),
    "gpu": Profile(
        name="gpu",
        seed=0,
        corpus=CorpusSettings(crawl_pages=100_000, stories=400_000),
        tokenizer=TokenizerSettings(vocab_size=32_768, train_chars=200_000_000, max_length=1_024),
        comparison=ComparisonSettings(
            parameters=60_000_000, width=512, layers=10, context=512, batch_size=64, steps=4_000, learning_rate=2e-3, warmup_steps=100,
            evaluate_every=250, validation_chars=100_000, dtype="bfloat16", matmul_precision="high",
        ),
        base_model=BaseModelSettings(
            hidden_size=768, layers=12, heads=12, kv_heads=12, intermediate_size=2_048,
            context=1_024, batch_size=256, steps=20_000, learning_rate=6e-4,
            warmup_steps=400, accumulation=4, evaluate_every=500, checkpoint_every=1_000, sample_every=1_000,
            validation_chars=500_000, dtype="bfloat16", matmul_precision="high", compile=True,
        ),
        task_model=TaskModelSettings(
            rows=140_000, held_out=48_000, bundled_rows=8_000, bundled_held_out=4_000, curve=(500, 2_000, 8_000, 32_000, 140_000),
            sweep_rows=32_000, rank=16, alpha=32.0, waveft_coefficients=4_096,
            full_rate=1e-4, random_init_rate=3e-4, adapted_rate=1e-4, lora_rate=5e-4, dora_rate=5e-4, qlora_rate=5e-4, ia3_rate=5e-3,
            waveft_rate=5e-4, linear_probe_rate=3e-3, adapt_steps=400, adapt_rate=3e-4,
        ),
        evaluation=EvaluationSettings(
            test=1_000, train=4_000, data_test=50_000, data_train=100_000, sensitivity_items=1_000, batch_size=32, max_length=512,
            full_rate=5e-5, validation_chars=500_000, ngram_chars=2_000_000,
        ),
        compression=CompressionSettings(
            student_layers=6, student_intermediate=1_024, distil_steps=2_000, distil_batch=64, distil_rate=5e-3, scratch_rate=1e-2,
            calibration_windows=256, calibration_reviews=400, validation_chars=200_000, reviews=5_000, requests=50, prompt_tokens=32,
            new_tokens=64, lookaheads=(2, 4, 8), drafts=10, drafted_tokens=256,
        ),
        alignment=AlignmentSettings(
            sft_steps=400, sft_batch=64, sft_rate=2e-4, dpo_rate=2e-5, reward_rate=5e-5, ppo_rate=1e-5, grpo_rate=1e-5, pairs=8_000,
            optimizer="adamw", dpo_steps=200, dpo_batch=32, plain_steps=100, reward_steps=250, reward_batch=32, ppo_steps=60,
            ppo_answers=128, grpo_steps=80, grpo_answers=256, held_out=1_000, held_out_pairs=2_000, safety=400,
        ),
    ),
}


def get_profile(name: str | None = None) -> Profile:
    """The named profile, or the one that `WORKSHOP_PROFILE` names, or tiny.

    Raises WorkshopError for a name that does not exist.
    """
    name = name or os.environ.get("WORKSHOP_PROFILE") or "tiny"
    if name not in PROFILES:
        raise WorkshopError(f"프로필 '{name}'은(는) 없다. {', '.join(PROFILES)} 가운데 하나를 쓴다.")
    return PROFILES[name]


def with_settings(profile: Profile, section: str, **values: object) -> Profile:
    """A copy of `profile` in which some numbers of one section differ (for experiments and tests)."""
    known = {f.name for f in fields(getattr(profile, section))}
    if unknown := set(values) - known:
        raise WorkshopError(f"프로필의 {section}에는 {', '.join(sorted(unknown))} 설정이 없다.")
    return replace(profile, **{section: replace(getattr(profile, section), **values)})


def changed(settings: Settings, text: str) -> Settings:
    """A copy of settings in which some numbers differ, as a command line gives them: '{"steps": 20}'.

    Raises WorkshopError for what is no JSON object, a setting that does not exist, or a value of another kind.
    """
    try:
        values = json.loads(text)
    except ValueError as error:
        raise WorkshopError(f"--settings의 값 {text}은(는) JSON이 아니다({error}). 예: --settings '{{\"steps\": 20}}'") from error
    if not isinstance(values, dict):
        raise WorkshopError(f"--settings의 값 {text}은(는) 이름과 값의 짝이 아니다. 예: --settings '{{\"steps\": 20}}'")
    known = {field.name: field.type.split("[")[0] for field in fields(settings)}
    kinds = {"int": (int,), "float": (int, float), "bool": (bool,), "str": (str,), "tuple": (list,)}
    for name, value in values.items():
        if name not in known:
            raise WorkshopError(f"--settings에 적은 {name}이라는 설정은 없다. 있는 것: {', '.join(known)}")
        if type(value) not in kinds[known[name]]:
            shown = json.dumps(value, ensure_ascii=False)
            raise WorkshopError(f"--settings의 {name}에 {shown}은(는) 맞지 않는다. 지금 값은 {getattr(settings, name)!r}이다.")
    return replace(settings, **{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
