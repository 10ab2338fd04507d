"""Evaluation: the week's benchmarks on the student's model, each number with what tells how far it can be believed.

    belief           intervals, tests between two models, contamination
    benchmark_tasks  the tasks and their rows
    likelihood       zero- and few-shot answers, and how much the way of asking decides
    harness          the same tasks for lm-evaluation-harness
    perplexity       perplexity and bits per character
    metrics          accuracy to ROUGE, as modules of Hugging Face `evaluate`
    eval_report      eval_report.html

This module measures a task by every method (`evaluate_task`) and builds the week's artefact (`build`).

Notable choices
- `<task>_accuracy` is that of the fine-tuned head. What the base model answers unaided stands beside it (`_zero_shot_`,
  `_few_shot_`), and so do the honest baselines: the most frequent label, and TF-IDF with logistic regression on the same rows.
- All methods answer the same rows, so that they can be compared item by item. answers.jsonl keeps every answer.
- Real data is measured, not shown: the report prints questions only of the course's own sets.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from workshop_lib import WorkshopError
from workshop_lib.belief import Difference, McNemar, bootstrap_interval, contamination, mcnemar, paired_bootstrap, wilson_interval
from workshop_lib.benchmark_tasks import Task, load_task, majority
from workshop_lib.metrics import scores

__all__ = ["Difference", "McNemar", "Method", "TaskResult", "bootstrap_interval", "build", "compare", "contamination", "evaluate_task",
           "mcnemar", "model_folder", "paired_bootstrap", "tfidf", "train_head", "wilson_interval"]


def model_folder(base: Path | str) -> Path:
    """The language model to be asked: the folder that WORKSHOP_EVAL_MODEL names, or the student's own `base`."""
    other = os.environ.get("WORKSHOP_EVAL_MODEL")
    return Path(other).expanduser() if other else Path(base)


# --- one task -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Method:
    """One way of answering a task: an answer for each test row, and which are right."""

    name: str
    predictions: np.ndarray
    correct: np.ndarray
    f1: float = float("nan")

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return float(self.correct.mean())

    @property
    def interval(self) -> tuple[float, float]:
        """Its 95 % Wilson interval."""
        return wilson_interval(int(self.correct.sum()), len(self.correct))


@dataclass
class TaskResult:
    """A task's answers by every method. `notes`: further numbers (examples in the prompt, prompts that were cut, …); `finished`: the
    head is a classifier of another week, not one trained here."""

    task: Task
    finished: bool = False
    methods: dict[str, Method] = field(default_factory=dict)
    notes: dict[str, float] = field(default_factory=dict)

    @property
    def headline(self) -> Method:
        """The method whose accuracy stands for the task."""
        return self.methods["head" if self.task.labels else "written"]

    def metrics(self) -> dict[str, float]:
        """The flat numbers of report.json, with the task's name in front."""
        found = {"items": len(self.task.test)} | _measured("", self.headline)
        if not np.isnan(self.headline.f1):
            found["f1"] = self.headline.f1
        for method in self.methods.values():
            if method is not self.headline:
                found |= _measured(f"{method.name}_", method)
        return {f"{self.task.name}_{key}": value for key, value in (found | self.notes).items()}


def _measured(prefix: str, method: Method) -> dict[str, float]:
    low, high = method.interval
    return {f"{prefix}accuracy": method.accuracy, f"{prefix}ci_low": low, f"{prefix}ci_high": high}


def evaluate_task(
    task: Task, model, tokenizer, base: Path | str, settings, seed: int = 0, classifier: Path | str | None = None,
) -> TaskResult:
    """Answer a task by every method.

    model, tokenizer: the language model that is asked; base: the folder that a head is fine-tuned on. `classifier`: a finished one
    instead (week 6's task model for film reviews).
    """
    from workshop_lib.likelihood import classify, context_length, fitting_shots, without_habit

    result = TaskResult(task, classifier is not None)
    if not task.labels:
        return _evaluate_reading(result, model, tokenizer, seed)
    gold = np.array([row["label"] for row in task.test])

    def add(name: str, predictions: np.ndarray) -> None:
        predictions = np.asarray(predictions)
        result.methods[name] = Method(name, predictions, predictions == gold, scores.f1(predictions.tolist(), gold.tolist()))

    add("majority", np.full(len(gold), majority(task)))
    if len({row["label"] for row in task.train}) > 1:
        add("tfidf", tfidf(task))
        if task.part:
            add("partial", tfidf(task, (task.part,)))
    asked = classify(model, tokenizer, task)
    add("zero_shot", asked.predictions)
    result.notes["truncated"] = asked.scores.truncated / len(gold)
    add("calibrated", without_habit(model, tokenizer, task, asked.scores).choose())
    shots = fitting_shots(task, tokenizer, context_length(model), settings.max_shots)
    if shots:
        add("few_shot", classify(model, tokenizer, task, shots=shots).predictions)
    result.notes["shots"] = shots
    margins = _classified(classifier, task) if classifier else train_head(task, base, settings, seed)
    add("head", margins.argmax(1))
    if "score" in task.test[0]:
        result.notes |= _correlation(margins[:, 1] - margins[:, 0], np.array([row["score"] for row in task.test]), seed)
    return result


