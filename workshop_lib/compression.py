"""Week 8's stage: the base model in every size that the course can make of it, and what each size costs and keeps.

A variant is a way of storing the model: bits and method of ours (`quantized`), a library's (bitsandbytes, torchao, ONNX Runtime), or
a smaller model (`distillation`). All are measured alike: bytes on disk, bits per character on the same held-out documents, accuracy
of week 6's classifier compressed in the same way, speed and memory of writing one text at a time.

Notable choices
- Calibration reads training text, never what is measured on. The interval of a variant's bits per character is that of its
  difference from float32 on the same documents, which is far narrower than either one's own.
- What was not measured is absent from a row, never zero.
- Speeds are measured together, the models taking turns. They are compared inside one engine: transformers' `generate` spends more time
  on Python than our own loop, whatever the weights.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workshop_lib import WorkshopError, classification, display, gguf_export, onnx_export
from workshop_lib.architectures.transformer import Transformer, generate
from workshop_lib.calibration import collect
from workshop_lib.checkpoints import load_model, save_model
from workshop_lib.distillation import Student, bpc_difference, build_student, first_tokens
from workshop_lib.inference import TableDraft, percentile, speculative_curve
from workshop_lib.likelihood import quiet
from workshop_lib.ngram import bits_per_char
from workshop_lib.packing import IGNORE, Validation, read_documents
from workshop_lib.pretraining import document_nats, held_out
from workshop_lib.quantized import layer_bytes, quantize_model, save_quantized
from workshop_lib.throughput import peak_memory
from workshop_lib.workspace import write_rows

OURS = {  # name: title, method, bits, weights that share a scale (0: a row, None: the whole tensor)
    "int8": ("INT8(행마다)", "absmax", 8, 0),
    "int8_integer": ("INT8(정수 곱)", "absmax", 8, 0),
    "int4_tensor": ("INT4(텐서 전체)", "round", 4, None),
    "int4_row": ("INT4(행마다)", "round", 4, 0),
    "int4": ("INT4", "round", 4, 64),
    "int4_gptq": ("INT4 + GPTQ", "gptq", 4, 64),
    "int4_awq": ("INT4 + AWQ", "awq", 4, 64),
    "nf4": ("NF4", "nf4", 4, 64),
    "int3": ("INT3", "round", 3, 64),
    "int3_gptq": ("INT3 + GPTQ", "gptq", 3, 64),
    "int3_awq": ("INT3 + AWQ", "awq", 3, 64),
    "int2": ("INT2", "round", 2, 64),
    "int2_gptq": ("INT2 + GPTQ", "gptq", 2, 64),
    "int2_awq": ("INT2 + AWQ", "awq", 2, 64),
}
LIBRARIES = {  # name: title, library, bits
    "hf": ("float32(transformers)", "transformers", 32),
    "bnb_int8": ("bitsandbytes INT8", "bitsandbytes", 8),
    "bnb_nf4": ("bitsandbytes NF4", "bitsandbytes", 4),
    "torchao_int8": ("torchao INT8", "torchao", 8),
}
PAIRS = [(f"int{bits}_{method}", f"int{bits}") for bits in (4, 3, 2) for method in ("gptq", "awq")]
TIMED = ("int8", "int8_integer", "int4", "int4_gptq", "nf4")  # of ours: the others take the same steps as one of these
REPORTED = ("bytes", "bpc", "accuracy", "tokens_per_s", "p50_ms", "p95_ms", "peak_mb")  # of each variant, in report.json


# --- measuring ----------------------------------------------------------------------------------------------------------------


Write = Callable[[list[int], int], Sequence[int]]  # prompt ids, tokens to write → the new ids


def measure_speed(write: Write, prompts: Sequence[list[int]], tokens: int) -> dict[str, float]:
    """Speed of one request after another: `tokens_per_s` (new tokens over all seconds) and the latency of a request, `p50_ms` and
    `p95_ms` (nearest rank). One request is answered beforehand. Raises WorkshopError for no prompts, or when nothing is written.
    """
    return measure_speeds({"": write}, prompts, tokens)[""]


def measure_speeds(writers: dict[str, Write], prompts: Sequence[list[int]], tokens: int) -> dict[str, dict[str, float]]:
    """`measure_speed` of several models by name. They take turns, request by request: a machine that is busy is so for all of them."""
    if not prompts:
        raise WorkshopError("속도를 잴 프롬프트가 없다. 하나 이상 준다.")
    for write in writers.values():
        write(list(prompts[0]), tokens)
    waits: dict[str, list[float]] = {name: [] for name in writers}
    written = dict.fromkeys(writers, 0)
    for prompt in prompts:
        for name, write in writers.items():
            start = time.perf_counter()
            written[name] += len(write(list(prompt), tokens))
            waits[name].append(1000 * (time.perf_counter() - start))
    if not all(written.values()):
        raise WorkshopError("모델이 토큰을 하나도 쓰지 않아 속도를 잴 수 없다.")
    return {name: {"tokens_per_s": 1000 * written[name] / sum(ms), "p50_ms": percentile(ms, 0.5), "p95_ms": percentile(ms, 0.95)}
            for name, ms in waits.items()}  # fmt: skip


def pareto(rows: Sequence[dict], cost: str = "bytes", quality: str = "bpc") -> list[str]:
    """Names of the rows that no other beats: none costs as little and is as good, and is better in one of the two. Cheapest first.

    Less is better in both. Rows without one of the numbers do not take part.
    """
    known = sorted((row for row in rows if cost in row and quality in row), key=lambda row: (row[cost], row[quality]))
    front: list[dict] = []
    for row in known:
        if not front or row[quality] < front[-1][quality] or (row[cost], row[quality]) == (front[-1][cost], front[-1][quality]):
            front.append(row)
    return [row["name"] for row in front]


def stored(model: nn.Module) -> dict[str, Tensor]:
    """The tensors that a file of the model holds, by name: shared ones once, a library's own tensor classes taken apart."""
    found: dict[str, Tensor] = {}
    seen = set()
    for name, tensor in model.state_dict().items():
        for part, value in _parts(name, tensor.detach()):
            if value.data_ptr() not in seen or not value.numel():
                found[part] = value.cpu().contiguous()
                seen.add(value.data_ptr())
    return found


