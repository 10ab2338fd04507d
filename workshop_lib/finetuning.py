"""Fine-tuning: one base model, one task, and every common way of teaching it: all weights, a head, LoRA, DoRA, IA³, WaveFT, QLoRA.

The task is the sentiment of a film review. The classifier is transformers' own (`AutoModelForSequenceClassification` on the
base folder), the adapters are PEFT's; `lora` holds LoRA and DoRA from scratch and the test that they are the same.

Notable choices
- One loop, one data order, one number of steps for every method: what differs is which numbers learn, and the learning rate,
  which was searched for each method on training reviews alone (benchmarks/finetuning_rates.py).
- Memory is that of the tensors at the highest point of one step on the longest batch, counted allocation by allocation, not the
  process's, which would hold what other methods have left behind. On a GPU it is the allocator's own peak.
- `adapt` goes on pretraining on unlabelled reviews first (Gururangan et al. 2020): what more pretraining is worth, measured.
- Every accuracy has a Wilson interval; predictions are kept so that methods can be compared on the same reviews (week 7).
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from workshop_lib import WorkshopError, display
from workshop_lib.classification import (
    Encoded,
    accuracy,
    classifier,
    collate,
    encode,
    endless,
    logits,
    peft_library,
    save_classifier,
)
from workshop_lib.classification import batches as batches
from workshop_lib.classification import pool_last as pool_last
from workshop_lib.classification import predict as predict
from workshop_lib.labelled import LABELS, sentiment, unlabelled
from workshop_lib.optimization import clip_by_global_norm, cosine_with_warmup, decay_groups
from workshop_lib.throughput import peak_memory
from workshop_lib.workspace import write_rows

METHODS = {
    "full": "전체 미세조정", "linear_probe": "선형 탐침", "lora": "LoRA", "dora": "DoRA", "ia3": "IA³", "waveft": "WaveFT",
    "qlora": "QLoRA", "random_init": "무작위 초기값", "adapted": "추가 사전학습 + 전체",
}
ADAPTERS = ("lora", "dora", "ia3", "waveft", "qlora")  # methods whose result is a PEFT folder
UNLABELLED_ROWS = 150  # read for each step of `adapt`: about as many tokens as a step takes
WITHOUT_MODEL = {"tfidf": "TF-IDF + 로지스틱 회귀", "majority": "다수 라벨"}
TARGETS = {  # the layers that a sweep adapts, by transformers' names for them
    "qv": ("q_proj", "v_proj"),
    "attention": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "mlp": ("gate_proj", "up_proj", "down_proj"),
    "all": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
}


@dataclass
class Result:
    """A fine-tuned model and what it cost. `losses`: one a step. `predictions`: (held-out,) labels, where it was measured."""

    method: str
    model: nn.Module
    trainable: int
    seconds: float
    peak_mb: float
    adapter_bytes: int
    losses: list[float]
    accuracy: float = math.nan
    interval: tuple[float, float] = (math.nan, math.nan)
    predictions: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def metrics(self, name: str | None = None) -> dict[str, float]:
        """The flat numbers of report.json, with the method's name in front."""
        name = name or self.method
        return measured(name, self.accuracy, self.interval) | {
            f"{name}_trainable_params": self.trainable, f"{name}_seconds": self.seconds, f"{name}_peak_mb": self.peak_mb,
            f"{name}_adapter_bytes": self.adapter_bytes,
        }


def measured(name: str, accuracy: float, interval: tuple[float, float]) -> dict[str, float]:
    """`<name>_accuracy` and its interval's ends."""
    return {f"{name}_accuracy": accuracy, f"{name}_accuracy_ci_low": interval[0], f"{name}_accuracy_ci_high": interval[1]}


# --- models ----------------------------------------------------------------------------------------------------------


