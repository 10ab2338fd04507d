"""The data set that automodel/classify_lora.yaml names: labelled reviews as NeMo AutoModel's collator takes them.

It stands alone: NeMo AutoModel's environment does not have the workshop's library.
"""

import json
from pathlib import Path


def reviews(path: str, tokenizer, max_length: int) -> list[dict]:
    """Rows {"document", "label"} of a JSON-lines file as <s> text </s>, cut to `max_length` tokens."""
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    padding = {"input_ids": tokenizer.pad_token_id, "attention_mask": 0, "labels": -100}
    rows = []
    with Path(path).open(encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            ids = tokenizer(row["document"], add_special_tokens=False)["input_ids"][: max_length - 2]
            ids = [bos, *ids, eos]
            rows.append({"input_ids": ids, "attention_mask": [1] * len(ids), "labels": [row["label"]], "___PAD_TOKEN_IDS___": padding})
    return rows