def _parts(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    if not hasattr(tensor, "__tensor_flatten__"):
        yield name, tensor
        return
    for inner in tensor.__tensor_flatten__()[0]:
        yield from _parts(f"{name}.{inner}", getattr(tensor, inner))


def file_bytes(model: nn.Module) -> int:
    """Bytes of the model's model.safetensors."""
    from safetensors.torch import save

    return len(save(stored(model), metadata={"format": "pt"}))


def memory_mb(model: nn.Module, run: Callable[[], object]) -> float:
    """Megabytes (10^6) of tensors at the highest point of `run()`: what the model keeps and what the call allocates."""
    held = sum(tensor.numel() * tensor.element_size() for tensor in stored(model).values())
    for layer in model.modules():  # bitsandbytes keeps the last call's outliers, and the next call would free what it did not allocate
        if hasattr(getattr(layer, "state", None), "idx"):
            layer.state.idx = None
    return (held + peak_memory(run)) / 1e6


# --- the same checkpoint by libraries -------------------------------------------------------------------------------------------


def by_library(name: str, folder: Path | str, kind: str = "AutoModelForCausalLM") -> nn.Module:
    """A folder's model as transformers' own class, quantised by a library: one of LIBRARIES. The output layer stays as it is.

    kind: the Auto class, also "AutoModelForSequenceClassification". Raises WorkshopError when the library is not installed.
    """
    import transformers

    library = LIBRARIES[name][1]
    if not find_spec(library):
        raise WorkshopError(f"{library}이(가) 설치되어 있지 않다. pip install {library}")
    options: dict = {"dtype": torch.float32}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if library == "bitsandbytes":
        classification.peft_library()  # before bitsandbytes: PEFT silences a remark
        eight = {"load_in_8bit": True}
        four = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.float32}
        options["quantization_config"] = transformers.BitsAndBytesConfig(
            **(eight if name == "bnb_int8" else four), llm_int8_skip_modules=["lm_head", "score"],
        )
        options["device_map"] = device
    with quiet():
        model = getattr(transformers, kind).from_pretrained(folder, **options)
    if library == "torchao":
        from torchao.quantization import Int8WeightOnlyConfig, quantize_

        quantize_(model, Int8WeightOnlyConfig(), lambda layer, name: isinstance(layer, nn.Linear) and "layers." in name)
    for layer in model.modules():  # else bitsandbytes packs the weights anew for bfloat16 on the processors that have it
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False
    return model.to(device).eval() if library != "bitsandbytes" else model.eval()


