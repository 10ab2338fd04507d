"""The same pretraining by transformers' Trainer, to compare with the loop and to take where its features are wanted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from workshop_lib.packing import Batches
from workshop_lib.throughput import can_compile, number_format


class Windows(torch.utils.data.Dataset):
    """The training windows of `Batches`, in the order in which the loop meets them."""

    def __init__(self, tokens: np.ndarray, settings, seed: int = 0):
        self.batches = Batches(tokens, settings.context, settings.batch_size, seed)
        self.rows = settings.steps * settings.batch_size

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
        start = self.batches.starts(row // self.batches.batch_size)[row % self.batches.batch_size]
        ids = torch.from_numpy(self.batches.tokens[start : start + self.batches.context].astype(np.int64))
        return {"input_ids": ids, "labels": ids}  # transformers shifts the labels itself


def trainer(model, tokens: np.ndarray, settings, out: Path, seed: int = 0):
    """A `transformers.Trainer` with the loop's settings: same windows and order, AdamW, warm-up and cosine, clipping.

    `model`: a transformers causal LM. The one difference: the labels are the window itself, so a window has one target fewer.
    """
    from transformers import PrinterCallback, Trainer, TrainingArguments

    class InOrder(Trainer):
        def _get_train_sampler(self, dataset=None):
            return torch.utils.data.SequentialSampler(self.train_dataset)  # Windows has shuffled already

    arguments = TrainingArguments(
        output_dir=str(out),
        max_steps=settings.steps,
        per_device_train_batch_size=settings.batch_size // settings.accumulation,
        gradient_accumulation_steps=settings.accumulation,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": settings.final_fraction},
        warmup_steps=settings.warmup_steps,
        weight_decay=settings.weight_decay,
        adam_beta1=settings.beta1,
        adam_beta2=settings.beta2,
        max_grad_norm=settings.clip,
        optim="adamw_torch_fused",
        bf16=number_format(settings) == torch.bfloat16,
        torch_compile=settings.compile and can_compile(),
        use_cpu=not torch.cuda.is_available(),
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=seed,
        dataloader_pin_memory=torch.cuda.is_available(),
    )
    run = InOrder(model=model, args=arguments, train_dataset=Windows(tokens, settings, seed))
    run.remove_callback(PrinterCallback)  # a line a step would bury everything else; state.log_history keeps them
    return run
