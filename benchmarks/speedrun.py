"""The speed-run: the fewest bits per character on real Korean text within a budget of CPU-seconds.

Run from the repository root, with a folder of real data (prose/*.jsonl, nsmc/ratings_train.txt, nsmc/ratings_test.txt):

    OMP_NUM_THREADS=2 OMP_WAIT_POLICY=PASSIVE python benchmarks/speedrun.py DATA --start bigram [--set layers=4 ...]

The clock is processor time of the training steps, summed over threads: 1,200 are ten minutes on two cores. Tokenizer training,
evaluation and n-grams stand outside it. At each point of the curve the model is set beside interpolated Kneser-Ney n-grams counted
on exactly the windows that it has trained on; before the last point its learning rate has not yet decayed.
With --work the run keeps its files there, and goes on from its last point when it is started again.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from workshop_lib import ngram, pretraining
from workshop_lib.corpora import public
from workshop_lib.packing import Batches, Validation, encode, open_packed, pack, validation_windows
from workshop_lib.profile import get_profile
from workshop_lib.tokenization import SPECIAL_TOKENS, load, train_byte_bpe, wrap

VOCABULARY = 4_096
RECIPE = dict(
    hidden_size=192, layers=4, heads=3, kv_heads=3, intermediate_size=512, tie_embeddings=False, zero_residual=True,
    context=128, batch_size=16, optimizer="muon", muon_iterations=3, learning_rate=1e-2, embedding_rate=0.5,
    schedule="wsd", decay_fraction=1.0, warmup_steps=20, validation_chars=130_000,
)  # fmt: skip
ORDERS = (1, 2, 3, 5)


def shuffled(documents: list[dict]) -> list[dict]:
    """Each text once, in an order that does not depend on the files'."""
    found = sorted({document["id"]: document for document in documents}.values(), key=lambda document: document["id"])
    random.Random("speedrun").shuffle(found)
    return found


def validation_set(documents: list[dict], known: set[str], tokenizer, settings) -> Validation:
    """`validation_chars` of reviews and as many of prose, none of them a text of the training set."""
    chosen, taken = [], {"nsmc": 0, "prose": 0}
    for document in documents:
        kind = "nsmc" if document["source"] == "nsmc" else "prose"
        if document["id"] not in known and taken[kind] < settings.validation_chars:
            taken[kind] += len(document["text"])
            chosen.append(document | {"source": kind})
    return validation_windows(encode(chosen, tokenizer), settings.context)


@torch.no_grad()
def start_from_bigrams(model, tokens: np.ndarray, pseudo_counts: float = 200.0) -> None:
    """Set embeddings and output layer so that the untrained model is a bigram model of `tokens`, as well as its width allows.

    The logits of a model whose blocks do nothing are H · norm(E[previous]). We want ln p(next | previous)
    = ln p(next) + M[previous, next]: the d − 1 strongest singular directions of M, weighted by how frequent both tokens are, and
    one coordinate for ln p(next). All rows of E get one length, so that the norm only rescales them.
    """
    head, embedding = model.lm_head.weight, model.model.embed_tokens.weight
    vocabulary, width = head.shape
    tokens = np.asarray(tokens, dtype=np.int64)
    counts = np.bincount(tokens[:-1] * vocabulary + tokens[1:], minlength=vocabulary**2).reshape(vocabulary, -1)
    unigram = torch.from_numpy(np.bincount(tokens, minlength=vocabulary) + 0.5).float()
    unigram /= unigram.sum()
    counts = torch.from_numpy(counts).float()
    smoothed = (counts + pseudo_counts * unigram) / (counts.sum(1, keepdim=True) + pseudo_counts)
    root = unigram.sqrt()
    left, strength, right = torch.svd_lowrank((smoothed.log() - unigram.log()) * root[:, None] * root, q=width - 1, niter=4)
    left, right = (side * strength.sqrt() / root[:, None] for side in (left, right))
    length = left.norm(dim=1, keepdim=True)
    limit = torch.quantile(length, 0.98)
    left *= (limit / length).clamp(max=1.0)
    constant = (2 * limit**2 - left.square().sum(1, keepdim=True)).sqrt()  # all rows: length √2 · limit
    level = (unigram.log() - unigram.log().mean()) / (constant[:, 0] @ unigram)
    rms = (2 * limit**2 / width).sqrt()
    turn = torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(1)))[0]  # no coordinate is special
    embedding.copy_(torch.cat((left, constant), dim=1) @ turn / rms)
    head.copy_(torch.cat((right, level[:, None]), dim=1) @ turn * rms)


