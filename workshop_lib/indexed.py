"""Token files as Megatron reads them: the ids in `NAME.bin`, where each document begins in `NAME.idx`.

The .bin is what `packing.pack` writes. NeMo AutoModel, Megatron-LM and Megatron-Bridge share the format
(megatron.core.datasets.indexed_dataset); a reader of theirs is what the tests open these files with.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from workshop_lib import WorkshopError
from workshop_lib.packing import Packed, pack

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
CODES = {"uint16": 8}  # of numpy's types, those that `pack` writes and Megatron knows: it has no uint32
CHUNK = 1 << 24  # tokens looked at together, so that a file of billions fits in memory


def write_indexed(documents: Iterable[dict], tokenizer, prefix: Path, limit: int | None = None) -> Packed:
    """Write documents {"text"} as `prefix`.bin and `prefix`.idx, stopping after `limit` tokens.

    Raises WorkshopError for a vocabulary of more than 65,536 tokens, and where no document is left to write.
    """
    packed = pack(documents, tokenizer, prefix.with_name(prefix.name + ".bin"), limit)
    if packed.dtype not in CODES:
        raise WorkshopError(f"어휘가 {packed.vocab_size:,}개라 {packed.dtype}으로 적었는데, Megatron의 색인에는 그 형이 없다. "
                            "어휘를 65,536개 이하로 한다.")
    if not packed.documents:
        raise WorkshopError(f"{prefix.name}.bin에 쓸 문서가 하나도 없다.")
    starts = document_starts(packed.array(), tokenizer.bos_token_id)
    write_index(prefix.with_name(prefix.name + ".idx"), starts, packed.tokens, packed.dtype)
    return packed


def document_starts(tokens: np.ndarray, bos: int) -> np.ndarray:
    """Where the documents of a token file begin: each with `bos`, which stands nowhere else. (documents,) int64."""
    found = [np.flatnonzero(tokens[at : at + CHUNK] == bos) + at for at in range(0, len(tokens), CHUNK)]
    return np.concatenate(found).astype(np.int64)


def write_index(path: Path, starts: np.ndarray, tokens: int, dtype: str) -> None:
    """The .idx of a .bin of `tokens` ids whose documents begin at `starts`: one sequence a document.

    After the header come the sequences' lengths (int32), their first bytes in the .bin (int64), and the numbers of the
    sequences that begin a document, with their count at the end (int64).
    """
    lengths = np.diff(np.append(starts, tokens)).astype(np.int32)
    header = MAGIC + struct.pack("<QBQQ", VERSION, CODES[dtype], len(starts), len(starts) + 1)
    pointers = starts * np.dtype(dtype).itemsize
    path.write_bytes(header + lengths.tobytes() + pointers.tobytes() + np.arange(len(starts) + 1, dtype=np.int64).tobytes())
