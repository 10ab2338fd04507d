"""What a tokenizer does to text, measured: length, unknowns, round trip, and agreement with Korean morphemes.

Tokenizers of different libraries are seen through one small dataclass, `Segmenter`; `compare` makes the table of week 3.
Measures are taken on held-out text, never on what the tokenizer was trained on.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import TYPE_CHECKING

from workshop_lib import WorkshopError
from workshop_lib.hangul import is_whole_utf8
from workshop_lib.subwords import byte_alphabet

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class Segmenter:
    """Any tokenizer seen through four functions, so that all can be measured alike.

    encode: text -> ids.  decode: ids -> text.  spans: text -> [start, end) in characters for each token.
    pieces: text -> what each token looks like (a token that is part of a character is shown as its bytes, <EA B0>).
    """

    name: str
    vocab_size: int
    encode: Callable[[str], list[int]]
    decode: Callable[[list[int]], str]
    spans: Callable[[str], list[tuple[int, int]]]
    pieces: Callable[[str], list[str]]
    unknown_id: int | None = None


def show_bytes(data: bytes) -> str:
    """Text where the bytes are text, else their hexadecimal values: b"\\xea\\xb0" -> "<EA B0>"."""
    return data.decode("utf-8") if is_whole_utf8(data) else f"<{data.hex(' ').upper()}>"


@cache
def _bytes_of_stand_in() -> dict[str, int]:
    return {char: byte for byte, char in enumerate(byte_alphabet())}


def token_bytes(token: str) -> bytes:
    """The bytes behind a byte-level token's printable name: "ê°Ģ" -> "가".encode()."""
    table = _bytes_of_stand_in()
    return bytes(table[char] for char in token) if all(char in table for char in token) else token.encode("utf-8")


def from_tokenizers(name: str, tokenizer: "Tokenizer") -> Segmenter:
    """View of a Hugging Face `tokenizers.Tokenizer`."""
    byte_level = "ByteLevel" in str(tokenizer.decoder)
    unknown = getattr(tokenizer.model, "unk_token", None) or ("[UNK]" if tokenizer.token_to_id("[UNK]") is not None else None)

    def pieces(text: str) -> list[str]:
        tokens = tokenizer.encode(text, add_special_tokens=False).tokens
        return [show_bytes(token_bytes(token)) for token in tokens] if byte_level else tokens

    return Segmenter(
        name=name,
        vocab_size=tokenizer.get_vocab_size(),
        encode=lambda text: tokenizer.encode(text, add_special_tokens=False).ids,
        decode=lambda ids: tokenizer.decode(ids, skip_special_tokens=False),
        spans=lambda text: tokenizer.encode(text, add_special_tokens=False).offsets,
        pieces=pieces,
        unknown_id=tokenizer.token_to_id(unknown) if unknown else None,
    )


def from_pretrained(name: str, tokenizer: "PreTrainedTokenizerFast") -> Segmenter:
    """View of a fast `transformers` tokenizer (the course's own, or GPT-2, Qwen, Gemma from the Hub)."""
    return from_tokenizers(name, tokenizer.backend_tokenizer)


def from_sentencepiece(name: str, processor) -> Segmenter:
    """View of a `SentencePieceProcessor`. A byte-fallback token spans no whole character; its span is the character."""

    def spans(text: str) -> list[tuple[int, int]]:
        # Lengths are added up, for `begin` and `end` count bytes in some releases and characters in others.
        ends = list(accumulate(len(piece.surface) for piece in processor.encode(text, out_type="proto").pieces))
        return list(zip([0, *ends], ends))

    return Segmenter(
        name=name,
        vocab_size=processor.get_piece_size(),
        encode=lambda text: processor.encode(text),
        decode=lambda ids: processor.decode(ids),
        spans=spans,
        pieces=lambda text: processor.encode(text, out_type=str),
        unknown_id=processor.unk_id(),
    )


COLUMNS = {
    "name": "토크나이저",
    "vocab_size": "어휘",
    "chars_per_token": "글자/토큰",
    "bytes_per_token": "바이트/토큰",
    "tokens_per_eojeol": "토큰/어절",
    "unk_rate": "미등록 비율",
    "roundtrip_failures": "왕복 실패",
    "morpheme_boundary_recall": "조사·어미 재현율",
    "morpheme_boundary_precision": "조사·어미 정밀도",
    "embedding_parameters": "임베딩 파라미터",
    "embedding_share": "임베딩 비중",
    "rare_share": "드문 토큰 비중",
    "bits_per_char": "문자당 비트",
}  # what a reader sees for each measure


# ---------------------------------------------------------------------------------------------- measures


def chars_per_token(texts: Sequence[str], encode: Callable[[str], Sequence[int]]) -> float:
    """All characters over all tokens (not the mean of ratios: a long text must count for more)."""
    tokens = sum(len(encode(text)) for text in texts)
    return sum(map(len, texts)) / tokens if tokens else 0.0