def write_with_transformers(model: nn.Module) -> Write:
    """A function for `measure_speed`: transformers' greedy `generate`, with its cache, always to the full length."""
    from transformers import GenerationConfig

    special = {name: getattr(model.config, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    model.generation_config = GenerationConfig(do_sample=False, **special)

    def write(ids: list[int], tokens: int) -> list[int]:
        prompt = torch.tensor([ids], device=model.device)
        lengths = {"max_new_tokens": tokens, "min_new_tokens": tokens}
        return model.generate(prompt, attention_mask=torch.ones_like(prompt), **lengths)[0, len(ids) :].tolist()

    return write


def write_with_ours(model: Transformer) -> Write:
    """A function for `measure_speed`: this package's `generate`, greedy."""
    return lambda ids, tokens: generate(model, ids, tokens, temperature=0)


# --- the stage --------------------------------------------------------------------------------------------------------------------


class Bench:
    """What every variant is measured on, and the rows so far."""

    def __init__(self, validation: Validation, reviews, prompts: list[list[int]], tokens: int):
        self.validation, self.reviews, self.prompts, self.tokens = validation, reviews, prompts, tokens
        self.rows: list[dict] = []
        self.nats: dict[str, np.ndarray] = {}
        self.writers: dict[str, Write] = {}

    def add(self, name: str, title: str, engine: str, bits: float, **numbers: float) -> dict:
        """A new row, with the numbers that are known already."""
        self.rows.append({"name": name, "title": title, "engine": engine, "bits": bits} | numbers)
        return self.rows[-1]

    def language(self, row: dict, nats: np.ndarray) -> None:
        """Bits per character from each document's nats, and the paired interval against float32."""
        self.nats[row["name"]] = nats
        row["bpc"] = bits_per_char(float(nats.sum()), self.validation.characters)
        if "fp32" in self.nats and row["name"] != "fp32":
            _, low, high = bpc_difference(nats, self.nats["fp32"], self.validation)
            base = bits_per_char(float(self.nats["fp32"].sum()), self.validation.characters)
            row |= {"bpc_low": base + low, "bpc_high": base + high}

    def task(self, row: dict, classifier: nn.Module) -> None:
        """Accuracy of a classifier on held-out reviews, with its Wilson interval."""
        predictions = classification.logits(classifier, self.reviews).argmax(dim=1).numpy()
        row["accuracy"], (row["accuracy_low"], row["accuracy_high"]) = classification.accuracy(predictions, self.reviews.labels)

    def speed(self, row: dict, write: Write, model: nn.Module | None = None) -> None:
        """Keep the model for `finish`, which measures speed; of a model of PyTorch, the memory now."""
        self.writers[row["name"]] = write
        if model is not None:
            write(self.prompts[0], self.tokens)
            row["peak_mb"] = memory_mb(model, lambda: write(self.prompts[0], self.tokens))

    def finish(self) -> None:
        """Measure the speed of all models that have one."""
        speeds = measure_speeds(self.writers, self.prompts, self.tokens)
        for row in self.rows:
            row |= speeds.get(row["name"], {})


def build(job) -> dict[str, float]:
    """The compression stage: every variant made and measured, the student, the exports, and speculative decoding."""
    from transformers import AutoTokenizer

    settings, base, corpus = job.settings, job.inputs["base_model"], job.inputs["corpus"]
    tokenizer = AutoTokenizer.from_pretrained(base)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load_model(base).to(device).eval()
    context = model.config.max_position_embeddings
    size = SimpleNamespace(validation_chars=settings.validation_chars, context=context)
    # Sources in the shares that they have in the corpus: one number, near week 5's.
    validation = held_out(corpus / "validation.jsonl", tokenizer, size, job.seed, lambda source: "all")
    budget = max(settings.distil_steps * settings.distil_batch, settings.calibration_windows) * context + 1
    tokens = first_tokens(read_documents(corpus / "train.jsonl", job.seed + 1), tokenizer, budget)
    windows = torch.from_numpy(tokens[: settings.calibration_windows * context]).view(-1, context)
    train, reviews = _reviews(job, tokenizer, context)
    prompts = [list(document.ids[: settings.prompt_tokens]) for document in validation.documents[: settings.requests]]
    bench = Bench(validation, reviews, prompts, settings.new_tokens)

    classifier = by_library("hf", job.inputs["task_model"], "AutoModelForSequenceClassification")
    statistics = collect(model, windows.split(16)), collect(classifier, (torch.tensor([ids]) for ids in train.ids))
    row = bench.add("fp32", "float32", "ours", 32, bytes=file_bytes(model))
    bench.language(row, document_nats(model, validation))
    bench.task(row, classifier)
    bench.speed(row, write_with_ours(model), model.eval())
    for name in display.progress(OURS, desc="양자화"):
        small = _ours(bench, name, model, classifier, statistics)
        if name == "int4_gptq":
            save_quantized(small, tokenizer, job.out / "int4")
    for name in display.progress([n for n, (_, library, _) in LIBRARIES.items() if find_spec(library)], desc="라이브러리"):
        _library(bench, name, base, job.inputs["task_model"], classifier if name == "hf" else None)
    student = build_student(model, tokens, validation, settings, job.seed)
    _student(bench, student, tokenizer, job.out / "student")
    _exports(bench, base, job.out)
    bench.finish()
    drafts = _drafts(model, student.model, tokens, prompts[: settings.drafts], settings)
    write_rows(job.out / "variants.jsonl", bench.rows)
    write_rows(job.out / "curves.jsonl", student.rows)
    write_rows(job.out / "speculative.jsonl", drafts)
    return _metrics(bench) | student.metrics | _best_drafts(drafts)


def _reviews(job, tokenizer, context: int):
    """Encoded reviews to calibrate the classifier with, and to measure it on."""
    from workshop_lib.labelled import sentiment

    settings = job.settings
    train, test = sentiment(job.data, settings.calibration_reviews, settings.reviews, job.seed)
    return (classification.encode(rows, tokenizer, context) for rows in (train, test))


def _ours(bench: Bench, name: str, model: Transformer, classifier: nn.Module, statistics: tuple[dict, dict]) -> nn.Module:
    title, method, bits, group = OURS[name]
    integer = name == "int8_integer"
    small, head = (quantize_model(whole, method, bits, group, known, integer=integer)
                   for whole, known in zip((model, classifier), statistics))  # fmt: skip
    kept, before = layer_bytes(small)
    row = bench.add(name, title, "ours", bits, bytes=file_bytes(small), layer_bytes=kept, layer_fp32_bytes=before)
    bench.language(row, document_nats(small, bench.validation))
    bench.task(row, head)
    if name in TIMED:
        small.eval()
        bench.speed(row, write_with_ours(small), small)
    return small


def _library(bench: Bench, name: str, base: Path, task_model: Path, classifier: nn.Module | None) -> None:
    title, library, bits = LIBRARIES[name]
    model = by_library(name, base)
    row = bench.add(name, title, library, bits, bytes=file_bytes(model))
    bench.language(row, document_nats(model, bench.validation))
    bench.task(row, classifier or by_library(name, task_model, "AutoModelForSequenceClassification"))
    model.eval()
    bench.speed(row, write_with_transformers(model), model)


def _student(bench: Bench, student: Student, tokenizer, folder: Path) -> None:
    save_model(student.model, tokenizer, folder)
    row = bench.add("student", "증류한 학생", "ours", 32, bytes=(folder / "model.safetensors").stat().st_size)
    bench.language(row, student.nats["distilled"])
    student.model.eval()
    bench.speed(row, write_with_ours(student.model), student.model)


def _exports(bench: Bench, base: Path, out: Path) -> None:
    """The base model for ONNX Runtime, in float32 and INT8, and as a GGUF file in 8 bits for llama.cpp."""
    for name, title, bits in (("onnx", "ONNX Runtime", 32), ("onnx_int8", "ONNX Runtime INT8", 8)):
        path = onnx_export.to_onnx(base, out / ("model.onnx" if bits == 32 else "model-int8.onnx"), int8=bits == 8)
        model = onnx_export.OnnxModel(path, threads=torch.get_num_threads())
        row = bench.add(name, title, "onnxruntime", bits, bytes=path.stat().st_size)
        bench.language(row, _onnx_nats(model, bench.validation))
        bench.speed(row, model.generate)
    path = gguf_export.to_gguf(base, out / "model.gguf", kind="q8_0")
    row = bench.add("gguf", "GGUF Q8_0", "llama.cpp", 8, bytes=path.stat().st_size)
    bench.language(row, document_nats(gguf_export.load_gguf(path)[0], bench.validation))
    if find_spec("llama_cpp"):
        bench.speed(row, gguf_export.GgufModel(path).generate)


def _drafts(model: Transformer, student: Transformer, tokens: np.ndarray, prompts: list[list[int]], settings) -> list[dict]:
    """Speculative decoding with two drafts: the distilled student, and a table of what followed in the training text."""
    table = TableDraft(tokens[: settings.table_tokens], model.config.vocab_size)
    rows = []
    for name, draft, temperature in (("student", student, 1.0), ("table", table, 1.0), ("table", table, 0.0)):
        curve = speculative_curve(model, draft, prompts, settings.drafted_tokens, settings.lookaheads, temperature)
        rows += [{"draft": name, "temperature": temperature} | row for row in curve]
    return rows


def _best_drafts(rows: list[dict]) -> dict[str, float]:
    """The best lookahead of each draft, at temperature 1; the student's under `speculative_…`, the table's `speculative_table_…`."""
    found = {}
    for draft, prefix in (("student", "speculative"), ("table", "speculative_table")):
        mine = [row for row in rows if row["draft"] == draft and row["temperature"] == 1]
        best = max(mine, key=lambda row: row["speedup"])
        found |= {f"{prefix}_{key}": best[key] for key in ("speedup", "acceptance", "lookahead", "tokens_per_round")}
    return found


def _onnx_nats(model: onnx_export.OnnxModel, validation: Validation) -> np.ndarray:
    """As `pretraining.document_nats`, for a model outside PyTorch: (documents,)."""
    nats = np.zeros(len(validation.documents))
    for ids, targets, documents in zip(validation.inputs, validation.targets, validation.document):
        end = int(np.flatnonzero(targets != IGNORE)[-1]) + 1  # behind it is padding
        logits = torch.from_numpy(model.logits(ids[:end].tolist()))
        scores = F.cross_entropy(logits, torch.from_numpy(targets[:end]), ignore_index=IGNORE, reduction="none")
        np.add.at(nats, documents[:end], scores.double().numpy())
    return nats


def _metrics(bench: Bench) -> dict[str, float]:
    """The flat numbers of report.json: REPORTED of every variant, and what calibration is worth at equal bits."""
    rows = {row["name"]: row for row in bench.rows}
    metrics = {f"{name}_{key}": row[key] for name, row in rows.items() for key in REPORTED if key in row}
    for better, plain in PAIRS:
        difference, low, high = bpc_difference(bench.nats[better], bench.nats[plain], bench.validation)
        name = f"{better}_minus_{plain}_bpc"
        metrics |= {name: difference, f"{name}_low": low, f"{name}_high": high}
    chosen = rows["int4_gptq"]
    metrics["int4_gptq_loss"] = chosen["bpc"] / rows["fp32"]["bpc"] - 1
    metrics["int4_byte_share"] = chosen["layer_bytes"] / chosen["layer_fp32_bytes"]
    return metrics
