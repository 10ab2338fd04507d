"""Subword tokenisation from scratch: byte-level BPE, WordPiece's greedy match, Unigram's Viterbi.

Notable choices:
- BPE (Sennrich et al. 2016, arXiv:1508.07909) over UTF-8 bytes (Radford et al. 2019, GPT-2): ids 0..255 are the bytes,
  id 256 + k is the k-th merge, so a list of merges *is* the whole tokenizer.
- Text is first cut into pieces (`pretokenize`); merges never cross a piece. Training sees each distinct piece once,
  with its frequency.
- Ties are broken by the smaller pair of ids: the same corpus gives the same merges on every machine.
- `train_bpe_naive` recounts all pairs before every merge; `train_bpe` keeps an index pair -> pieces and a heap, and
  gives the same merges (a test holds it to that).
- Encoding is equal to Hugging Face `tokenizers` given the same merges (`to_huggingface` makes the twin).
"""

import heapq
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING

from workshop_lib import WorkshopError
from workshop_lib.hangul import is_whole_utf8

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Pair = tuple[int, int]
BYTES = 256

# GPT-2's pattern, after every numeral has been cut off by itself (as SmolLM and StarCoder do; llama.cpp knows this
# combination as "smollm"). A piece is: an English contraction, letters, other signs, or space; a space before letters or
# signs belongs to them. Single numerals keep 2026 from becoming one opaque token.
GPT2_PATTERN = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""


# ---------------------------------------------------------------------------------------------- pieces


@cache
def _patterns():
    import regex

    return regex.compile(r"(\p{N})"), regex.compile(GPT2_PATTERN)


def pretokenize(text: str) -> list[str]:
    """Cut text into the pieces that merges may not cross. `"".join(pretokenize(text)) == text` always.

    >>> pretokenize("사과 3개를 샀다.")
    ['사과', ' ', '3', '개를', ' 샀다', '.']
    """
    numeral, words = _patterns()
    return [piece for part in numeral.split(text) if part for piece in words.findall(part)]


