"""Pretraining: the loop, its evaluation, its checkpoints, and the course's base model.

Notable choices
- `train` is the loop in one screen. Its one dial is `BaseModelSettings`; it trains any module that maps
  (inputs, targets) to a loss, so the architectures of week 4 and the base model share it.
- A batch is a function of seed and step, and nothing else is random: a run that was killed and goes on from its
  checkpoint ends in the same weights, bit for bit, on the same machine.
- Bits per character are measured over whole held-out documents, on the same targets as the n-gram baselines.
- Under `torchrun` the same function trains with DistributedDataParallel or FSDP2 (`distributed`); the global batch stays the same.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workshop_lib import WorkshopError, display, ngram, tokenization
from workshop_lib.architectures.transformer import Transformer, TransformerConfig, generate
from workshop_lib.checkpoints import check_outputs, check_place, load_checkpoint, save_checkpoint, save_model
from workshop_lib.distributed import LAYOUTS, gathered, joined, mean, seat, spread
from workshop_lib.ngram import bits_per_char
from workshop_lib.optimization import clip_by_global_norm, optimizers, schedule, set_learning_rate
from workshop_lib.packing import IGNORE, Batches, Validation, encode, open_packed, pack, read_documents, validation_windows
from workshop_lib.profile import changed, get_profile
from workshop_lib.throughput import can_compile, fast_arithmetic, flops_per_token, matmul_peak, number_format
from workshop_lib.workspace import write_rows


@dataclass
class Run:
    """What a training run recorded. `history`: a row an evaluation; the lists: a number a step."""

    history: list[dict] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    gradient_norms: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    samples: list[dict] = field(default_factory=list)
    seconds: float = 0.0  # of training steps alone
    step: int = 0


def train(
    model: nn.Module,
    tokens: np.ndarray,
    settings,
    seed: int = 0,
    validation: Validation | None = None,
    checkpoint: Path | None = None,
    stop: int | None = None,
    sample: Callable[[nn.Module], list[str]] | None = None,
    progress: bool = True,
    peak: float | None = None,
    layout: str = "ddp",
) -> Run:
    """Train `model` on a stream of token ids for `settings.steps` steps.

    tokens: (tokens,) ids. `validation`: measured every `evaluate_every` steps and at the end. `checkpoint`: a file, or a folder
    (`checkpoints`); when it exists the run goes on from it. `stop`: return before this step, as an interruption would. `sample`: called
    every `sample_every` steps, returns texts. `peak`: the machine's operations a second where they are known; None: measured here.
    `layout`: how several processes share the work (`distributed.spread`); a checkpoint goes on in any of them.
    Raises WorkshopError when the corpus is shorter than one context, when the processes cannot share a batch evenly, when the loss is no
    longer a number, or when the checkpoint belongs to another run.
    """
    device = next(model.parameters()).device
    rank, ranks = seat()
    if settings.batch_size % ranks:
        raise WorkshopError(f"배치 {settings.batch_size}줄을 프로세스 {ranks}개가 고르게 나눌 수 없다. 배치를 {ranks}의 배수로 고른다.")
    network = _network(model, settings, layout)
    batches = Batches(tokens, settings.context, settings.batch_size, seed)
    steppers, run = optimizers(model, settings), Run()
    identity = asdict(settings) | {"seed": seed, "corpus_tokens": len(tokens)}
    if checkpoint is not None:
        check_place(checkpoint)
    if checkpoint is not None and checkpoint.exists():
        run = Run(**load_checkpoint(checkpoint, model, steppers, identity))
    parameters = [p for p in model.parameters() if p.requires_grad]
    best, flops = peak or matmul_peak(settings), flops_per_token(model, settings.context)
    bar = display.progress(total=settings.steps, initial=run.step, desc="사전학습", disable=not (progress and rank == 0))
    with fast_arithmetic(settings):
        while run.step < min(settings.steps, settings.steps if stop is None else stop):
            start = time.perf_counter()
            rate = schedule(run.step, settings)
            set_learning_rate(steppers, rate)
            inputs, targets = (torch.from_numpy(x).to(device) for x in batches.batch(run.step, rank, ranks))
            loss = _accumulate(network, inputs, targets, settings)
            norm = clip_by_global_norm([p.grad for p in parameters], settings.clip)
            if not (math.isfinite(loss) and math.isfinite(norm)):
                raise WorkshopError(_diverged(run.step, loss, norm, rate))
            for stepper in steppers:
                stepper.step()
                stepper.zero_grad(set_to_none=True)
            run.seconds += time.perf_counter() - start
            run.step += 1
            run.losses.append(loss)
            run.gradient_norms.append(norm)
            run.rates.append(rate)
            last = run.step == settings.steps
            if last or run.step % settings.evaluate_every == 0:
                best = peak or max(best, matmul_peak(settings))  # on a machine that others use too, the best moment is the peak
                run.history.append(_measure(run, model, settings, validation, flops, best))
            if sample is not None and (last or run.step % settings.sample_every == 0):
                with gathered(model):
                    run.samples += [{"step": run.step, "text": text} for text in sample(model)]
            if checkpoint is not None and (last or run.step % settings.checkpoint_every == 0):
                save_checkpoint(checkpoint, model, steppers, run, identity)
            bar.update()
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
    bar.close()
    return run


def _accumulate(network: nn.Module, inputs: Tensor, targets: Tensor, settings) -> float:
    """Gradients of a batch's mean loss, computed in `accumulation` equal parts. Returns the mean over all processes."""
    parts = settings.accumulation
    if len(inputs) % parts:
        raise WorkshopError(f"프로세스당 배치 {len(inputs)}줄을 {parts}번에 나누어 쌓을 수 없다. 배치를 {parts}의 배수로 고른다.")
    total = torch.zeros((), device=inputs.device)
    for part, (x, y) in enumerate(zip(inputs.chunk(parts), targets.chunk(parts)), start=1):
        waits = part < parts and isinstance(network, nn.parallel.DistributedDataParallel)
        with network.no_sync() if waits else nullcontext(), _autocast(inputs.device, settings):
            loss = network(x, y) / parts  # divide, or accumulation becomes a larger learning rate
            loss.backward()
        total += loss.detach()
    return float(mean(total))