def seconds_per_step(tokens: np.ndarray, settings, vocabulary: int, seed: int) -> float:
    """Processor time of one step, from a few dozen that are thrown away."""
    model = pretraining.new_model(settings, vocabulary, seed)
    pretraining.train(model, tokens, settings, seed, stop=5, progress=False)
    start = time.process_time()
    pretraining.train(model, tokens, settings, seed, stop=40, progress=False)
    return (time.process_time() - start) / 40


def tokens_seen(tokens: np.ndarray, settings, seed: int, step: int) -> np.ndarray:
    """The windows of the first steps, each once, in the order of the text: neighbours grow together again."""
    batches = Batches(tokens, settings.context, settings.batch_size, seed)
    starts = np.unique(np.concatenate([batches.starts(n) for n in range(step)]))
    places = (starts[:, None] + np.arange(settings.context)).ravel()
    return np.asarray(tokens[np.unique(places)])


def kneser_ney(tokens: np.ndarray, validation: Validation, vocabulary: int) -> dict[str, dict[str, float]]:
    """Bits per character of n-grams of each order, by kind of text."""
    stream, bos = validation.stream(), validation.documents[0].ids[0]
    document = np.repeat(np.arange(len(validation.documents)), [len(d.ids) for d in validation.documents])
    found = {}
    for order in ORDERS:
        scores = ngram.fit(tokens, order, vocabulary, bos).log_probabilities(stream)
        nats = np.bincount(document, weights=-scores, minlength=len(validation.documents))
        found[f"{order}-gram"] = by_kind(nats, validation)
    return found


def by_kind(nats: np.ndarray, validation: Validation) -> dict[str, float]:
    whole = {"val_bpc": ngram.bits_per_char(float(nats.sum()), validation.characters)}
    return whole | pretraining.by_source("val_bpc", nats, validation)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="진짜 한국어 글로 하는 스피드런: 정한 CPU 시간 안에 문자당 비트를 가장 낮춘다.")
    parser.add_argument("data", type=Path, help="진짜 데이터가 있는 폴더")
    parser.add_argument("--cpu-seconds", type=float, default=1_200.0, help="학습 단계에 쓸 CPU 시간(초), 모든 스레드의 합")
    parser.add_argument("--start", choices=("random", "bigram"), default="random", help="임의의 값 또는 두 낱말 통계에서 시작")
    parser.add_argument("--points", type=int, default=6, help="곡선 위의 점 수")
    parser.add_argument("--vocab", type=int, default=VOCABULARY, help="어휘 크기")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="CPU 시간 대신 단계 수를 정한다(시간을 재지 않는다)")
    parser.add_argument("--work", type=Path, help="중간 파일을 둘 폴더. 다시 실행하면 이어서 한다")
    parser.add_argument("--set", nargs="*", default=[], metavar="이름=값", help="레시피에서 바꿀 설정")
    chosen = parser.parse_args(arguments)
    changes = {name: json.loads(value) for name, value in (item.split("=", 1) for item in chosen.set)}
    settings = replace(get_profile("tiny").base_model, **RECIPE | changes)
    with tempfile.TemporaryDirectory() as temporary:
        run(chosen, settings, chosen.work or Path(temporary))