def train_head(task: Task, base: Path | str, settings, seed: int = 0, method: str = "full") -> np.ndarray:
    """Fine-tune a classifier on the task's training rows; its scores of the labels on the test rows: (items, labels)."""
    from transformers import AutoTokenizer

    from workshop_lib import finetuning

    if not task.train:
        raise WorkshopError(f"{task.title}: 학습 문항이 없어 분류기를 학습할 수 없다.")
    tokenizer = AutoTokenizer.from_pretrained(base)
    train, test = (_encoded(task, rows, tokenizer, settings.max_length) for rows in (task.train, task.test))
    result = finetuning.finetune(method, base, train, settings, seed, memory=False, labels=task.labels)
    return finetuning.logits(result.model, test).numpy()


def _classified(folder: Path | str, task: Task) -> np.ndarray:
    """The scores of a finished classifier: (items, labels)."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from workshop_lib import finetuning
    from workshop_lib.likelihood import quiet

    with quiet():
        model = AutoModelForSequenceClassification.from_pretrained(folder)
    tokens = _encoded(task, task.test, AutoTokenizer.from_pretrained(folder), model.config.max_position_embeddings)
    return finetuning.logits(model, tokens).numpy()


def _encoded(task: Task, rows: Sequence[dict], tokenizer, max_length: int):
    from workshop_lib import finetuning

    labelled = [{"document": text, "label": row["label"]} for text, row in zip(task.texts(rows), rows)]
    return finetuning.encode(labelled, tokenizer, max_length)


def tfidf(task: Task, fields: Sequence[str] | None = None) -> np.ndarray:
    """What needs no language model: TF-IDF over characters and logistic regression, trained on the task's rows: (items,) labels.

    `fields`: read only these. A baseline that reads only the hypothesis, and still beats chance, shows a flaw of the benchmark
    (Gururangan 2018).
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.pipeline import make_pipeline

    def texts(rows: Sequence[dict]) -> list[str]:
        return ["\n".join(row[name] for name in fields or task.fields) for row in rows]

    each = OneVsRestClassifier(LogisticRegression(C=4.0, solver="liblinear"))
    model = make_pipeline(TfidfVectorizer(analyzer="char", ngram_range=(1, 4), sublinear_tf=True), each)
    model.fit(texts(task.train), [row["label"] for row in task.train])
    return model.predict(texts(task.test))


def _correlation(margins: np.ndarray, truth: np.ndarray, seed: int) -> dict[str, float]:
    """Pearson's r between a head's margin and the annotators' score, KLUE-STS's other number, with its bootstrap interval."""
    pairs = np.stack([margins, truth], axis=1)

    def pearson(rows: np.ndarray) -> float:
        return float(np.corrcoef(rows.T)[0, 1]) if (rows.std(0) > 0).all() else 0.0

    low, high = bootstrap_interval(pairs, pearson, 1_000, seed=seed)
    return {"pearson": pearson(pairs), "pearson_ci_low": low, "pearson_ci_high": high}


def _evaluate_reading(result: TaskResult, model, tokenizer, seed: int) -> TaskResult:
    """Answers in free text: exact match as accuracy, F1 of characters beside it."""
    from workshop_lib.likelihood import make_prompt, start_token, write_answers

    task = result.task
    prompts = [make_prompt(task.wordings[0], row, (), start_token(tokenizer)) for row in task.test]
    rng = np.random.default_rng(seed)
    words = [str(rng.choice(row["context"].split())) for row in task.test]
    answers = {"written": write_answers(model, tokenizer, prompts), "random_word": words}
    for name, texts in answers.items():
        shared = np.array([scores.char_f1([text], [row["answers"]]) for text, row in zip(texts, task.test)])
        right = np.array([scores.exact_match([text], [row["answers"]]) == 1 for text, row in zip(texts, task.test)])
        result.methods[name] = Method(name, np.array(texts), right, float(shared.mean()))
        prefix = "" if name == "written" else f"{name}_"
        low, high = bootstrap_interval(shared, seed=seed)
        result.notes |= {f"{prefix}f1": float(shared.mean()), f"{prefix}f1_ci_low": low, f"{prefix}f1_ci_high": high}
    return result


def compare(first: Method, second: Method) -> dict[str, float]:
    """Two methods on the same rows: the difference of their accuracies with its interval, and McNemar's exact p-value."""
    test, difference = mcnemar(first.correct, second.correct), paired_bootstrap(first.correct, second.correct)
    return {"only_first": test.only_first, "only_second": test.only_second, "p_value": test.p_value,
            "difference": difference.difference, "low": difference.low, "high": difference.high}


