"""Week 4's comparison: seven architectures, one budget of parameters, one stream of tokens, one optimiser.

Notable choices
- Memory is what the tensor allocator was asked for at its highest, which repeats to the byte and leaves out the rest of the
  process. Seconds are medians after a warm-up.
- One architecture after another, and what one has given stands in a file: an interrupted comparison goes on with the next.
"""

from __future__ import annotations

import copy
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from workshop_lib import WorkshopError
from workshop_lib.architectures.attention import causal_mask, scaled_dot_product_attention
from workshop_lib.architectures.families import TITLES as TITLES
from workshop_lib.architectures.families import build_model, families, heads_of
from workshop_lib.architectures.language_model import LanguageModel, state_bytes
from workshop_lib.optimization import optimizers, set_learning_rate
from workshop_lib.packing import Batches, Validation, encode, pack, read_documents, validation_windows
from workshop_lib.pretraining import train
from workshop_lib.segmentation import token_bytes
from workshop_lib.throughput import fast_arithmetic, matmul_peak, peak_memory
from workshop_lib.workspace import write_rows

STEPS = 15  # decoding steps that are timed at each length


# --- memory and time -------------------------------------------------------------------------------------------


def training_memory(model: LanguageModel, settings, inputs: torch.Tensor, targets: torch.Tensor) -> int:
    """Bytes that training holds at its highest: weights, optimiser state, and what a whole step adds to them.

    inputs, targets: a batch, (batch, time). The model itself stays as it is.
    """
    model = copy.deepcopy(model)
    steppers = optimizers(model, settings)
    set_learning_rate(steppers, settings.learning_rate)

    def step() -> None:
        model(inputs, targets).backward()
        for stepper in steppers:
            stepper.step()
            stepper.zero_grad(set_to_none=True)

    step()  # the optimisers make their state in the first one
    numbers = [*model.parameters(), *model.buffers()]
    kept = sum(tensor.numel() * tensor.element_size() for tensor in numbers)
    kept += sum(state_bytes(state) for stepper in steppers for state in stepper.state.values())
    return kept + peak_memory(step)


def length_costs(model: LanguageModel, lengths: Sequence[int], repeats: int = 3, seed: int = 0) -> list[dict]:
    """What reading a prompt and writing one more token cost, a row a length.

    Rows: `length` (tokens), `prefill_s` and `step_s` (medians after a warm-up), `prefill_mb` (the highest that
    reading held beyond the weights), `state_bytes` (what writing must keep).
    """
    device = next(model.parameters()).device
    ids = torch.from_numpy(np.random.default_rng(seed).integers(model.config.vocab_size, size=(1, max(lengths)))).to(device)
    model.eval()
    rows = []
    for length in lengths:
        prompt = ids[:, :length]
        held = peak_memory(lambda prompt=prompt: model.prefill(prompt))  # the warm-up, too
        prefill, (_, state) = _median_seconds(lambda prompt=prompt: model.prefill(prompt), repeats)
        size = state_bytes(state)
        token, waits = prompt[:, 0], []
        for turn in range(1 + STEPS):
            start = time.perf_counter()
            logits, state = model.step(token, state)
            logits[0, 0].item()  # waits for a GPU
            waits += [time.perf_counter() - start] if turn else []
        rows.append({"length": length, "prefill_s": prefill, "prefill_mb": held / 1e6, "step_s": statistics.median(waits),
                     "state_bytes": size})
    model.train()
    return rows


def plain_attention_costs(heads: int, head: int, lengths: Sequence[int]) -> list[dict]:
    """Memory of one layer of attention as its formula is written, with its (time, time) table of weights, a row a length.

    The kernels inside the models never hold that table whole, which is why their memory grows with the length only.
    """
    rows = []
    for length in lengths:
        q, k, v = torch.randn(3, 1, heads, length, head).unbind(0)
        mask = causal_mask(length)
        held = peak_memory(lambda q=q, k=k, v=v, mask=mask: scaled_dot_product_attention(q, k, v, mask))
        rows.append({"length": length, "prefill_mb": held / 1e6})
    return rows


def fitted_exponent(lengths: Sequence[float], costs: Sequence[float], last: int = 3) -> float:
    """p in cost ∝ length^p: the slope of the straight line through the `last` longest points, both axes in logarithms.

    The short lengths are left out because there a call's fixed costs weigh more than its work.
    Raises WorkshopError for fewer than two different lengths or a cost that is not positive.
    """
    points = sorted(zip(lengths, costs))[-last:]
    if len({length for length, _ in points}) < 2 or min(min(point) for point in points) <= 0:
        raise WorkshopError(f"지수를 맞추려면 서로 다른 길이 둘과 양수인 비용이 있어야 한다. 받은 것은 {points}이다.")
    x, y = np.log(np.array(points)).T
    return float(np.polyfit(x, y, 1)[0])


def _median_seconds(run: Callable[[], object], repeats: int) -> tuple[float, object]:
    waits = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = run()
        result[0][0, 0].item()
        waits.append(time.perf_counter() - start)
    return statistics.median(waits), result


