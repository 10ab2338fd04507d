"""The measured numbers that `workshop_lib/cluster_plan.py` stands on: text density, training speed, memory of a step.

    python benchmarks/scaling_points.py HOME CORPUS

HOME: a finished workspace (`workshop run`); its week 4 and week 5 say how fast this machine trained. CORPUS: a corpus folder of real
text (`workshop run --weeks 2 --data DIR`), whose held-out part is counted under tokenizers trained on the rest. Writes both into
`workshop_lib/cluster_plan.json`, keeping what others published, and prints them. About a minute of CPU.
"""

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from unittest import mock

import torch

from workshop_lib import cluster_plan
from workshop_lib.architectures import kernels
from workshop_lib.architectures.families import build_model
from workshop_lib.architectures.transformer import Transformer
from workshop_lib.comparison import training_memory
from workshop_lib.pretraining import model_config
from workshop_lib.profile import get_profile
from workshop_lib.tokenization import SPECIAL_TOKENS, read_texts, train_whole_char_bpe

VOCABULARIES = (2_048, 8_192, 32_768)


def density(corpus: Path) -> dict:
    """Bytes a character, and characters a token under each vocabulary, of the held-out text."""
    train, texts = list(read_texts(corpus / "train.jsonl")), list(read_texts(corpus / "validation.jsonl"))
    chars = sum(map(len, texts))
    found = {"train_chars": sum(map(len, train)), "held_out_chars": chars, "chars_per_token": {}}
    found["bytes_per_char"] = round(sum(len(text.encode()) for text in texts) / chars, 4)
    for size in VOCABULARIES:
        tokenizer = train_whole_char_bpe(train, size, SPECIAL_TOKENS)
        tokens = sum(len(row.ids) for row in tokenizer.encode_batch(texts, add_special_tokens=False))
        found["chars_per_token"][str(size)] = round(chars / tokens, 4)
    return found


def own_run(home: Path, name: str, stage: str, key: str, config, settings) -> dict:
    """Shape and measured speed of a stage's run, and what a step of it holds with AdamW."""
    metrics = json.loads((home / stage / "metrics.json").read_text(encoding="utf-8"))
    model = Transformer(config, seed=0)
    ids = torch.randint(config.vocab_size, (settings.batch_size, settings.context + 1), generator=torch.Generator().manual_seed(0))
    adamw = replace(settings, optimizer="adamw")
    lean = training_memory(model, adamw, ids[:, :-1], ids[:, 1:])
    with mock.patch.object(kernels, "_by_hand", lambda x: False):
        plain = training_memory(model, adamw, ids[:, :-1], ids[:, 1:])
    return {"name": name, "config": asdict(config), "context": settings.context, "sequences": settings.batch_size,
            "tokens_per_s": round(metrics[key], 1), "plain_bytes": plain, "lean_bytes": lean}  # fmt: skip


def main(home: Path, corpus: Path) -> None:
    profile = get_profile(json.loads((home / "base_model" / "meta.json").read_text(encoding="utf-8"))["profile"])
    base, small = profile.base_model, profile.comparison
    vocabulary = json.loads((home / "comparison" / "models.json").read_text(encoding="utf-8"))["vocab_size"]
    config = build_model("transformer", vocabulary, small.parameters, small.width, small.layers, small.context).config
    path = Path(cluster_plan.__file__).with_suffix(".json")
    found = json.loads(path.read_text(encoding="utf-8")) | density(corpus)
    metrics, meta = (json.loads((home / "base_model" / name).read_text(encoding="utf-8")) for name in ("metrics.json", "meta.json"))
    found["runs"] = [
        own_run(home, "5주차의 바탕 모델", "base_model", "tokens_per_s", model_config(base, vocabulary), base)
        | {"mfu": round(metrics["mfu"], 4), "process_bytes": 10**6 * meta["peak_rss_mb"]},
        own_run(home, "4주차의 Transformer", "comparison", "train_tokens_per_s_transformer", config, small),
    ]
    text = json.dumps(found, ensure_ascii=False, indent=1, sort_keys=True) + "\n"
    path.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
