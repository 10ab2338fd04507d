"""Which learning rate does each method of week 6 want? Searched on training reviews alone, never on the held-out ones.

    python benchmarks/finetuning_rates.py BASE_MODEL --data DIR [--rows 2000] [--validation 2000] [--methods full lora …]

BASE_MODEL is a base_model folder. The reviews come from NSMC's training file (or, without --data, from the bundled ones): some to learn
from, others to choose by. Rates stand half a decade apart, around the profile's; prints accuracy and loss of every one.
"""

import argparse
import time
from pathlib import Path

import torch
from transformers import AutoTokenizer

from workshop_lib import finetuning
from workshop_lib.labelled import sentiment
from workshop_lib.profile import get_profile


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--rows", type=int, default=2_000)
    parser.add_argument("--validation", type=int, default=2_000)
    parser.add_argument("--methods", nargs="+", default=list(finetuning.METHODS), choices=finetuning.METHODS)
    parser.add_argument("--rates", nargs="+", type=float, help="instead of the profile's and its neighbours")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    settings = get_profile().task_model
    rows, _ = sentiment(args.data, args.rows + args.validation, 1, args.seed)
    encoded = finetuning.encode(rows, AutoTokenizer.from_pretrained(args.base), settings.max_length)
    train = encoded.head(args.rows)
    validation = finetuning.Encoded(encoded.ids[args.rows :], encoded.labels[args.rows :])
    steps = args.epochs and args.epochs * -(-len(train) // settings.batch_size)
    for method in args.methods:
        middle = getattr(settings, f"{method}_rate")
        for rate in args.rates or [middle * factor for factor in (0.1, 0.3, 1.0, 3.0)]:
            start = time.process_time()
            result = finetuning.finetune(
                method, args.base, train, settings, args.seed, validation, rate, steps, memory=False, progress=False)
            last = sum(result.losses[-20:]) / len(result.losses[-20:])
            print(f"{method:14s} {rate:8.1e}  accuracy {result.accuracy:.4f}  loss {last:.3f}  "
                  f"{time.process_time() - start:6.1f} CPU s", flush=True)


if __name__ == "__main__":
    main()
