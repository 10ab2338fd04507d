"""How much faster is the incremental BPE trainer than the naive one? Same merges, one run, process CPU time.

    python benchmarks/bpe_training.py [--bytes 1000000] [--merges 512] [--data FILE]

Text: the bundled stories, or any UTF-8 text file. The naive loop recounts every pair before every merge, so the ratio grows with
the number of merges; Hugging Face's trainer (Rust, one thread) is timed beside them.
"""

import argparse
import os
import time
from collections.abc import Iterator
from pathlib import Path

os.environ["RAYON_NUM_THREADS"] = "1"

from workshop_lib import subwords, tokenization


def texts(size: int, data: Path | None) -> Iterator[str]:
    """Lines of the file, or stories, up to `size` bytes."""
    if data:
        with data.open(encoding="utf-8") as file:
            source = list(file)
    else:
        from workshop_lib.corpora.stories import stories

        source = (story["text"] for story in stories(1_000_000))
    for text in source:
        yield text
        size -= len(text.encode("utf-8"))
        if size <= 0:
            return


def cpu_seconds(function, *args) -> tuple[float, object]:
    """Process CPU seconds of a call, and its result."""
    start = time.process_time()
    result = function(*args)
    return time.process_time() - start, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bytes", type=int, default=1_000_000)
    parser.add_argument("--merges", type=int, default=512)
    parser.add_argument("--data", type=Path)
    options = parser.parse_args()
    corpus = list(texts(options.bytes, options.data))
    size = sum(len(text.encode("utf-8")) for text in corpus)
    pieces = subwords.count_pieces(corpus)
    print(f"{size:,} bytes, {len(pieces):,} distinct pieces, {options.merges} merges")
    fast, merges = cpu_seconds(subwords.train_bpe, pieces, options.merges)
    print(f"incremental {fast:8.2f} s")
    rust, _ = cpu_seconds(tokenization.train_byte_bpe, corpus, 256 + options.merges)
    print(f"tokenizers  {rust:8.2f} s (cutting into pieces included)")
    slow, same = cpu_seconds(subwords.train_bpe_naive, pieces, options.merges)
    print(f"naive       {slow:8.2f} s")
    print(f"naive / incremental = {slow / fast:.1f}; same merges: {merges == same}")


if __name__ == "__main__":
    main()