def _measure(run: Run, model: nn.Module, settings, validation: Validation | None, flops: float, peak: float) -> dict:
    done = run.history[-1] if run.history else {"step": 0, "seconds": 0.0}
    steps, seconds = run.step - done["step"], run.seconds - done["seconds"]
    speed = steps * settings.batch_size * settings.context / max(seconds, 1e-9)
    row = {
        "step": run.step,
        "tokens": run.step * settings.batch_size * settings.context,
        "loss": float(np.mean(run.losses[-steps:])),
        "grad_norm": float(np.mean(run.gradient_norms[-steps:])),
        "lr": run.rates[-1],
        "seconds": run.seconds,
        "tokens_per_s": speed,
        "mfu": speed * flops / (peak * seat()[1]),
    }
    return row | (evaluate(model, validation, settings) if validation is not None else {})


@torch.no_grad()
def evaluate(model: nn.Module, validation: Validation, settings=None, batch: int = 32) -> dict[str, float]:
    """Bits per character of whole held-out documents: `val_bpc`, and `val_bpc_<source>` where there are several sources."""
    nats = document_nats(model, validation, settings, batch)
    return {"val_bpc": bits_per_char(float(nats.sum()), validation.characters)} | by_source("val_bpc", nats, validation)


def document_nats(model: nn.Module, validation: Validation, settings=None, batch: int = 32) -> np.ndarray:
    """Total negative log-likelihood of each validation document in nats: (documents,)."""
    device = next(model.parameters()).device
    nats = np.zeros(len(validation.documents))
    model.eval()
    for start in range(0, len(validation.inputs), batch):
        part = slice(start, start + batch)
        inputs = torch.from_numpy(validation.inputs[part]).to(device)
        targets = torch.from_numpy(validation.targets[part]).to(device)
        with torch.no_grad(), _autocast(device, settings):
            logits = model(inputs)
        logits = getattr(logits, "logits", logits).float()
        scores = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction="none")
        np.add.at(nats, validation.document[part].ravel(), scores.double().cpu().numpy())
    model.train()
    return nats


def by_source(name: str, nats: np.ndarray, validation: Validation) -> dict[str, float]:
    """`<name>_<source>` for each source when there are several."""
    sources = np.array([document.source for document in validation.documents])
    characters = np.array([document.characters for document in validation.documents])
    kinds = sorted(set(sources.tolist()))
    if len(kinds) < 2:
        return {}
    return {
        f"{name}_{kind}": bits_per_char(float(nats[sources == kind].sum()), int(characters[sources == kind].sum()))
        for kind in kinds
    }


def next_token_loss(logits: Tensor, ids: Tensor) -> Tensor:
    """Mean cross-entropy of each token given those before it. logits: (batch, time, vocabulary) of ids: (batch, time).

    The logits at place t are about the token at t + 1: the last place has no target, the first token is no target.
    """
    scores = logits[:, :-1].log_softmax(dim=-1)
    return -scores.gather(2, ids[:, 1:, None]).mean()