def prepare(
    method: str, base: Path | str, settings, seed: int = 0, targets: Sequence[str] | None = None, rank: int | None = None,
    labels: Sequence[str] = LABELS,
) -> nn.Module:
    """The classifier with only the method's own numbers trainable; the head always is.

    Raises WorkshopError for a method that does not exist.
    """
    if method not in METHODS:
        raise WorkshopError(f"미세조정 방법 '{method}'은(는) 없다. {', '.join(METHODS)} 가운데 하나를 쓴다.")
    model = classifier(base, seed, method != "random_init", method == "qlora", labels)
    if method == "linear_probe":
        model.requires_grad_(False)
        model.score.requires_grad_(True)
    if method not in ADAPTERS:
        return model
    peft = peft_library()
    targets = list(targets or settings.targets)
    if method == "ia3":
        config = peft.IA3Config(task_type="SEQ_CLS", target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"])
    elif method == "waveft":
        config = peft.WaveFTConfig(
            task_type="SEQ_CLS", n_frequency=settings.waveft_coefficients, scaling=settings.waveft_scaling, target_modules=targets,
            random_loc_seed=seed,
        )
    else:
        rank = rank or settings.rank
        config = peft.LoraConfig(
            task_type="SEQ_CLS", r=rank, lora_alpha=settings.alpha, target_modules=targets, use_dora=method == "dora",
        )
    if method == "qlora":
        model = peft.prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return peft.get_peft_model(model, config)


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that learn, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def adapter_bytes(model: nn.Module) -> int:
    """Bytes of the file that holds what the training made: the adapter and the head, or all weights where all have learned."""
    from safetensors.torch import save

    adapted = hasattr(model, "peft_config")
    state = peft_library().get_peft_model_state_dict(model, save_embedding_layers=False) if adapted else trainable(model)
    return len(save({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}))


def adapt(base: Path | str, texts: Sequence[str], settings, folder: Path, seed: int = 0, progress: bool = True) -> Path:
    """Go on pretraining the base model on unlabelled texts of the task for `adapt_steps`, into a base folder of its own.

    Gururangan et al. 2020 (arXiv 2004.10964). Batch, context and optimiser are those of the profile's week 5.
    Raises WorkshopError when the texts are shorter than one context.
    """
    from transformers import AutoTokenizer

    from workshop_lib.checkpoints import load_model, save_model
    from workshop_lib.pretraining import train
    from workshop_lib.profile import get_profile

    tokenizer, model = AutoTokenizer.from_pretrained(base), load_model(Path(base))
    recipe = get_profile().base_model
    context = min(recipe.context, model.config.max_position_embeddings)
    recipe = replace(recipe, steps=settings.adapt_steps, learning_rate=settings.adapt_rate, context=context, compile=False)
    lines = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"] if texts else []
    stream = [token for line in lines for token in (tokenizer.bos_token_id, *line, tokenizer.eos_token_id)]
    budget = recipe.steps * recipe.batch_size * context + 1
    tokens = np.array(stream[:budget], dtype=np.uint16 if len(tokenizer) <= 2**16 else np.uint32)
    train(model.to("cuda" if torch.cuda.is_available() else "cpu"), tokens, recipe, seed, progress=progress, peak=1.0)
    folder.mkdir(parents=True, exist_ok=True)
    save_model(model, tokenizer, folder)
    return folder


# --- training and measuring ------------------------------------------------------------------------------------------


def finetune(
    method: str, base: Path | str, train: Encoded, settings, seed: int = 0, held_out: Encoded | None = None, rate: float | None = None,
    steps: int | None = None, targets: Sequence[str] | None = None, rank: int | None = None, memory: bool = True, progress: bool = True,
    labels: Sequence[str] = LABELS,
) -> Result:
    """Teach the base model the task by one method, and measure it on `held_out` where that is given.

    base: a base model's folder. `rate`, `steps`, `targets`, `rank`: instead of the settings'. `memory=False` leaves its measurement
    out. `labels`: the names of the classes 0, 1, …, for tasks other than sentiment. Raises WorkshopError for an unknown method, no
    training rows, or a loss that is no longer a number.
    """
    if not len(train):
        raise WorkshopError("학습할 리뷰가 하나도 없다. 라벨이 붙은 리뷰를 한 개 이상 준다.")
    model = prepare(method, base, settings, seed, targets, rank, labels)
    parameters = trainable(model)
    steps = steps or training_steps(len(train), settings)
    rate = rate or getattr(settings, f"{method}_rate")
    stepper = torch.optim.AdamW(decay_groups(parameters.items(), settings.weight_decay), lr=rate, betas=(0.9, 0.98), fused=True)
    order = endless([len(ids) for ids in train.ids], settings.batch_size, seed)
    pad, warmup = model.config.pad_token_id, max(round(settings.warmup_fraction * steps), 1)
    losses: list[float] = []
    model.train()
    start = time.perf_counter()
    for step in display.progress(range(steps), desc=METHODS[method], disable=not progress):
        for group in stepper.param_groups:
            group["lr"] = cosine_with_warmup(step, steps, rate, warmup)
        losses.append(_step(model, stepper, train, next(order), pad, parameters.values(), settings.clip))
        if not math.isfinite(losses[-1]):
            raise WorkshopError(f"{METHODS[method]}의 {step + 1}번째 단계에서 손실이 {losses[-1]:g}이 되어 멈춘다(학습률 {rate:g}). "
                                "학습률을 절반으로 낮춘다.")
    seconds = time.perf_counter() - start
    longest = sorted(range(len(train)), key=lambda index: len(train.ids[index]))[-settings.batch_size :]
    peak = peak_mb(model, stepper, lambda: _gradients(model, train, longest, pad)) if memory else math.nan
    result = Result(method, model, sum(p.numel() for p in parameters.values()), seconds, peak, adapter_bytes(model), losses)
    if held_out is not None:
        score(result, held_out)
    return result


def training_steps(rows: int, settings) -> int:
    """Epochs over the rows, but never fewer than `min_steps`: a handful of reviews needs to be seen more often."""
    return max(math.ceil(rows / settings.batch_size) * settings.epochs, settings.min_steps)


def _gradients(model: nn.Module, train: Encoded, rows: list[int], pad: int) -> Tensor:
    ids, mask = collate([train.ids[row] for row in rows], pad)
    device = next(model.parameters()).device
    labels = torch.from_numpy(train.labels[rows]).to(device)
    loss = nn.functional.cross_entropy(model(input_ids=ids.to(device), attention_mask=mask.to(device)).logits.float(), labels)
    loss.backward()
    return loss.detach()


def _step(model, stepper, train: Encoded, rows: list[int], pad: int, parameters, clip: float) -> float:
    loss = float(_gradients(model, train, rows, pad))
    clip_by_global_norm([p.grad for p in parameters if p.grad is not None], clip)
    stepper.step()
    stepper.zero_grad(set_to_none=True)
    return loss


def peak_mb(model: nn.Module, stepper: torch.optim.Optimizer, work) -> float:
    """Megabytes (10^6) of tensors at the highest point of `work()`: weights, optimiser state, and all that the call allocates."""
    stepper.zero_grad(set_to_none=True)
    state = [value for slot in stepper.state.values() for value in slot.values() if torch.is_tensor(value)]
    held = sum(t.numel() * t.element_size() for t in [*model.parameters(), *model.buffers(), *state])
    highest = peak_memory(work)
    stepper.zero_grad(set_to_none=True)
    return (held + highest) / 1e6


def score(result: Result, held_out: Encoded) -> Result:
    """Fill in the accuracy on held-out reviews, its 95 % interval, and the predictions."""
    result.predictions = logits(result.model, held_out).argmax(dim=1).numpy()
    result.accuracy, result.interval = accuracy(result.predictions, held_out.labels)
    return result


# --- baselines and curves ---------------------------------------------------------------------------------------------


def baselines(train: Sequence[dict], held_out: Sequence[dict]) -> dict[str, tuple[np.ndarray, float]]:
    """What needs no language model: predictions and seconds of TF-IDF over characters with logistic regression, and of the
    label that is more frequent in training."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    labels = np.array([row["label"] for row in train])
    majority = int(labels.mean() >= 0.5)
    if len(set(labels.tolist())) < 2:
        raise WorkshopError(f"학습 자료의 라벨이 {LABELS[majority]}뿐이다. 두 라벨이 모두 있어야 한다.")
    start = time.perf_counter()
    words = TfidfVectorizer(analyzer="char", ngram_range=(1, 4), min_df=2 if len(train) >= 200 else 1, sublinear_tf=True)
    model = make_pipeline(words, LogisticRegression(C=4.0, max_iter=300, solver="liblinear"))
    model.fit([row["document"] for row in train], labels)
    found = model.predict([row["document"] for row in held_out])
    return {"tfidf": (found, time.perf_counter() - start), "majority": (np.full(len(held_out), majority), 0.0)}


def learning_curve(
    base: Path | str, rows: Sequence[dict], train: Encoded, held_out_rows: Sequence[dict], held_out: Encoded, settings, seed: int = 0,
    done: Sequence[Result] = (), adapted: Path | None = None,
) -> list[dict]:
    """Accuracy against the number of labelled reviews, for a random, a pretrained and an adapted start, and for TF-IDF.

    Returns {"rows", "start", "accuracy", "low", "high"} for every point. The random start gets its own learning rate. `done`: results
    on all rows that need not be computed again. `adapted`: the folder that `adapt` wrote, or None for three curves.
    """
    points = []
    starts = {"random_init": ("random", base), "full": ("pretrained", base)} | ({"adapted": ("adapted", adapted)} if adapted else {})
    have = {result.method: result for result in done}
    for count in settings.curve:
        if count > len(rows):
            continue
        for method, (start, folder) in starts.items():
            if count == len(rows) and method in have:
                value, interval = have[method].accuracy, have[method].interval
            else:
                result = finetune(method, folder, train.head(count), settings, seed, held_out, memory=False)
                value, interval = result.accuracy, result.interval
            points.append({"rows": count, "start": start, "accuracy": value, "low": interval[0], "high": interval[1]})
        value, interval = accuracy(baselines(rows[:count], held_out_rows)["tfidf"][0], held_out.labels)
        points.append({"rows": count, "start": "tfidf", "accuracy": value, "low": interval[0], "high": interval[1]})
    return points


def sweep(
    base: Path | str, train: Encoded, held_out: Encoded, settings, seed: int = 0, done: Sequence[Result] = (),
) -> list[dict]:
    """LoRA on different layers with different ranks: {"targets", "rank", "trainable", "accuracy", "low", "high"} for each.

    `done`: results on the same rows that need not be computed again.
    """
    points = []
    have = [result for result in done if result.method == "lora"]
    for name, rank in settings.sweep:
        if have and rank == settings.rank and TARGETS[name] == tuple(settings.targets):
            result = have[0]
        else:
            result = finetune("lora", base, train, settings, seed, held_out, targets=TARGETS[name], rank=rank, memory=False)
        points.append({"targets": name, "rank": rank, "trainable": result.trainable, "accuracy": result.accuracy,
                       "low": result.interval[0], "high": result.interval[1]})
    return points


# --- keeping and using ------------------------------------------------------------------------------------------------


def save_adapter(model: nn.Module, folder: Path) -> None:
    """A PEFT folder: the adapter and the head, without the base model, and without its path on this machine."""
    model.save_pretrained(folder, save_embedding_layers=False)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | {"base_model_name_or_path": "base_model"}
    # PEFT keeps names in sets: sorted, the same adapter is the same file.
    config = {key: sorted(value) if isinstance(value, list) else value for key, value in config.items()}
    path.write_text(json.dumps(config, ensure_ascii=False, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    (folder / "README.md").unlink(missing_ok=True)


def with_adapters(base: Path | str, folders: dict[str, Path], seed: int = 0) -> nn.Module:
    """One base model with several adapters in memory; `model.set_adapter(name)` switches between them, the first is on."""
    peft = peft_library()
    first, *others = folders
    model = peft.PeftModel.from_pretrained(classifier(base, seed), folders[first], adapter_name=first)
    for name in others:
        model.load_adapter(folders[name], adapter_name=name)
    return model.eval()


def merged(model: nn.Module) -> nn.Module:
    """The adapter added into the base weights: a plain classifier with the same logits and no extra work. Uses up `model`."""
    return model.merge_and_unload()


# --- the stage ---------------------------------------------------------------------------------------------------------


def build(job) -> dict[str, float]:
    """The task_model stage: the base model taught by every method, the curve and the sweep, and the classifier to be used.

    The classifier is the one that was adapted first where the settings ask for that, else the fully fine-tuned one.
    """
    from transformers import AutoTokenizer

    settings, base = job.settings, job.inputs["base_model"]
    real = job.data is not None and (job.data / "nsmc").is_dir()
    rows, held_out_rows = sentiment(job.data, settings.rows if real else settings.bundled_rows,
                                    settings.held_out if real else settings.bundled_held_out, job.seed)
    tokenizer = AutoTokenizer.from_pretrained(base)
    train, held_out = (encode(part, tokenizer, settings.max_length) for part in (rows, held_out_rows))
    metrics: dict[str, float] = {"rows": len(train), "held_out": len(held_out)}
    predictions = {}
    for name, (found, seconds) in baselines(rows, held_out_rows).items():
        metrics |= measured(name, *accuracy(found, held_out.labels)) | {f"{name}_seconds": seconds}
        predictions[name] = found
    results = []
    adapted = None
    steps = settings.adapt_steps if real else settings.bundled_adapt_steps
    if steps:
        texts = unlabelled(job.data, UNLABELLED_ROWS * steps, held_out_rows, job.seed)
        start = time.perf_counter()
        adapted = adapt(base, texts, replace(settings, adapt_steps=steps), job.out / "adapted_base", job.seed)
        metrics |= {"adapt_steps": steps, "adapt_seconds": time.perf_counter() - start}
    for method in METHODS:
        if method == "adapted" and adapted is None:
            continue
        result = finetune(method, adapted if method == "adapted" else base, train, settings, job.seed, held_out)
        metrics |= result.metrics()
        predictions[method] = result.predictions
        if method == ("adapted" if adapted else "full"):
            save_classifier(result.model, tokenizer, job.out)
        elif method in ("lora", "dora"):
            save_adapter(result.model, job.out / method)
        results.append(result)
        result.model = nn.Identity()  # its weights are kept on disk or not at all
    write_rows(job.out / "losses.jsonl", [{"method": r.method, "losses": r.losses} for r in results])
    write_rows(job.out / "predictions.jsonl", [
        {"id": row["id"], "label": row["label"]} | {name: int(found[number]) for name, found in predictions.items()}
        for number, row in enumerate(held_out_rows)
    ])
    curve = learning_curve(base, rows, train, held_out_rows, held_out, settings, job.seed, results, adapted)
    write_rows(job.out / "curve.jsonl", curve)
    for point in curve:
        metrics |= measured(f"curve_{point['start']}_{point['rows']}", point["accuracy"], (point["low"], point["high"]))
    same = results if settings.sweep_rows >= len(train) else ()
    points = sweep(base, train.head(settings.sweep_rows), held_out, settings, job.seed, same)
    write_rows(job.out / "sweep.jsonl", points)
    for point in points:
        metrics |= measured(f"sweep_{point['targets']}_r{point['rank']}", point["accuracy"], (point["low"], point["high"]))
    if adapted:
        shutil.rmtree(adapted)
    return metrics
