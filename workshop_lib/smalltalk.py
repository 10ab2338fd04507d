"""Week 9 on real data: SFT and DPO on ChatbotData's small talk, told as they turn out.

A pair's preferred answer is the true one, the other answers another question: whoever wants to tell them apart must know what the question
is about. A model of the course's smallest size does not, and says the same comforting sentence to most questions. Held-out accuracy,
distinct-2, the number of different answers and the share of the commonest one say so.
"""

from __future__ import annotations

import copy
import random
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from workshop_lib import WorkshopError
from workshop_lib.alignment import Training, chat_loss, finetune_chat, pair_scores, train_dpo
from workshop_lib.alignment_report import before_after
from workshop_lib.architectures.transformer import Transformer
from workshop_lib.checkpoints import save_instruct
from workshop_lib.corpora import public
from workshop_lib.decoding import distinct_n
from workshop_lib.engine import end_tokens
from workshop_lib.preferences import Pair, encode_chat, encode_pair
from workshop_lib.rollouts import encode_prompts, rollouts
from workshop_lib.workspace import write_rows


def is_there(data: Path | None) -> bool:
    return data is not None and (data / "chatbot").is_dir()


def align(
    job, model: Transformer, tokenizer, sft: Training, dpo: Training
) -> tuple[dict[str, float], dict[str, list[dict]]]:
    """SFT and DPO on ChatbotData, from the base model (used up): metrics and curves. chatbot/ holds DPO's model.

    One question in ten is held out, by its wording, so that a question that stands there twice is never in both parts.
    Raises WorkshopError when too few rows are left.
    """
    settings, chance = job.settings, random.Random(f"chatbot/{job.seed}")
    loaded = public.chatbot(job.data)
    rows = [row for row in loaded.rows if row["question"].strip() and row["answer"].strip()]
    parts: dict[bool, list[dict]] = {False: [], True: []}
    for row in rows:
        parts[zlib.crc32(row["question"].strip().encode("utf-8")) % 10 == 0].append(row)
    train, test = parts[False], parts[True]
    chance.shuffle(test)
    test = test[: settings.held_out]
    if len(train) < settings.dpo_batch or not test:
        raise WorkshopError(f"chatbot/ChatbotData.csv에서 학습용 {len(train)}개, 검증용 {len(test)}개만 얻었다. "
                            "자료가 잘리지 않았는지 확인한다.")
    chats, held = ([encode_chat(_talk(row), tokenizer) for row in part] for part in (train, test))
    chats = [chat for chat in chats if len(chat[0]) <= model.config.max_position_embeddings]
    curves = {"chatbot_sft": finetune_chat(model.train(), chats, sft, job.seed, tokenizer.pad_token_id)}
    pairs, held_pairs = ([encode_pair(pair, tokenizer) for pair in _off_topic(part, train, chance)]
                         for part in (train[: settings.pairs], test))  # fmt: skip
    tuned = copy.deepcopy(model).train()
    curves["chatbot_dpo"] = train_dpo(tuned, pairs, dpo, settings.dpo_beta, settings.dpo_sft_weight, job.seed,
                                      tokenizer.pad_token_id, replay=chats, replay_weight=settings.dpo_replay_weight)  # fmt: skip
    save_instruct(tuned, tokenizer, job.out / "chatbot")
    questions = [row["question"] for row in test]
    metrics = {"chatbot_train": len(train), "chatbot_held_out": len(test), "chatbot_skipped": loaded.read - len(rows),
               "chatbot_distinct2_true": distinct_n([row["answer"] for row in test], 2)}  # fmt: skip
    found, said = {}, {}
    for when, now in (("before", model), ("after", tuned)):
        now.eval()
        found[when] = pair_scores(now, held_pairs, tokenizer.pad_token_id).preferred_per_token
        metrics[f"chatbot_val_loss_{when}"] = chat_loss(now, held, tokenizer.pad_token_id)
        for way, temperature in (("", 0.0), ("_sampled", 1.0)):
            drawn = rollouts(now, encode_prompts(questions, tokenizer), end_tokens(tokenizer), max_new_tokens=40, temperature=temperature,
                             seed=1, pad=tokenizer.pad_token_id)  # fmt: skip
            answers = said[when + way] = drawn.texts(tokenizer)
            counts = Counter(answers)
            metrics |= {
                f"chatbot_distinct2{way}_{when}": distinct_n(answers, 2),
                f"chatbot_different{way}_{when}": len(counts) / len(answers),
                f"chatbot_commonest{way}_{when}": counts.most_common(1)[0][1] / len(answers),
                f"chatbot_empty{way}_{when}": float(np.mean([not answer for answer in answers])),
            }
    metrics |= before_after("chatbot_pref_accuracy", found["before"], found["after"], questions)
    write_rows(job.out / "chatbot_answers.jsonl", [
        {"question": asked, "before": said["before"][place], "after": said["after"][place], "before_sampled": said["before_sampled"][place],
         "after_sampled": said["after_sampled"][place]} for place, asked in enumerate(questions[:10])
    ])  # fmt: skip
    return metrics, curves


def _talk(row: dict) -> list[dict]:
    return [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": row["answer"]}]


def _off_topic(rows: Sequence[dict], others: Sequence[dict], chance: random.Random) -> list[Pair]:
    """A true answer against that to another question."""
    pairs = []
    for row in rows:
        other = row["answer"]
        while other.strip() == row["answer"].strip():
            other = chance.choice(others)["answer"]
        pairs.append(Pair(({"role": "user", "content": row["question"]},), row["answer"], other, "on_topic"))
    return pairs