# --- the stage ------------------------------------------------------------------------------------------------------------


def build(job) -> dict[str, float]:
    """The evaluation stage: every task by every method, how far to believe it, and eval_report.html with eval_report.json."""
    from workshop_lib import display, eval_report, harness
    from workshop_lib.likelihood import load_model, order_sensitivity, start_token, wording_sensitivity
    from workshop_lib.packing import read_documents

    settings, base, corpus = job.settings, job.inputs["base_model"], job.inputs["corpus"]
    sizes = (settings.data_test, settings.data_train) if job.data else (settings.test, settings.train)
    tasks = [load_task(name, job.data, *sizes, seed=job.seed) for name in settings.tasks]  # all are read before anything is trained
    model, tokenizer = load_model(base)
    metrics: dict[str, float] = {}
    results = []
    for task in display.progress(tasks, desc="평가"):
        classifier = job.inputs["task_model"] if task.name == "sentiment" else None
        results.append(evaluate_task(task, model, tokenizer, base, settings, job.seed, classifier))
        if task.labels:
            harness.write_task(task, job.out / "lm_eval", start=start_token(tokenizer))
    texts = [text for task in tasks for text in task.texts(task.test)]
    shares = contamination(texts, (row["text"] for row in read_documents(corpus / "train.jsonl")), settings.contamination_words)
    ways = {}
    for result in results:
        task = result.task
        part, shares = shares[: len(task.test)], shares[len(task.test) :]
        result.notes["contaminated"] = float((part > 0).mean())
        if task.labels:
            rows = task.test[: settings.sensitivity_items]
            accuracies = [answer.accuracy for answer in wording_sensitivity(model, tokenizer, task, rows)]
            order = order_sensitivity(model, tokenizer, task, rows)
            result.notes |= {"wording_spread": max(accuracies) - min(accuracies), "same_place": order.same_place,
                             "same_label": order.same_label, "order_spread": max(order.accuracies) - min(order.accuracies)}
            ways[task.name] = {"wordings": accuracies, "orders": asdict(order) | {"positions": order.positions.tolist()}}
        metrics |= result.metrics()
    language, pieces = _perplexities(model, tokenizer, corpus, settings, job)
    metrics |= {"bpc": language["bpc"], "perplexity": language["perplexity"]}
    metrics |= {f"tokenizer_{row['vocab_size']}_{key}": row[key] for row in pieces for key in ("perplexity", "bpc")}
    report = eval_report.contents(results, ways, language, pieces, model, job)
    (job.out / "eval_report.json").write_text(json.dumps(report, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    (job.out / "eval_report.html").write_text(eval_report.page(report), encoding="utf-8")
    _write_answers(job.out / "answers.jsonl", results)
    return metrics


def _perplexities(model, tokenizer, corpus: Path, settings, job) -> tuple[dict, list[dict]]:
    """The model on week 5's held-out documents, and n-gram models of one text in pieces of several tokenizers."""
    from workshop_lib import perplexity
    from workshop_lib.packing import read_documents
    from workshop_lib.pretraining import held_out

    meta = job.inputs["base_model"] / "meta.json"  # as many characters as week 5 took: the same number again
    known = json.loads(meta.read_text(encoding="utf-8"))["settings"] if meta.is_file() else {}
    chars = known.get("validation_chars", settings.validation_chars)
    size = SimpleNamespace(validation_chars=chars, context=model.config.max_position_embeddings)
    kind = (lambda source: "nsmc" if source == "nsmc" else "prose") if job.data else None  # as week 5 takes them
    validation = held_out(corpus / "validation.jsonl", tokenizer, size, job.seed, kind)
    train, test = (_some(read_documents(corpus / f"{name}.jsonl", job.seed), n) for name, n in (
        ("train", settings.ngram_chars), ("validation", settings.ngram_chars // 20)))
    return perplexity.of_validation(model, validation), perplexity.compare_tokenizers(perplexity.course_encoders(train), train, test)


def _some(documents, characters: int) -> list[str]:
    """Whole texts until they have so many characters."""
    texts: list[str] = []
    total = 0
    for document in documents:
        if total >= characters:
            break
        texts.append(document["text"])
        total += len(document["text"])
    return texts


def _write_answers(path: Path, results: Sequence[TaskResult]) -> None:
    lines = []
    for result in results:
        for place, row in enumerate(result.task.test):
            answers = {name: method.predictions[place].item() for name, method in result.methods.items()}
            right = {name: bool(method.correct[place]) for name, method in result.methods.items()}
            kept = {"task": result.task.name, "id": row["id"], "source": row["source"], "label": row.get("label"),
                    "answers": answers, "correct": right}
            lines.append(json.dumps(kept, ensure_ascii=False) + "\n")
    path.write_text("".join(lines), encoding="utf-8")

