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
from dataclasses import dataclass
from pathlib import Path

from workshop_lib import WorkshopError
from workshop_lib.alignment import Training, chat_loss, finetune_chat, pair_scores, train_dpo
from workshop_lib.alignment_report import ANSWER_TOKENS, before_after
from workshop_lib.architectures.transformer import Transformer
from workshop_lib.checkpoints import save_instruct
from workshop_lib.corpora import public
from workshop_lib.decoding import distinct_n
from workshop_lib.engine import end_tokens
from workshop_lib.preferences import EncodedPair, Pair, encode_chat, encode_pair
from workshop_lib.rollouts import encode_prompts, rollouts
from workshop_lib.workspace import write_rows


def is_there(data: Path | None) -> bool:
    """Whether real data was given, and ChatbotData is in it."""
    return data is not None and (data / "chatbot").is_dir()


@dataclass(frozen=True)
class Talk:
    """ChatbotData in two parts, rows {"question", "answer", "chat": ids and mask, …}, and how many were left out, and why."""

    train: list[dict]
    test: list[dict]
    skipped: int  # no row, an empty one, or one with a mark of the template in it
    too_long: int  # for the model's context


def talk(data: Path, tokenizer, context: int, held_out: int, chance: random.Random) -> Talk:
    """Read ChatbotData. One question in ten is held out, by its wording: one that stands there twice is never in both parts.

    Every row read is in one of the parts, or counted, or a held-out one beyond `held_out`. One that fits leaves room for `ANSWER_TOKENS`
    after its question.
    """
    loaded = public.chatbot(data)
    skipped, too_long = loaded.read - len(loaded.rows), 0
    parts: dict[bool, list[dict]] = {False: [], True: []}
    for row in loaded.rows:
        messages = [{"role": role, "content": row[side]} for role, side in (("user", "question"), ("assistant", "answer"))]
        try:
            ids, mask = encode_chat(messages, tokenizer)
        except WorkshopError:
            skipped += 1
            continue
        if len(ids) + max(0, ANSWER_TOKENS - sum(mask)) > context:
            too_long += 1
            continue
        parts[zlib.crc32(row["question"].strip().encode("utf-8")) % 10 == 0].append(row | {"chat": (ids, mask)})
    chance.shuffle(parts[True])
    return Talk(parts[False], parts[True][:held_out], skipped, too_long)


def align(
    job, model: Transformer, tokenizer, sft: Training, dpo: Training
) -> tuple[dict[str, float], dict[str, list[dict]]]:
    """SFT and DPO on ChatbotData, from the base model (used up): metrics and curves. chatbot/ holds DPO's model.

    Raises WorkshopError when too few rows are left.
    """
    settings, pad, context = job.settings, tokenizer.pad_token_id, model.config.max_position_embeddings
    chance = random.Random(f"chatbot/{job.seed}")
    rows = talk(job.data, tokenizer, context, settings.held_out, chance)
    if len(rows.train) < settings.dpo_batch or not rows.test:
        raise WorkshopError(f"chatbot/ChatbotData.csv에서 학습용 {len(rows.train)}개, 검증용 {len(rows.test)}개만 얻었다"
                            f"(문맥 {context}토큰보다 긴 것 {rows.too_long}개). 자료가 잘리지 않았는지 확인한다.")  # fmt: skip
    chats, held = ([row["chat"] for row in part] for part in (rows.train, rows.test))
    pairs, held_pairs = (_off_topic(part, rows.train, tokenizer, chance) for part in (rows.train[: settings.pairs], rows.test))
    curves = {"chatbot_sft": finetune_chat(model.train(), chats, sft, job.seed, pad)}
    tuned = copy.deepcopy(model).train()
    curves["chatbot_dpo"] = train_dpo(tuned, pairs, dpo, settings.dpo_beta, settings.dpo_sft_weight, job.seed, pad, replay=chats,
                                      replay_weight=settings.dpo_replay_weight)  # fmt: skip
    save_instruct(tuned, tokenizer, job.out / "chatbot")

    questions, answers = ([row[side] for row in rows.test] for side in ("question", "answer"))
    metrics = {"chatbot_train": len(rows.train), "chatbot_held_out": len(rows.test), "chatbot_skipped": rows.skipped,
               "chatbot_too_long": rows.too_long, "chatbot_distinct2_true": distinct_n(answers, 2),
               "chatbot_different_true": len(set(answers)) / len(answers)}  # fmt: skip
    found, said = {}, {}
    for when, now in (("before", model.eval()), ("after", tuned.eval())):
        found[when] = pair_scores(now, held_pairs, pad).preferred_per_token
        metrics[f"chatbot_val_loss_{when}"] = chat_loss(now, held, pad)
        for way, temperature in (("", 0.0), ("_sampled", 1.0)):
            said[when + way] = rollouts(now, encode_prompts(questions, tokenizer), end_tokens(tokenizer), max_new_tokens=ANSWER_TOKENS,
                                        temperature=temperature, seed=1, pad=pad).texts(tokenizer)  # fmt: skip
            metrics |= {f"chatbot_{name}{way}_{when}": value for name, value in _variety(said[when + way]).items()}
    metrics |= before_after("chatbot_pref_accuracy", found["before"], found["after"], questions)
    write_rows(job.out / "chatbot_answers.jsonl", [
        {"question": asked} | {name: texts[place] for name, texts in said.items()} for place, asked in enumerate(questions[:10])
    ])  # fmt: skip
    return metrics, curves


def _variety(answers: Sequence[str]) -> dict[str, float]:
    """distinct-2; shares of different answers, of the commonest one, and of empty ones."""
    counts = Counter(answers)
    return {"distinct2": distinct_n(answers, 2), "different": len(counts) / len(answers),
            "commonest": counts.most_common(1)[0][1] / len(answers), "empty": counts[""] / len(answers)}  # fmt: skip


def _off_topic(rows: Sequence[dict], others: Sequence[dict], tokenizer, chance: random.Random) -> list[EncodedPair]:
    """A true answer against a short one to another question, so that both can be read."""
    answers = [row["answer"] for row in others if sum(row["chat"][1]) <= ANSWER_TOKENS]
    if len({answer.strip() for answer in answers}) < 2:
        raise WorkshopError("chatbot/ChatbotData.csv에 서로 다른 답이 둘도 없어 견줄 수 없다. 자료를 확인한다.")
    pairs = []
    for row in rows:
        other = row["answer"]
        while other.strip() == row["answer"].strip():
            other = chance.choice(answers)
        pairs.append(encode_pair(Pair(({"role": "user", "content": row["question"]},), row["answer"], other, "on_topic"), tokenizer))
    return pairs
