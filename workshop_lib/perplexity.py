"""Perplexity and bits per character: the same measurement, of which only one can be compared between tokenizers.

Both come from the total negative log-likelihood of a text. Perplexity divides it by the number of tokens, which the tokenizer decides:
cut the text into more pieces and each is easier to guess. Bits per character divide by the characters, which nobody decides.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from workshop_lib import WorkshopError, ngram
from workshop_lib.ngram import bits_per_char

if TYPE_CHECKING:
    from workshop_lib.packing import Validation


def perplexity(nats: float, tokens: int) -> float:
    """exp(nats / tokens): among how many equally likely tokens the model hesitates on average."""
    if tokens < 1:
        raise WorkshopError(f"토큰이 {tokens}개이면 퍼플렉서티를 계산할 수 없다.")
    return math.exp(nats / tokens)


def of_model(model, tokenizer, texts: Sequence[str], batch: int = 32) -> dict[str, float]:
    """A language model on whole documents: {"nats", "tokens", "characters", "perplexity", "bpc"}. The closing </s> is a token too.

    Documents longer than the context are read in windows that do not overlap.
    """
    from workshop_lib.packing import encode, validation_windows

    documents = ({"id": str(number), "text": text, "source": ""} for number, text in enumerate(texts))
    return of_validation(model, validation_windows(encode(documents, tokenizer), int(model.config.max_position_embeddings)), batch)


def of_validation(model, validation: Validation, batch: int = 32) -> dict[str, float]:
    """The same for the windows that week 5 measures on."""
    from workshop_lib.packing import IGNORE
    from workshop_lib.pretraining import document_nats

    nats = float(document_nats(model, validation, batch=batch).sum())
    model.eval()
    return _row(nats, int((validation.targets != IGNORE).sum()), validation.characters)


def compare_tokenizers(
    encoders: dict[str, tuple[int, Callable[[str], Sequence[int]]]], train: Sequence[str], held_out: Sequence[str], order: int = 3,
) -> list[dict]:
    """The same kind of model (an n-gram) on the same text in different pieces: a row a tokenizer with "perplexity" and "bpc".

    encoders: name → (vocabulary size, text → ids). Id 0 must be free: it opens and closes the documents here.
    """
    characters = sum(map(len, held_out))
    rows = []
    for name, (vocab_size, encode) in encoders.items():
        streams = [np.concatenate([np.array([0, *encode(text)], dtype=np.int64) for text in texts] + [[0]]) for texts in (train, held_out)]
        scores = ngram.fit(streams[0], order, vocab_size).log_probabilities(streams[1])
        scored = len(streams[1]) - 1  # all but the first opening
        rows.append({"name": name, "vocab_size": vocab_size} | _row(-float(scores[1:].sum()), scored, characters))
    return rows


def _row(nats: float, tokens: int, characters: int) -> dict[str, float]:
    return {"nats": nats, "tokens": tokens, "characters": characters, "perplexity": perplexity(nats, tokens),
            "bpc": bits_per_char(nats, characters)}


def course_encoders(train: Sequence[str], sizes: Sequence[int] = (500, 2_000)) -> dict[str, tuple[int, Callable[[str], Sequence[int]]]]:
    """What `compare_tokenizers` takes: bytes, and byte-level BPE of some sizes learnt from `train`. Ids begin at 1."""
    from workshop_lib.tokenization import train_byte_bpe

    found: dict[str, tuple[int, Callable[[str], Sequence[int]]]] = {"바이트": (257, lambda text: [1 + byte for byte in text.encode()])}
    for size in sizes:
        tokenizer = train_byte_bpe(train, size, ["<pad>"])
        found[f"BPE {size:,}"] = (size, lambda text, tokenizer=tokenizer: tokenizer.encode(text).ids)
    return found
