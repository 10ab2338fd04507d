"""What every seeded generator of tasks shares: splits by combination, and a stream without repeats.

A generator draws an item together with the *combination* it stands for (aspect × opinion × construction, say). The
combination, not the row, decides the split, so a validation item is one whose combination no training item has, for
any seed. Only `random.Random` and CRC-32 are used: the same stream comes out on every machine and Python version.
"""

import zlib
from collections.abc import Callable, Iterator
from random import Random

from workshop_lib import WorkshopError

SPLITS = ("train", "validation")
VALIDATION_SHARE = 10  # one combination in ten
_PATIENCE = 20_000  # draws in a row without anything new before the generator counts as exhausted

Draw = Callable[[Random, int], tuple[tuple, str, dict]]


def split_of(combination: tuple, share: int = VALIDATION_SHARE) -> str:
    """The split that a combination belongs to, for ever: "validation" for one in `share`, by CRC-32 of its parts."""
    code = zlib.crc32("\x1f".join(map(str, combination)).encode("utf-8"))
    return "validation" if code % share == 0 else "train"


def stream(name: str, n: int, seed: int, split: str, draw: Draw, key: str = "id", share: int = VALIDATION_SHARE) -> Iterator[dict]:
    """Yield `n` rows of `split`, each with an id under `key`, no two with the same identity.

    `draw(rng, i)` makes one candidate for place `i` and returns (combination, identity, row). The identity is what
    must not repeat (usually the text). Candidates of the other split and repeats are thrown away.

    Raises:
        WorkshopError: unknown split, negative `n`, or more rows asked for than the grammar can make.
    """
    if split not in SPLITS:
        raise WorkshopError(f"split은 {' 또는 '.join(SPLITS)}이어야 한다. 받은 값: {split!r}")
    if n < 0:
        raise WorkshopError(f"개수 n은 0 이상이어야 한다. 받은 값: {n}")
    rng = Random(f"{name}/{split}/{seed}")
    seen: set[int] = set()
    for i in range(n):
        for _ in range(_PATIENCE):
            combination, identity, row = draw(rng, i)
            if split_of(combination, share) != split:
                continue
            code = zlib.crc32(identity.encode("utf-8")) << 32 | zlib.adler32(identity[::-1].encode("utf-8"))
            if code not in seen:  # 64-bit codes, not texts: a million rows stay in tens of megabytes
                seen.add(code)
                break
        else:
            raise WorkshopError(f"{name} 생성기가 {split}에서 서로 다른 항목을 {i}개까지만 만들 수 있었다(요청: {n}개). n을 줄인다.")
        yield {key: f"{name}-{split}-{seed}-{i:06d}"} | row