def count_pieces(texts: Iterable[str]) -> Counter[str]:
    """How often each piece occurs in the texts."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(pretokenize(text))
    return counts


# ---------------------------------------------------------------------------------------------- BPE: training


def count_pairs(words: Mapping[tuple[int, ...], int]) -> dict[Pair, int]:
    """Count neighbouring ids over all words, each weighted by the word's frequency.

    words: ids of a word -> how often the word occurs. A run a a a holds the pair (a, a) twice.
    """
    counts: dict[Pair, int] = {}
    for ids, frequency in words.items():
        for pair in zip(ids, ids[1:]):
            counts[pair] = counts.get(pair, 0) + frequency
    return counts


def merge_pair(ids: Sequence[int], pair: Pair, new_id: int) -> list[int]:
    """Replace every occurrence of `pair` in `ids` by `new_id`, from left to right, without overlap.

    >>> merge_pair([1, 1, 1, 2], (1, 1), 9)
    [9, 1, 2]
    """
    merged: list[int] = []
    position = 0
    while position < len(ids):
        if position + 1 < len(ids) and (ids[position], ids[position + 1]) == pair:
            merged.append(new_id)
            position += 2
        else:
            merged.append(ids[position])
            position += 1
    return merged


def best_pair(counts: Mapping[Pair, int]) -> Pair:
    """The most frequent pair; among equals the smallest one, so that training is deterministic."""
    return min(counts, key=lambda pair: (-counts[pair], pair))


def train_bpe_naive(pieces: Mapping[str, int], merges: int) -> list[Pair]:
    """Learn `merges` merges by recounting everything before each one (Sennrich et al. 2016, algorithm 1).

    pieces: piece of text -> frequency. Cost: O(merges x total length). Stops early when no pair occurs twice.
    Returns the merges in order; merge k makes id 256 + k.
    """
    words: dict[tuple[int, ...], int] = {tuple(piece.encode("utf-8")): n for piece, n in pieces.items()}
    learned: list[Pair] = []
    while len(learned) < merges:
        counts = count_pairs(words)
        if not counts or counts[pair := best_pair(counts)] < 2:
            break
        new_id = BYTES + len(learned)
        words = {tuple(merge_pair(ids, pair, new_id)): n for ids, n in words.items()}
        learned.append(pair)
    return learned


def train_bpe(pieces: Mapping[str, int], merges: int, whole_characters: bool = False) -> list[Pair]:
    """The same merges as `train_bpe_naive`, but each merge touches only the words that hold the pair.

    An index tells which words hold a pair; a heap gives the most frequent pair. The heap is lazy: a count that changes is
    pushed again, and an entry whose count is no longer true is thrown away when it surfaces.
    Where a pair is replaced, only the counts of its two neighbours change.
    Cost: O(total length) once, then O(length of the touched words) a merge.

    whole_characters: refuse merges that glue a part of a character to something outside it (`is_clean`), as Land & Arnett
    propose (2025, arXiv:2505.24689).
    """
    words = [list(piece.encode("utf-8")) for piece in pieces]
    frequencies = list(pieces.values())
    counts: dict[Pair, int] = defaultdict(int)
    holders: dict[Pair, set[int]] = defaultdict(set)
    for number, ids in enumerate(words):
        for pair in zip(ids, ids[1:]):
            counts[pair] += frequencies[number]
            holders[pair].add(number)
    heap = [(-count, pair) for pair, count in counts.items()]
    heapq.heapify(heap)

    tokens = [bytes([value]) for value in range(BYTES)]
    learned: list[Pair] = []
    while len(learned) < merges and heap:
        negative_count, pair = heapq.heappop(heap)
        if counts[pair] != -negative_count:
            continue  # an old entry: the count has changed since it was pushed
        if counts[pair] < 2:
            break
        new_id, (left, right) = BYTES + len(learned), pair
        if whole_characters and not is_clean(tokens[left] + tokens[right]):
            continue  # should its count change, it will surface again and be refused again
        change: dict[Pair, int] = defaultdict(int)
        for number in holders.pop(pair):  # a few of these words may have lost the pair to an earlier merge
            ids, frequency = words[number], frequencies[number]
            position = 0
            while position < len(ids) - 1:
                if ids[position] == left and ids[position + 1] == right:
                    if position > 0:  # x a b -> x ab: the pair (x, a) goes, (x, ab) comes
                        change[ids[position - 1], left] -= frequency
                        change[made := (ids[position - 1], new_id)] += frequency
                        holders[made].add(number)
                    if position + 2 < len(ids):
                        change[right, ids[position + 2]] -= frequency
                        change[made := (new_id, ids[position + 2])] += frequency
                        holders[made].add(number)
                    change[pair] -= frequency
                    ids[position : position + 2] = [new_id]
                position += 1
        for touched, difference in change.items():
            if difference:
                counts[touched] += difference
                heapq.heappush(heap, (-counts[touched], touched))
        learned.append(pair)
        tokens.append(tokens[left] + tokens[right])
    return learned


def is_clean(token: bytes) -> bool:
    """Whether a token is whole characters, or lies inside a single one: 가나, ED 95 and 95 9C are clean, a space with ED is not."""
    if is_whole_utf8(token):
        return True
    inside = all(0x80 <= byte < 0xC0 for byte in token[1:])  # no character begins after the first byte
    return inside and token[0] >= 0x80 and not any(is_whole_utf8(token[:end]) for end in range(1, len(token)))


def vocabulary(merges: Sequence[Pair]) -> list[bytes]:
    """The bytes of every token: 256 single bytes, then one entry a merge."""
    tokens = [bytes([value]) for value in range(BYTES)]
    for left, right in merges:
        tokens.append(tokens[left] + tokens[right])
    return tokens


# ---------------------------------------------------------------------------------------------- BPE: use


def encode_piece(data: bytes, ranks: Mapping[Pair, int]) -> list[int]:
    """Encode one piece: while any neighbouring pair has a merge, apply the one learned first.

    ranks: pair -> id it becomes (a smaller id was learned earlier).
    """
    ids = list(data)
    while len(ids) > 1:
        pair = min(zip(ids, ids[1:]), key=lambda candidate: ranks.get(candidate, math.inf))
        if pair not in ranks:
            break
        ids = merge_pair(ids, pair, ranks[pair])
    return ids


def encode(text: str, merges: Sequence[Pair]) -> list[int]:
    """Token ids of a text: pieces, then merges inside each piece."""
    ranks = {pair: BYTES + order for order, pair in enumerate(merges)}
    return [token for piece in pretokenize(text) for token in encode_piece(piece.encode("utf-8"), ranks)]


def decode(ids: Sequence[int], tokens: Sequence[bytes]) -> str:
    """Text of token ids. Bytes are joined *before* decoding, for a character may be spread over several tokens.

    Bytes that are not valid UTF-8 (a generation cut off inside a character) become U+FFFD.
    Raises WorkshopError for an id outside the vocabulary.
    """
    for token in ids:
        if not 0 <= token < len(tokens):
            raise WorkshopError(f"토큰 번호 {token}은(는) 어휘({len(tokens)}개) 밖이다.")
    return b"".join(tokens[token] for token in ids).decode("utf-8", errors="replace")


def byte_alphabet() -> list[str]:
    """GPT-2's printable stand-in for each byte 0..255 (a space is shown as Ġ, the bytes of 가 as ê°Ģ)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    stand_ins = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(stand_ins)) for byte in range(BYTES)]