def model_config(settings, vocab_size: int) -> TransformerConfig:
    """The settings' model shape for a vocabulary."""
    return TransformerConfig(
        vocab_size=vocab_size,
        hidden_size=settings.hidden_size,
        intermediate_size=settings.intermediate_size,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.kv_heads,
        max_position_embeddings=settings.context,
        rope_theta=settings.rope_theta,
        tie_word_embeddings=settings.tie_embeddings,
        initializer_range=settings.init_std,
    )


def new_model(settings, vocab_size: int, seed: int = 0) -> Transformer:
    """The settings' Llama with random weights, on the GPU if there is one.

    Untied, the embeddings have standard deviation 1 and the output layer is zero: at first every token is equally likely.
    """
    model = Transformer(model_config(settings, vocab_size), seed)
    if settings.zero_residual:
        for block in model.model.layers:
            nn.init.zeros_(block.self_attn.o_proj.weight)
            nn.init.zeros_(block.mlp.down_proj.weight)
    if not settings.tie_embeddings:
        model.model.embed_tokens.weight.data.div_(settings.init_std)
        nn.init.zeros_(model.lm_head.weight)
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def complete(model: nn.Module, tokenizer, prompts: list[str], tokens: int = 80, seed: int = 0, **options) -> list[str]:
    """Prompt and continuation as text, one for each prompt; '' starts a document."""
    model.eval()
    texts = []
    for number, prompt in enumerate(prompts):
        ids = [tokenizer.bos_token_id, *tokenizer(prompt, add_special_tokens=False, verbose=False)["input_ids"]]
        new = generate(model, ids, tokens, seed=seed + number, stop=tokenizer.eos_token_id, **options)
        texts.append(tokenizer.decode(ids[1:] + new))
    model.train()
    return texts


def _network(model: nn.Module, settings, layout: str) -> nn.Module:
    if not (settings.compile and can_compile()):
        return spread(model, layout)
    if layout == "fsdp":  # sharding changes the model itself, so it comes first
        return torch.compile(spread(model, layout))
    return spread(model, layout, torch.compile(model))


def _autocast(device: torch.device, settings):
    return torch.autocast(device.type, torch.bfloat16, enabled=number_format(settings) == torch.bfloat16)


def _diverged(step: int, loss: float, norm: float, rate: float) -> str:
    return (
        f"{step + 1}번째 단계에서 손실이 {loss:g}, 기울기 크기가 {norm:g}이 되어 학습을 멈춘다(학습률 {rate:g}). "
        "학습률을 절반으로 낮추거나 warmup_steps를 늘린다. 그래도 같으면 그 단계의 배치에 깨진 문서가 있는지 본다."
    )


def build(job) -> dict[str, float]:
    """The base_model stage: corpus and tokenizer → tokens → training → a `LlamaForCausalLM` folder and its metrics."""
    from transformers import AutoTokenizer

    settings, corpus = job.settings, job.inputs["corpus"]
    tokenizer = AutoTokenizer.from_pretrained(job.inputs["tokenizer"])
    budget = settings.steps * settings.batch_size * settings.context
    packed = pack(read_documents(corpus / "train.jsonl", job.seed), tokenizer, job.out / "train.bin", budget + 1)
    # Real text has a dozen small sources of prose beside the film reviews: two numbers, not thirteen.
    kind = (lambda source: "nsmc" if source == "nsmc" else "prose") if job.data else None
    validation = held_out(corpus / "validation.jsonl", tokenizer, settings, job.seed, kind)
    model = new_model(settings, len(tokenizer), job.seed)
    checkpoint = job.out / "checkpoint.pt"
    tokens = packed.array()
    run = train(
        model, tokens, settings, job.seed, validation, checkpoint,
        sample=lambda model: complete(model, tokenizer, list(settings.prompts)),
    )
    save_model(model, tokenizer, job.out)
    write_rows(job.out / "history.jsonl", run.history)
    write_rows(job.out / "samples.jsonl", run.samples)
    steps = [{"step": n + 1, "loss": a, "grad_norm": b, "lr": c}
             for n, (a, b, c) in enumerate(zip(run.losses, run.gradient_norms, run.rates))]
    write_rows(job.out / "steps.jsonl", steps)
    last = run.history[-1]
    metrics = {
        "params": model.num_parameters(),
        "train_tokens": budget,
        "tokens_per_s": budget / run.seconds,
        "mfu": float(np.median([row["tokens_per_s"] for row in run.history])) * last["mfu"] / last["tokens_per_s"],
        "final_train_loss": last["loss"],
        "epochs": budget / len(tokens),
    }
    metrics |= {key: value for key, value in last.items() if key.startswith("val_bpc")}
    metrics |= baselines(tokens, validation, len(tokenizer), settings.ngram_order)
    for leftover in (checkpoint, job.out / "train.bin", job.out / "train.json"):
        leftover.unlink(missing_ok=True)
    return metrics


