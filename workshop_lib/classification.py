"""A classifier on a base model: texts as batches, the model with a new head, its scores, and the folder that is used later.

The model is transformers' own (`AutoModelForSequenceClassification`: Llama and one linear layer on the last token's state), so that
PEFT, bitsandbytes and everything that serves models take it as it is.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from workshop_lib import WorkshopError
from workshop_lib.belief import wilson_interval
from workshop_lib.labelled import LABELS


@dataclass
class Encoded:
    """Reviews as token ids: `ids` one list a review, `labels` (reviews,)."""

    ids: list[list[int]]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def head(self, count: int) -> Encoded:
        """The first `count` reviews."""
        return Encoded(self.ids[:count], self.labels[:count])


def encode(rows: Sequence[dict], tokenizer, max_length: int) -> Encoded:
    """`<s>`, the review's first tokens, `</s>`: at most `max_length` together. The label is read at `</s>`, which has seen all."""
    texts = [row["document"] for row in rows]
    tokens = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] if texts else []
    ids = [[tokenizer.bos_token_id, *line[: max_length - 2], tokenizer.eos_token_id] for line in tokens]
    return Encoded(ids, np.array([row["label"] for row in rows], dtype=np.int64))


def collate(rows: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Lines of unequal length as one tensor, padded on the right: ids and mask (1 a token, 0 padding), both (lines, longest)."""
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[pad] * (longest - len(row))] for row in rows], dtype=torch.long)
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], dtype=torch.long)
    return ids, mask


def pool_last(hidden: Tensor, mask: Tensor) -> Tensor:
    """The state at every line's last token: hidden (lines, time, width), mask (lines, time) to (lines, width).

    The last place where the mask is 1, wherever the padding stands. A causal model's other states have not seen the whole line.
    """
    places = torch.arange(mask.shape[1], device=mask.device)
    last = (mask * places).argmax(dim=1)
    return hidden[torch.arange(len(hidden), device=hidden.device), last]


def batches(lengths: Sequence[int], size: int, seed: int, epoch: int = 0) -> list[list[int]]:
    """Every index once, `size` at a time, lines of like length together: shuffled, sorted in blocks of 32 batches, shuffled again."""
    order = random.Random(f"batches/{seed}/{epoch}")
    indices = list(range(len(lengths)))
    order.shuffle(indices)
    block = 32 * size
    result = []
    for start in range(0, len(indices), block):
        part = sorted(indices[start : start + block], key=lambda index: lengths[index])
        result += [part[i : i + size] for i in range(0, len(part), size)]
    order.shuffle(result)
    return result


def endless(lengths: Sequence[int], size: int, seed: int) -> Iterator[list[int]]:
    """The batches of one epoch after another."""
    epoch = 0
    while True:
        yield from batches(lengths, size, seed, epoch)
        epoch += 1


def classifier(
    base: Path | str, seed: int = 0, pretrained: bool = True, quantized: bool = False, labels: Sequence[str] = LABELS,
) -> nn.Module:
    """A `LlamaForSequenceClassification` on a base model's folder, with a new head for `labels`.

    `pretrained=False`: the same shape with random weights. `quantized`: its linear layers in 4 bits (NF4; Dettmers et al. 2023).
    """
    from transformers import AutoConfig, AutoModelForSequenceClassification
    from transformers.utils import logging as messages

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = AutoConfig.from_pretrained(base)
    config.id2label, config.label2id = dict(enumerate(labels)), {name: number for number, name in enumerate(labels)}
    config.use_cache = False
    level = messages.get_verbosity()
    messages.set_verbosity_error()  # that the head is new is no news
    bar = messages.is_progress_bar_enabled()
    messages.disable_progress_bar()
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            if not pretrained:
                return AutoModelForSequenceClassification.from_config(config).to(device)
            options = _four_bits() | {"device_map": device} if quantized else {}
            model = AutoModelForSequenceClassification.from_pretrained(base, config=config, dtype=torch.float32, **options)
            nn.init.normal_(model.score.weight, std=0.02)
            for layer in model.modules():  # else bitsandbytes packs the weights anew for bfloat16 on the processors that have it
                if hasattr(layer, "support_avx512bf16_for_cpu"):
                    layer.support_avx512bf16_for_cpu = False
            return model if quantized else model.to(device)
    finally:
        messages.set_verbosity(level)
        if bar:
            messages.enable_progress_bar()


def _four_bits() -> dict:
    from transformers import BitsAndBytesConfig

    peft_library()
    return {"quantization_config": BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32, llm_int8_skip_modules=["score", "lm_head"],
    )}


def peft_library():
    """PEFT, without the remark of transformers on a name that PEFT still asks it for."""
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
    import peft

    return peft


@torch.no_grad()
def logits(model: nn.Module, encoded: Encoded, batch: int = 128) -> Tensor:
    """Scores of the labels for every review, in the reviews' order: (reviews, labels), on the CPU."""
    order = sorted(range(len(encoded)), key=lambda index: len(encoded.ids[index]))
    result = torch.zeros(len(encoded), model.config.num_labels)
    device, training = next(model.parameters()).device, model.training
    model.eval()
    for start in range(0, len(order), batch):
        part = order[start : start + batch]
        ids, mask = collate([encoded.ids[row] for row in part], model.config.pad_token_id)
        result[part] = model(input_ids=ids.to(device), attention_mask=mask.to(device)).logits.float().cpu()
    model.train(training)
    return result


def accuracy(predictions: np.ndarray, labels: np.ndarray) -> tuple[float, tuple[float, float]]:
    """Share of right predictions and its 95 % Wilson interval."""
    correct = int((predictions == labels).sum())
    return correct / len(labels), wilson_interval(correct, len(labels))


def save_classifier(model: nn.Module, tokenizer, folder: Path) -> None:
    """A folder that `AutoModelForSequenceClassification` loads: weights, config with the labels' names, tokenizer."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def predict(folder: Path | str, texts: Sequence[str], batch: int = 128) -> list[dict]:
    """The task model's verdict on texts: {"text", "label" (0 or 1), "name" ("부정" or "긍정"), "positive" (probability)} for each.

    folder: the task_model artefact, or any classifier that `save_classifier` wrote. Raises WorkshopError when it is none.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from workshop_lib.checkpoints import check_readable

    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise WorkshopError(f"{folder}에 분류 모델이 없다. `workshop run --weeks 6`으로 먼저 만든다.")
    check_readable(folder)
    if isinstance(texts, str):
        raise WorkshopError("predict에는 글의 목록을 준다. 글이 하나라면 [글]로 감싼다.")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    encoded = encode([{"document": text, "label": 0} for text in texts], tokenizer, model.config.max_position_embeddings)
    positive = logits(model, encoded, batch).softmax(dim=1)[:, 1].tolist()
    return [{"text": text, "label": int(p > 0.5), "name": LABELS[p > 0.5], "positive": p} for text, p in zip(texts, positive)]
