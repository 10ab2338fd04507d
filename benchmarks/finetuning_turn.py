"""From how many labels on does a pretrained model beat TF-IDF with logistic regression, and how large must it be? (week 6)

    WORKSHOP_PROFILE=small python benchmarks/finetuning_turn.py BASE_MODEL --data DIR [--labels 500 2000 8000] [--rate 5e-4]

BASE_MODEL is a base_model folder; the reviews are NSMC's. For each number of labels: accuracy on the same held-out reviews with its 95 %
interval, for TF-IDF, for full fine-tuning of the base model, and for the same shape from random weights.
"""

import argparse
from pathlib import Path

from transformers import AutoTokenizer

from workshop_lib import finetuning
from workshop_lib.labelled import sentiment
from workshop_lib.profile import get_profile


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--labels", nargs="+", type=int, default=[500, 2_000, 8_000])
    parser.add_argument("--held-out", type=int, default=5_000)
    parser.add_argument("--rate", type=float, help="of full fine-tuning, instead of the profile's")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    settings = get_profile().task_model
    rows, held_out_rows = sentiment(args.data, max(args.labels), args.held_out, args.seed)
    tokenizer = AutoTokenizer.from_pretrained(args.base)
    train, held_out = (finetuning.encode(part, tokenizer, settings.max_length) for part in (rows, held_out_rows))
    for count in args.labels:
        found, _ = finetuning.baselines(rows[:count], held_out_rows)["tfidf"]
        show(count, "tfidf", *finetuning.accuracy(found, held_out.labels))
        for method, rate in (("full", args.rate), ("random_init", None)):
            result = finetuning.finetune(
                method, args.base, train.head(count), settings, args.seed, held_out, rate, memory=False, progress=False)
            show(count, method, result.accuracy, result.interval)


def show(count: int, method: str, accuracy: float, interval: tuple[float, float]) -> None:
    print(f"{count:7,} labels  {method:12s} {accuracy:.4f}  [{interval[0]:.4f}, {interval[1]:.4f}]", flush=True)


if __name__ == "__main__":
    main()