def held_out(
    path: Path, tokenizer, settings, seed: int = 0, kind: Callable[[str], str] | None = None
) -> Validation:
    """Validation documents in shuffled order, `validation_chars` of each kind of source, as windows."""
    taken: dict[str, int] = {}
    chosen = []
    for document in read_documents(path, seed):
        source = str(document.get("source", ""))
        source = kind(source) if kind else source.split("/")[0]
        if taken.get(source, 0) < settings.validation_chars:
            taken[source] = taken.get(source, 0) + len(document["text"])
            chosen.append(document | {"source": source})
    return validation_windows(encode(chosen, tokenizer), settings.context)


def baselines(tokens: np.ndarray, validation: Validation, vocab_size: int, order: int) -> dict[str, float]:
    """Bits per character of guessing evenly, of a unigram and of an n-gram model, counted from the same training tokens."""
    bos = validation.documents[0].ids[0]
    stream, characters = validation.stream(), validation.characters
    scored = int((validation.targets != IGNORE).sum())
    found = {"uniform_bpc": bits_per_char(scored * math.log(vocab_size), characters)}
    unigram = ngram.fit(tokens, 1, vocab_size, bos)
    found["unigram_bpc"] = unigram.bits_per_char(stream, characters)
    scores = ngram.fit(tokens, order, vocab_size, bos).log_probabilities(stream)
    document = np.repeat(np.arange(len(validation.documents)), [len(d.ids) for d in validation.documents])
    nats = np.bincount(document, weights=-scores, minlength=len(validation.documents))
    return found | {"ngram_bpc": bits_per_char(float(nats.sum()), characters)} | by_source("ngram_bpc", nats, validation)


def main(arguments: list[str] | None = None) -> None:
    """Train on a token file and write the record; under `torchrun` with one process a device.

        torchrun --nproc_per_node 2 -m workshop_lib.pretraining train.bin record.json --layout fsdp --settings '{"steps": 20}'
    """
    import argparse

    parser = argparse.ArgumentParser(description="토큰 파일로 사전학습하고 단계마다의 손실을 남긴다. torchrun 아래에서도 돈다.")
    parser.add_argument("tokens", type=Path, help="pack이 만든 토큰 파일")
    parser.add_argument("record", type=Path, help="손실을 적을 JSON 파일")
    parser.add_argument("--settings", default="{}", metavar="JSON", help="프로필에서 바꿀 설정(JSON)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--layout", choices=LAYOUTS, default="ddp", help="여러 프로세스가 모델을 나누는 방식")
    parser.add_argument("--checkpoint", type=Path, help="이어서 학습할 체크포인트. 이름이 .pt로 끝나면 파일 하나, 끝이 없으면 폴더. "
                        "다른 방식, 다른 프로세스 수로 쓴 것도 된다")
    parser.add_argument("--stop", type=int, help="이 단계에서 멈춘다")
    parser.add_argument("--model", type=Path, help="다 배운 모델을 쓸 폴더. --tokenizer와 함께 준다")
    parser.add_argument("--tokenizer", type=Path, help="토큰 파일을 만든 토크나이저 폴더")
    chosen = parser.parse_args(arguments)
    if (chosen.model is None) != (chosen.tokenizer is None):
        parser.error("--model과 --tokenizer는 함께 준다")
    settings, packed = changed(get_profile().base_model, chosen.settings), open_packed(chosen.tokens)
    check_outputs(chosen.record, chosen.model)
    tokenizer = chosen.tokenizer and tokenization.load(chosen.tokenizer)
    if tokenizer and len(tokenizer) != packed.vocab_size:
        raise WorkshopError(f"토큰 파일의 어휘는 {packed.vocab_size:,}개인데 {chosen.tokenizer}의 어휘는 {len(tokenizer):,}개이다. "
                            "토큰 파일을 만든 토크나이저를 준다.")
    with joined():
        model = new_model(settings, packed.vocab_size, chosen.seed)
        run = train(model, packed.array(), settings, chosen.seed, checkpoint=chosen.checkpoint, stop=chosen.stop, layout=chosen.layout)
        if chosen.model:
            save_model(model, tokenizer, chosen.model)
        if seat()[0] == 0:
            record = {"losses": run.losses, "gradient_norms": run.gradient_norms, "seconds": run.seconds}
            chosen.record.write_text(json.dumps(record), encoding="utf-8")


if __name__ == "__main__":
    from workshop_lib.cli import reported

    raise SystemExit(reported(main, "--checkpoint를 준 학습은 같은 명령이 마지막 체크포인트에서 이어 간다."))
