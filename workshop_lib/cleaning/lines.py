"""Boilerplate by shape: a line classifier that never reads a word.

A list of words knows the sites it was made from; the next site says "묻고 답하기" where this one said "고객센터".
What does not change is shape: frame lines are short, stand before the first or after the last sentence, hold
separators and digits, and do not end like sentences. So: logistic regression over shape and place
(after Kohlschütter et al. 2010), trained on crawl pages whose true text is known.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from workshop_lib.cleaning.extraction import SENTENCE_END, Block
from workshop_lib.cleaning.quality import sigmoid

_SEPARATOR = re.compile(r"[|>·/▶▼◀•※]")
_LENGTHS = (8, 15, 25, 40, 60)


def _is_sentence(text: str) -> bool:
    return text.count(" ") >= 3 and bool(SENTENCE_END.search(text))


def line_features(blocks: Sequence[Block]) -> np.ndarray:
    """Binary shape features (lines, features) float32 of a page's lines: length, ending, signs, place, neighbours."""
    texts = [block.text for block in blocks]
    sentence = [_is_sentence(text) for text in texts]
    first = sentence.index(True) if any(sentence) else len(texts)
    last = len(texts) - 1 - sentence[::-1].index(True) if any(sentence) else -1
    rows = []
    for i, text in enumerate(texts):
        before, after = i < first, i > last
        short = text.count(" ") < 4
        bare = not SENTENCE_END.search(text)
        full_stop = text.endswith((".", "?", "!", '"', "”"))
        separators = len(_SEPARATOR.findall(text))
        digits = sum(map(str.isdigit, text)) / len(text)
        linked = blocks[i].link_chars > 0.5 * len(text)
        row = [before, after, short, bare, full_stop, separators == 1, separators >= 2, digits > 0.1, digits > 0.3, linked,
               blocks[i].heading, "@" in text, text[:1] in "[(【ⓒ©★☆<", *(len(text) < limit for limit in _LENGTHS),
               i == 0, i == 1, i < 4, i == len(texts) - 1, i >= len(texts) - 3, i >= len(texts) - 6,
               i > 0 and sentence[i - 1], i + 1 < len(texts) and sentence[i + 1], sum(sentence) >= 3]
        edge = before or after
        # Alone each of these says little; together they are the frame.
        row += [edge and bare, edge and short, edge and separators > 0, edge and not full_stop, after and digits > 0.1,
                before and digits > 0.1, edge and len(text) < 25, bare and separators > 0, edge and bare and sum(sentence) >= 3]
        rows.append(row)
    return np.array(rows, dtype=np.float32).reshape(len(texts), -1)


@dataclass(frozen=True)
class LineModel:
    """weights (features,), bias, and the probability from which on a line is boilerplate."""

    weights: np.ndarray
    bias: float
    threshold: float

    def is_frame(self, blocks: Sequence[Block]) -> np.ndarray:
        """For each line of a page: is it boilerplate? (lines,) bool."""
        if not any(_is_sentence(block.text) for block in blocks):   # nothing that these lines could be a frame of
            return np.zeros(len(blocks), bool)
        return sigmoid(line_features(blocks) @ self.weights + self.bias) >= self.threshold


def train_line_model(pages: Sequence[Sequence[Block]], frame: Sequence[Sequence[bool]], steps: int = 400,
                     rate: float = 1.0, decay: float = 1e-4, false_alarms: float = 0.002) -> LineModel:
    """Fit by gradient descent with momentum; the threshold is set so that at most `false_alarms` of the text lines
    go. Deterministic."""
    features = np.concatenate([line_features(blocks) for blocks in pages if blocks]).astype(float)
    labels = np.concatenate([np.asarray(flags, float) for flags in frame if len(flags)])
    weights, bias, velocity = np.zeros(features.shape[1]), 0.0, np.zeros(features.shape[1] + 1)
    for _ in range(steps):
        error = sigmoid(features @ weights + bias) - labels
        gradient = np.append(features.T @ error / len(labels) + decay * weights, error.mean())
        velocity = 0.9 * velocity - 0.1 * rate * gradient
        weights, bias = weights + velocity[:-1], bias + velocity[-1]
    text_lines = sigmoid(features[labels == 0] @ weights + bias)
    threshold = max(0.5, float(np.quantile(text_lines, 1 - false_alarms)) + 1e-9) if len(text_lines) else 0.5
    return LineModel(weights, float(bias), threshold)