def to_huggingface(merges: Sequence[Pair], special_tokens: Sequence[str] = ()) -> "Tokenizer":
    """The same tokenizer as a Hugging Face `Tokenizer`: for checking, and for speed.

    Special tokens take the first ids; all other ids are moved up by their number.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = byte_alphabet()
    names = ["".join(alphabet[byte] for byte in token) for token in vocabulary(merges)]
    model = models.BPE(
        vocab={name: number for number, name in enumerate([*special_tokens, *names])},
        merges=[(names[left], names[right]) for left, right in merges],
    )
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(special_tokens))
    return tokenizer


def merge_steps(word: str, merges: Sequence[Pair]) -> Iterator[list[bytes]]:
    """Every state of a word while its merges are applied one after the other, beginning with single bytes."""
    tokens = vocabulary(merges)
    ranks = {pair: BYTES + order for order, pair in enumerate(merges)}
    ids = list(word.encode("utf-8"))
    yield [tokens[token] for token in ids]
    while True:
        known = [ranks[pair] for pair in zip(ids, ids[1:]) if pair in ranks]
        if not known:
            return
        ids = merge_pair(ids, merges[min(known) - BYTES], min(known))
        yield [tokens[token] for token in ids]


# ---------------------------------------------------------------------------------------------- WordPiece, Unigram


def wordpiece(word: str, tokens: Iterable[str], unknown: str = "[UNK]", prefix: str = "##") -> list[str]:
    """Greedy longest match from the left (BERT's WordPiece). Pieces after the first carry `prefix`.

    If at some place no token fits, the *whole* word becomes `unknown`.
    """
    known = tokens if isinstance(tokens, (set, frozenset, dict)) else set(tokens)
    found: list[str] = []
    start = 0
    while start < len(word):
        for end in range(len(word), start, -1):
            candidate = (prefix if start else "") + word[start:end]
            if candidate in known:
                break
        else:
            return [unknown]
        found.append(candidate)
        start = end
    return found


def viterbi(text: str, log_probs: Mapping[str, float]) -> tuple[list[str], float]:
    """The most probable segmentation of `text` under a unigram language model of pieces (Kudo 2018, arXiv:1804.10959).

    log_probs: piece -> natural logarithm of its probability. best[i] is the best score of text[:i]; walk back from the
    end. Among equal scores the longer last piece wins. Returns the pieces and their total log probability.
    Raises WorkshopError if no sequence of pieces spells the text.
    """
    longest = max(map(len, log_probs), default=0)
    best = [0.0] + [-math.inf] * len(text)
    start_of_last = [0] * (len(text) + 1)
    for end in range(1, len(text) + 1):
        for start in range(max(0, end - longest), end):
            score = best[start] + log_probs.get(text[start:end], -math.inf)
            if score > best[end]:
                best[end], start_of_last[end] = score, start
    if best[-1] == -math.inf:
        raise WorkshopError(f"{text!r}을(를) 어휘의 조각으로 나눌 수 없다.")
    pieces: list[str] = []
    end = len(text)
    while end:
        pieces.append(text[start_of_last[end] : end])
        end = start_of_last[end]
    return pieces[::-1], best[-1]