def roundtrip_failures(
    texts: Sequence[str], encode: Callable[[str], list[int]], decode: Callable[[list[int]], str]
) -> list[str]:
    """The texts that do not come back exactly."""
    return [text for text in texts if decode(encode(text)) != text]


def measure(segmenter: Segmenter, texts: Sequence[str]) -> dict[str, float]:
    """Measures on held-out text: vocab_size, chars_per_token, bytes_per_token, tokens_per_eojeol (fertility: tokens for one
    space-separated word), unk_rate (unknown tokens over tokens), roundtrip_failures (texts that come back altered)."""
    if not texts:
        raise WorkshopError("비교할 검증용 텍스트가 없다.")
    encoded = [segmenter.encode(text) for text in texts]
    tokens = sum(map(len, encoded)) or 1
    unknown = sum(ids.count(segmenter.unknown_id) for ids in encoded) if segmenter.unknown_id is not None else 0
    return {
        "vocab_size": segmenter.vocab_size,
        "chars_per_token": sum(map(len, texts)) / tokens,
        "bytes_per_token": sum(len(text.encode("utf-8")) for text in texts) / tokens,
        "tokens_per_eojeol": tokens / max(1, sum(len(text.split()) for text in texts)),
        "unk_rate": unknown / tokens,
        "roundtrip_failures": sum(segmenter.decode(ids) != text for ids, text in zip(encoded, texts)),
    }


@cache
def _kiwi():
    from kiwipiepy import Kiwi

    return Kiwi(num_workers=1)


def particle_boundaries(text: str) -> set[int]:
    """Places inside an 어절 where, by the analyser kiwipiepy, a particle (tag J*) or an ending (E*) begins.

    A contraction such as 했다 (하 + 었 + 다) has no place where 었 begins, so it gives only the one before 다.
    """
    found: set[int] = set()
    previous_end = -1
    for token in _kiwi().tokenize(text):
        if token.tag[0] in "JE" and token.start == previous_end:
            found.add(token.start)
        previous_end = max(previous_end, token.start + token.len)
    return {place for place in found if _inside_word(text, place)}


def morphemes(text: str) -> list[tuple[tuple[int, int], str]]:
    """[((start, end), tag)] of the analyser's morphemes; a contraction's second part has an empty span and is left out."""
    found, end = [], 0
    for token in _kiwi().tokenize(text):
        start, end = max(end, token.start), max(end, token.start + token.len)
        if start < end:
            found.append(((start, end), str(token.tag)))
    return found


def token_boundaries(text: str, spans: Iterable[tuple[int, int]]) -> set[int]:
    """Places inside an 어절 where a token begins and no token reaches across (a cut character is no boundary)."""
    spans = [(start, end) for start, end in spans if start < end]
    starts = {start for start, _ in spans}
    covered = {place for start, end in spans for place in range(start + 1, end)}
    return {place for place in starts - covered if _inside_word(text, place)}


def _inside_word(text: str, place: int) -> bool:
    return 0 < place < len(text) and not text[place - 1].isspace() and not text[place].isspace()


def boundary_agreement(
    segmenter: Segmenter, texts: Sequence[str], gold: Sequence[set[int]] | None = None
) -> dict[str, float]:
    """How the token boundaries inside words agree with those of particles and endings (`particle_boundaries`).

    morpheme_boundary_recall: share of particle/ending boundaries at which a token begins.
    morpheme_boundary_precision: share of the token boundaries that are such a boundary. A tokenizer of single characters
    has recall 1 and a low precision: look at both.
    """
    gold = [particle_boundaries(text) for text in texts] if gold is None else gold
    own = [token_boundaries(text, segmenter.spans(text)) for text in texts]
    both = sum(len(a & b) for a, b in zip(gold, own))
    return {
        "morpheme_boundary_recall": both / max(1, sum(map(len, gold))),
        "morpheme_boundary_precision": both / max(1, sum(map(len, own))),
    }


def compare(
    segmenters: Sequence[Segmenter], texts: Sequence[str], morpheme_texts: Sequence[str] = ()
) -> list[dict[str, float | str]]:
    """One row a tokenizer: name, `measure`, and, with `morpheme_texts`, `boundary_agreement` on those."""
    gold = [particle_boundaries(text) for text in morpheme_texts]
    rows = []
    for segmenter in segmenters:
        row: dict[str, float | str] = {"name": segmenter.name, **measure(segmenter, texts)}
        if morpheme_texts:
            row |= boundary_agreement(segmenter, morpheme_texts, gold)
        rows.append(row)
    return rows


def readable(rows: Iterable[dict[str, float | str]], *columns: str) -> list[dict[str, float | str]]:
    """Rows under Korean headings: all columns, or the name and those that are given."""
    chosen = ("name", *columns) if columns else tuple(COLUMNS)
    return [{COLUMNS[key]: row[key] for key in chosen if key in row} for row in rows]