# --- a long stream ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stream:
    """Held-out text end to end: ids (rows, time + 1), and the characters of each target (rows, time)."""

    ids: np.ndarray
    characters: np.ndarray


def stream(validation: Validation, tokenizer, length: int, rows: int) -> Stream:
    """The longest kind of held-out documents, laid end to end and cut into rows of `length` tokens and one more.

    Raises WorkshopError when there is not enough for one row.
    """
    by_source: dict[str, list[int]] = {}
    for document in validation.documents:
        by_source.setdefault(document.source, []).extend(document.ids)
    ids = np.array(max(by_source.values(), key=len), dtype=np.int64)
    rows = min(rows, (len(ids) - 1) // length)
    if rows < 1:
        raise WorkshopError(f"검증 문서를 이어 붙여도 {len(ids):,}토큰이라 {length:,}토큰의 긴 글을 만들 수 없다. 길이를 줄인다.")
    # A character counts where it begins: bytes 10xxxxxx only continue one.
    special = set(tokenizer.all_special_ids)
    names = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    pieces = [b"" if number in special else token_bytes(name) for number, name in enumerate(names)]
    size = np.array([sum(byte & 0xC0 != 0x80 for byte in piece) for piece in pieces])
    cut = np.stack([ids[row * length : (row + 1) * length + 1] for row in range(rows)])
    return Stream(cut, size[cut[:, 1:]])


@torch.no_grad()
def stream_bits(model: LanguageModel, text: Stream, window: int) -> list[dict]:
    """Bits per character by position in a stream far longer than the windows of training, in pieces that double.

    Rows: `start`, `stop` (tokens), `bpc`, and `short_bpc`: the same tokens read anew in windows of `window`. The text is the same,
    so what lies between the two is the length's doing.
    """
    device = next(model.parameters()).device
    ids = torch.from_numpy(text.ids).to(device)
    length = ids.shape[1] - 1
    model.eval()
    long = torch.cat([_nats(model, row[None, :-1], row[None, 1:]) for row in ids])
    usable = length - length % window
    short = _nats(model, ids[:, :usable].reshape(-1, window), ids[:, 1 : usable + 1].reshape(-1, window)).view(len(ids), usable)
    model.train()
    rows, start = [], 0
    while start < usable:
        stop = min(max(2 * start, window), usable)
        characters = max(int(text.characters[:, start:stop].sum()), 1) * math.log(2)
        rows.append({"start": start, "stop": stop, "bpc": float(long[:, start:stop].sum()) / characters,
                     "short_bpc": float(short[:, start:stop].sum()) / characters})
        start = stop
    return rows


def _nats(model: LanguageModel, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    logits = model(inputs).float()
    return F.cross_entropy(logits.transpose(1, 2), targets, reduction="none").cpu()


# --- the stage -------------------------------------------------------------------------------------------------


def training_curve(
    name: str, settings, tokens: np.ndarray, vocab_size: int, validation: Validation | None = None, seed: int = 0,
    checkpoint: Path | None = None, peak: float | None = None,
) -> tuple[LanguageModel, list[dict]]:
    """Train an architecture at the settings' budget. Returns the model and `pretraining.train`'s history."""
    model = build_model(name, vocab_size, settings.parameters, settings.width, settings.layers, _longest(settings), seed)
    model = model.to("cuda" if torch.cuda.is_available() else "cpu")
    run = train(model, tokens, settings, seed, validation, checkpoint, peak=peak)
    return model, run.history


def compare(name: str, settings, tokens: np.ndarray, validation: Validation, text: Stream, vocab_size: int, out: Path, seed: int = 0,
            peak: float | None = None) -> dict:  # fmt: skip
    """Everything the stage measures of one architecture; the trained weights go to `<out>/<name>.safetensors`."""
    from safetensors.torch import save_file

    checkpoint = out / f"{name}.checkpoint.pt"
    model, history = training_curve(name, settings, tokens, vocab_size, validation, seed, checkpoint, peak)
    inputs, targets = (torch.from_numpy(x).to(next(model.parameters()).device)
                       for x in Batches(tokens, settings.context, settings.batch_size, seed).batch(0))
    with fast_arithmetic(settings):
        found = {
            "name": name,
            "params": model.num_parameters(),
            "peak_mb": training_memory(model, settings, inputs, targets) / 1e6,
            "curves": history,
            "lengths": length_costs(model, settings.lengths, settings.repeats, seed),
            "stream": stream_bits(model, text, settings.context),
        }
    if hasattr(model, "active_parameters"):
        found["active_params"] = model.active_parameters()
    save_file({key: value.detach().cpu().contiguous() for key, value in _weights(model).items()}, out / f"{name}.safetensors")
    checkpoint.unlink(missing_ok=True)
    return found


def _longest(settings) -> int:
    return max(*settings.lengths, settings.stream_tokens) + STEPS + 1


def load_model(folder: Path, name: str) -> LanguageModel:
    """A trained model of a finished comparison. Raises WorkshopError when the folder holds none of that name."""
    from safetensors.torch import load_file

    from workshop_lib.checkpoints import check_readable

    check_readable(folder)
    try:
        shape = json.loads((folder / "models.json").read_text(encoding="utf-8"))
        weights = load_file(folder / f"{name}.safetensors")
    except (OSError, ValueError) as error:
        raise WorkshopError(f"{folder}에서 '{name}' 모델을 읽을 수 없다({error}). workshop run --weeks 4로 다시 만든다.") from error
    model = build_model(name, **shape)
    model.load_state_dict(weights, strict=False)  # the output layer may share the embedding's weights
    return model.eval()


def _weights(model: LanguageModel) -> dict[str, torch.Tensor]:
    weights = model.state_dict()
    tied = {id(parameter) for parameter in model.parameters()}
    if len([1 for name, p in model.named_parameters(remove_duplicate=False) if id(p) in tied]) > len(tied):
        weights.pop("lm_head.weight", None)
    return weights


def build(job) -> dict[str, float]:
    """The comparison stage: corpus and tokenizer → seven trained models, their curves, their costs by length, a long stream."""
    from transformers import AutoTokenizer

    settings, corpus = job.settings, job.inputs["corpus"]
    tokenizer = AutoTokenizer.from_pretrained(job.inputs["tokenizer"])
    budget = settings.steps * settings.batch_size * settings.context
    packed = pack(read_documents(corpus / "train.jsonl", job.seed), tokenizer, job.out / "train.bin", budget + 1)
    tokens = packed.array()
    documents = list(_held_out(corpus / "validation.jsonl", job.seed, 20 * settings.streams * settings.stream_tokens))
    ends = np.cumsum([len(document["text"]) for document in documents])
    few = documents[: int(np.searchsorted(ends, settings.validation_chars)) + 1]  # in the shares that the sources have
    validation = validation_windows(encode(few, tokenizer), settings.context)
    everything = validation_windows(encode(documents, tokenizer), settings.context)
    text = stream(everything, tokenizer, settings.stream_tokens, settings.streams)
    peak = matmul_peak(settings)
    results = []
    for name in families():
        path = job.out / f"{name}.json"
        if not path.exists():
            found = compare(name, settings, tokens, validation, text, len(tokenizer), job.out, job.seed, peak)
            partial = path.with_suffix(".partial")
            partial.write_text(json.dumps(found), encoding="utf-8")
            partial.replace(path)
        results.append(json.loads(path.read_text(encoding="utf-8")))
    tables = {table: [{"name": result["name"]} | row for result in results for row in result[table]]
              for table in ("curves", "lengths", "stream")}  # fmt: skip
    heads = heads_of(settings.width)
    plain = plain_attention_costs(heads, settings.width // heads, settings.lengths)
    tables["lengths"] += [{"name": "plain_attention"} | row for row in plain]
    for table, rows in tables.items():
        write_rows(job.out / f"{table}.jsonl", rows)
    shape = {"vocab_size": len(tokenizer), "parameters": settings.parameters, "width": settings.width, "layers": settings.layers,
             "context": _longest(settings)}
    (job.out / "models.json").write_text(json.dumps(shape, indent=1) + "\n", encoding="utf-8")
    for leftover in [job.out / "train.bin", job.out / "train.json", *(job.out / f"{name}.json" for name in families())]:
        leftover.unlink(missing_ok=True)
    return metrics(results)


def _held_out(path: Path, seed: int, characters: int) -> Iterator[dict]:
    """Validation documents in shuffled order, about so many characters of them, with the first word of their source."""
    for document in read_documents(path, seed):
        yield document | {"source": str(document.get("source", "")).split("/")[0]}
        characters -= len(document["text"])
        if characters < 0:
            return


def metrics(results: Sequence[dict]) -> dict[str, float]:
    """The flat numbers of the report card, from what `compare` found."""
    found: dict[str, float] = {}
    for result in results:
        name, curve, costs, text = (result[key] for key in ("name", "curves", "lengths", "stream"))
        lengths = [row["length"] for row in costs]
        found |= {
            f"params_{name}": result["params"],
            f"val_bpc_{name}": curve[-1]["val_bpc"],
            f"train_tokens_per_s_{name}": statistics.median(row["tokens_per_s"] for row in curve),
            f"peak_mb_{name}": result["peak_mb"],
            f"prefill_exponent_{name}": fitted_exponent(lengths, [row["prefill_s"] for row in costs]),
            f"decode_state_bytes_{name}": costs[-1]["state_bytes"],
            f"decode_step_ms_{name}": 1000 * costs[-1]["step_s"],
            f"stream_bpc_short_{name}": text[-1]["short_bpc"],
            f"stream_bpc_long_{name}": text[-1]["bpc"],
        }
        if "active_params" in result:
            found[f"active_params_{name}"] = result["active_params"]
    return found
