"""From tokens to text while the tokens still come: whole characters only, and nothing that may turn out to begin a stop string.

A token of a byte-level tokenizer may be a part of a character (한 is three bytes), and a stop string may lie across tokens.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from workshop_lib import WorkshopError
from workshop_lib.subwords import byte_alphabet


def token_bytes(tokenizer) -> list[bytes]:
    """The bytes of each token id of a byte-level tokenizer; special tokens have none.

    Raises WorkshopError for a tokenizer of another kind.
    """
    from tokenizers.decoders import ByteLevel

    if not isinstance(tokenizer.backend_tokenizer.decoder, ByteLevel):
        raise WorkshopError("서버는 바이트 단위 토크나이저(3주차)만 안다. 이 모델의 토크나이저는 다른 종류다.")
    byte_of = {char: byte for byte, char in enumerate(byte_alphabet())}
    table = [b""] * len(tokenizer)
    for token, number in tokenizer.get_vocab().items():
        table[number] = bytes(byte_of[char] for char in token) if set(token) <= byte_of.keys() else token.encode()
    for number, token in tokenizer.added_tokens_decoder.items():
        table[number] = b"" if token.special else token.content.encode()
    return table


class TextStream:
    """Text that grows by tokens, given out in pieces as soon as they are certain.

    The pieces put together are `tokenizer.decode` of the tokens, cut before the first stop string, without an unfinished last character.
    """

    def __init__(self, table: Sequence[bytes], stop: Sequence[str] = ()):
        self._table = table
        self._stop = [text for text in stop if text]
        self._characters = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""  # may be the beginning of a stop string

    def push(self, token: int) -> tuple[str, bool]:
        """The next certain piece of text (often empty), and whether a stop string has come up."""
        self._held += self._characters.decode(self._table[token])
        found = [place for text in self._stop if (place := self._held.find(text)) >= 0]
        if found:
            piece, self._held = self._held[: min(found)], ""
            return piece, True
        keep = max((_overlap(self._held, text) for text in self._stop), default=0)
        cut = len(self._held) - keep
        piece, self._held = self._held[:cut], self._held[cut:]
        return piece, False

    def rest(self) -> str:
        """What was held back, once nothing more comes. Bytes of a character that was never finished are left out."""
        piece, self._held = self._held, ""
        return piece


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a beginning of `stop`, but not all of it."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:size])), 0)