def run(chosen: argparse.Namespace, settings, work: Path) -> None:
    work.mkdir(parents=True, exist_ok=True)
    documents = shuffled(list(public.documents(chosen.data)))
    if not (work / "tokenizer").exists():
        trained = train_byte_bpe((d["text"] for d in documents), chosen.vocab, SPECIAL_TOKENS)
        wrap(trained, settings.context).save_pretrained(work / "tokenizer")
    tokenizer, packed = load(work / "tokenizer"), work / "train.bin"
    tokens = (open_packed(packed) if packed.exists() else pack(documents, tokenizer, packed)).array()
    held_back = shuffled(list(public.validation_documents(chosen.data)))
    validation = validation_set(held_back, {d["id"] for d in documents}, tokenizer, settings)

    plan = work / "plan.json"  # the number of steps must not change when the run goes on
    if not plan.exists():
        cost = 0.0 if chosen.steps else seconds_per_step(tokens, settings, len(tokenizer), chosen.seed)
        steps = chosen.steps or round(chosen.cpu_seconds / cost)
        plan.write_text(json.dumps({"steps": steps, "rows": []}), encoding="utf-8")
    state = json.loads(plan.read_text(encoding="utf-8"))
    stretch = -(-state["steps"] // chosen.points)
    settings = replace(settings, steps=state["steps"], checkpoint_every=stretch)
    tokens = tokens[: settings.steps * settings.batch_size * settings.context + 1]
    model = pretraining.new_model(settings, len(tokenizer), chosen.seed)
    begun = time.process_time()
    if chosen.start == "bigram" and not state["rows"]:  # counted on what the first point of the curve has seen
        start_from_bigrams(model, tokens_seen(tokens, settings, chosen.seed, stretch))
    begun = time.process_time() - begun  # belongs to the budget
    print(f"매개변수 {model.num_parameters():,}, 어휘 {len(tokenizer):,}, 단계 {settings.steps:,}, 말뭉치 {len(tokens):,}토큰, "
          f"스레드 {torch.get_num_threads()}", flush=True)  # fmt: skip
    print("토큰 | CPU초 | 벽시계초 | 모델 (리뷰 / 산문) | " + " | ".join(f"{order}-gram" for order in ORDERS), flush=True)
    for row in state["rows"]:
        print(line(row), flush=True)
    while len(state["rows"]) < chosen.points:
        step = min(stretch * (len(state["rows"]) + 1), settings.steps)
        start, wall = time.process_time(), time.perf_counter()
        pretraining.train(model, tokens, settings, chosen.seed, checkpoint=work / "checkpoint.pt", stop=step)
        spent, passed = time.process_time() - start, time.perf_counter() - wall
        before = state["rows"][-1] if state["rows"] else {"cpu_seconds": begun, "seconds": 0.0}
        seen = tokens_seen(tokens, settings, chosen.seed, step)
        row = {"tokens": step * settings.batch_size * settings.context, "distinct": len(seen),
               "cpu_seconds": before["cpu_seconds"] + spent, "seconds": before["seconds"] + passed,
               "model": pretraining.evaluate(model, validation, settings)}  # fmt: skip
        row |= kneser_ney(seen, validation, len(tokenizer))
        state["rows"].append(row)
        plan.write_text(json.dumps(state), encoding="utf-8")
        print(line(row), flush=True)
    pretraining.save_model(model, tokenizer, work / "model")


def line(row: dict) -> str:
    model = row["model"]
    kinds = " / ".join(f"{model[name]:.3f}" for name in ("val_bpc_nsmc", "val_bpc_prose") if name in model)
    others = " | ".join(f"{row[f'{order}-gram']['val_bpc']:.3f}" for order in ORDERS)
    return f"{row['tokens']:,} | {row['cpu_seconds']:.0f} | {row['seconds']:.0f} | {model['val_bpc']:.3f} ({kinds}) | {others}"


if __name__ == "__main__":
    main()
