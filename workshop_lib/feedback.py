"""From votes to a better model: thumbs and choices become preference pairs, and the pairs another round of DPO.

    pairs_from_votes    liked and disliked answers to the same conversation, against each other
    pairs               all that a workspace's votes give, and what they do not
    export              as a file that TRL's trainers and `preferences.read_pairs` read
    another_round       DPO on them, measured before and after; the model goes to <home>/feedback/model

Notable choices
- Nothing is lost in silence: every vote either stands in a pair or in `Found.left`, with the reason.
- A round begins at the aligned model and takes all votes so far, not at the last round's: the same votes give the same model, and a vote
  that was taken back leaves no trace.
- The help desk is replayed beside the votes as in week 9: a handful of pairs, learnt alone, would cost what was learnt before. Held-out
  desk pairs and conversations, of which nobody's vote speaks, are measured before and after.
- Accuracy on the votes is accuracy on what was learnt from. It says that the round has taken them in, not that new ones would agree.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from workshop_lib import WorkshopError, votes
from workshop_lib.corpora.reading import Skip
from workshop_lib.preferences import Pair, as_pair, encode_chat, encode_pair, read_pairs, to_trl

if TYPE_CHECKING:
    from workshop_lib.alignment import PairScores
    from workshop_lib.architectures.transformer import Transformer
    from workshop_lib.workspace import Workspace

SHOWN = 8  # conversations whose answers are shown before and after
REPLAYED = 3_000  # desk conversations that are drawn; those that are answered as wanted are replayed
UPDATES = 5  # reports while it learns


# ---------------------------------------------------------------------------------------------- pairs


@dataclass(frozen=True)
class Left:
    """A vote or a comparison that gives no pair, and why."""

    question: str
    answer: str
    reason: str


@dataclass(frozen=True)
class Found:
    """The pairs that votes give. Votes and comparisons together are `used` + the length of `left`."""

    pairs: list[Pair]
    used: int
    left: list[Left]

    def summary(self) -> str:
        """The account in Korean, a line for each reason."""
        lines = [f"표 {self.used + len(self.left):,}개 가운데 {self.used:,}개가 선호 쌍 {len(self.pairs):,}개가 되었다."]
        reasons = Counter(left.reason for left in self.left)
        return "\n".join(lines + [f"  쓰지 못한 표 {count:,}개: {reason}" for reason, count in reasons.most_common()])


def pairs_from_votes(votes: Iterable[Mapping]) -> list[dict]:
    """Preference pairs from thumbs: every liked answer to a conversation against every disliked one.

    votes: {"messages", "answer", "vote"} in order of time, messages up to the user's last words, vote 1 or -1; of several votes on one
    answer the last counts. Returns rows in TRL's conversational format, in the order in which conversations and answers first appeared.
    """
    asked: dict[str, list] = {}
    given: dict[str, dict[str, int]] = {}
    for row in votes:
        key = json.dumps(row["messages"], ensure_ascii=False)
        asked.setdefault(key, list(row["messages"]))
        given.setdefault(key, {})[row["answer"]] = row["vote"]
    return [
        _row(asked[key], liked, disliked)
        for key, answers in given.items()
        for liked, up in answers.items()
        for disliked, down in answers.items()
        if up > 0 > down
    ]


def _row(messages: Sequence, chosen: str, rejected: str) -> dict:
    said = ([{"role": "assistant", "content": text}] for text in (chosen, rejected))
    return {"prompt": list(messages), **dict(zip(("chosen", "rejected"), said))}


def pairs(home: Path) -> Found:
    """What a workspace's votes teach. Raises WorkshopError where the file of votes cannot be read."""
    thumbs, choices = votes.votes(home), votes.comparisons(home)
    chats = [row for row in thumbs if row["kind"] == votes.CHAT]
    wanted: dict[tuple, str] = {}  # (conversation, chosen, rejected): where it comes from
    for row in pairs_from_votes(chats):
        wanted[_key(row["prompt"]), row["chosen"][0]["content"], row["rejected"][0]["content"]] = "votes"
    for row in choices:
        if row["choice"] != "tie":
            wanted.setdefault((_key(row["messages"]), *_in_order(row)), "comparison")
    against = {key for key in wanted if key[1] != key[2] and (key[0], key[2], key[1]) in wanted}
    found, broken = [], dict.fromkeys(against, "두 답을 견준 선택과 엄지가 서로 어긋난다")
    for key, source in wanted.items():
        if key not in against:
            try:
                found.append(as_pair(_row(json.loads(key[0]), *key[1:]) | {"source": source}))
            except WorkshopError as error:
                broken[key] = str(error)
    by_thumbs = [key for key, source in wanted.items() if source == "votes"]
    left = []
    for row in thumbs:
        about = [key for key in by_thumbs if key[0] == _key(row["messages"]) and row["answer"] in key[1:]]
        if row["kind"] != votes.CHAT:
            left.append(_left(row, "이어 쓰기에 준 표는 대화의 선호 쌍이 되지 않는다"))
        elif not about:
            left.append(_left(row, "같은 대화에 반대 표를 받은 다른 답이 없다"))
        elif all(key in broken for key in about):
            left.append(_left(row, broken[about[0]]))
    for row in choices:
        key = (_key(row["messages"]), *_in_order(row))
        if row["choice"] == "tie":
            left.append(_left(row, "비슷하다고 한 두 답은 선호 쌍이 되지 않는다"))
        elif len(set(row["answers"])) == 1:
            left.append(_left(row, "두 답이 같아 무엇이 나은지 알 수 없다"))
        elif key in broken:
            left.append(_left(row, broken[key]))
    return Found(found, len(thumbs) + len(choices) - len(left), left)


def _key(messages: Sequence) -> str:
    return json.dumps(messages, ensure_ascii=False)


def _in_order(row: dict) -> tuple[str, str]:
    """A comparison's better answer, then the other."""
    return row["answers"] if row["choice"] == "first" else row["answers"][::-1]


def _left(row: dict, reason: str) -> Left:
    return Left(row["messages"][-1]["content"], row["answer"] if "answer" in row else " / ".join(row["answers"]), reason)


def export(home: Path, path: Path) -> Found:
    """Write the pairs as JSON lines in TRL's conversational format. Raises WorkshopError where there are none."""
    found = pairs(home)
    if not found.pairs:
        raise WorkshopError(_nothing(found))
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    partial.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in to_trl(found.pairs)), encoding="utf-8")
    os.replace(partial, path)
    return found


def _nothing(found: Found) -> str:
    why = f"\n{found.summary()}" if found.left else " 아직 표가 없다."
    return f"선호 쌍이 하나도 없다.{why}\n`workshop demo`에서 한 질문에 좋은 답과 나쁜 답을 하나씩 고르거나 두 답을 견준다."


# ---------------------------------------------------------------------------------------------- another round


@dataclass(frozen=True)
class Round:
    """What a round of DPO on votes has done. answers: rows {"question", "before", "after", "chosen", "rejected"}."""

    folder: Path
    metrics: dict[str, float]
    answers: list[dict]

    def table(self) -> list[dict]:
        """Rows for `display.table`: what was measured, before, after, and the change with its 95 % interval."""
        m, rows = self.metrics, []
        for name, label in (("votes_pref_accuracy", "표의 쌍에서 고른 답이 더 그럴듯한 비율"),
                            ("desk_pref_accuracy", "검증용 안내 데스크 쌍에서의 비율")):  # fmt: skip
            moved = f"{m[f'{name}_change']:+.3f} [{m[f'{name}_change_low']:+.3f}, {m[f'{name}_change_high']:+.3f}]"
            rows.append({"잰 것": label, "앞": m[f"{name}_before"], "뒤": m[f"{name}_after"], "차이 [95 % 구간]": moved})
        for name, label in (("votes_margin", "표의 쌍에서 벌어진 로그 확률(내트)"),
                            ("desk_margin", "검증용 쌍에서 벌어진 로그 확률(내트)")):  # fmt: skip
            rows.append({"잰 것": label, "앞": 0, "뒤": m[name],
                         "차이 [95 % 구간]": f"{m[name]:+.2f} [{m[f'{name}_low']:+.2f}, {m[f'{name}_high']:+.2f}]"})  # fmt: skip
        before, after = m["wanted_loss_before"], m["wanted_loss_after"]
        rows.append({"잰 것": "검증용 대화의 손실(내트/토큰)", "앞": before, "뒤": after, "차이 [95 % 구간]": f"{after - before:+.4f}"})
        return rows


def another_round(
    home: Path, start: Path | None = None, settings=None, seed: int = 0, say: Callable[[str], None] | None = print
) -> Round:
    """DPO on all votes so far, from the aligned model on; saves the model, and what was measured before and after.

    start: the model to begin at (None: the workspace's aligned one). settings: `profile.AlignmentSettings` (None: the profile's).
    Raises WorkshopError where there are no pairs, no aligned model, or another round is under way.
    """
    from filelock import FileLock, Timeout

    say = say or (lambda _: None)
    found = pairs(home)
    if not found.pairs:
        raise WorkshopError(_nothing(found))
    start = Path(start or home / "alignment")
    if not (start / "config.json").is_file():
        raise WorkshopError(f"{start}에 정렬한 모델이 없다. `workshop run --weeks 9`로 먼저 만든다.")
    try:
        with FileLock(votes.file(home).with_name(".round.lock"), timeout=0):
            say(found.summary())
            return _round(Path(home), start, settings, seed, found, say)
    except Timeout as error:
        raise WorkshopError("다른 실행이 이미 피드백으로 맞추고 있다. 끝나기를 기다린다.") from error


def _round(home: Path, start: Path, settings, seed: int, found: Found, say: Callable[[str], None]) -> Round:
    import torch

    from workshop_lib.alignment import chat_loss, pair_scores, train_dpo
    from workshop_lib.checkpoints import load_model, save_instruct
    from workshop_lib.corpora import desk
    from workshop_lib.posttraining import by_preference, wanted
    from workshop_lib.profile import get_profile
    from workshop_lib.tokenization import load
    from workshop_lib.workspace import write_rows

    begun, settings = time.perf_counter(), settings or get_profile().alignment
    tokenizer = load(start)
    too_long: list[Skip] = []
    used = read_pairs(to_trl(found.pairs), tokenizer, skipped=too_long)
    for skip in too_long:
        say(f"쓰지 못한 쌍: {skip.reason}")
    if not used:
        raise WorkshopError(f"쌍 {len(found.pairs)}개가 모두 모델의 문맥 {tokenizer.model_max_length}토큰보다 길다. 짧은 대화에 표를 준다.")
    model = load_model(start).to("cuda" if torch.cuda.is_available() else "cpu")
    pad, encoded = tokenizer.pad_token_id, [encode_pair(pair, tokenizer) for pair in used]

    def chats(rows: Iterable[dict]) -> list:
        return [encode_chat(row["messages"], tokenizer) for row in rows if wanted(row)]

    replay = chats(desk.conversations(min(REPLAYED, settings.conversations), seed))
    held_out = chats(desk.conversations(settings.held_out, split="validation"))
    desk_rows = list(desk.pairs(settings.held_out_pairs, split="validation"))
    desk_pairs = [encode_pair(pair, tokenizer) for pair in read_pairs(desk_rows, tokenizer)]

    def look() -> tuple[PairScores, PairScores, float, list[str]]:
        model.eval()
        return (pair_scores(model, encoded, pad), pair_scores(model, desk_pairs, pad), chat_loss(model, held_out, pad),
                _answers(model, tokenizer, used))  # fmt: skip

    before = look()
    training = by_preference(settings)
    model.train()
    # `watch` is asked before each fifth of the steps, and after the last.
    train_dpo(model, encoded, training, settings.dpo_beta, settings.dpo_sft_weight, seed, pad, replay=replay,
              replay_weight=settings.dpo_replay_weight, reference=before[0], every=max(1, training.steps // UPDATES),
              watch=lambda step: say(f"학습 {step}/{training.steps} 단계") or {})  # fmt: skip
    after = look()

    metrics = _compared("votes", before[0], after[0], [_key(pair.prompt) for pair in used])
    metrics |= _compared("desk", before[1], after[1], [row["combination"] for row in desk_rows])
    metrics |= {"pairs": len(used), "votes_used": found.used, "votes_left": len(found.left), "pairs_too_long": len(too_long),
                "wanted_loss_before": before[2], "wanted_loss_after": after[2], "steps": training.steps, "seed": seed}  # fmt: skip
    answers = [
        {"question": pair.prompt[-1]["content"], "before": was, "after": now, "chosen": pair.chosen, "rejected": pair.rejected}
        for pair, was, now in zip(_different(used), before[3], after[3])
    ]
    folder = home / "feedback" / "model"
    fresh = folder.with_name(".model-new")
    shutil.rmtree(fresh, ignore_errors=True)
    save_instruct(model, tokenizer, fresh)
    write_rows(fresh / "pairs.jsonl", to_trl(used))
    write_rows(fresh / "answers.jsonl", answers)
    metrics["seconds"] = round(time.perf_counter() - begun, 2)
    _put(fresh, folder, metrics)
    return Round(folder, metrics, answers)


def _put(fresh: Path, folder: Path, metrics: dict[str, float]) -> None:
    """The new model in the place of the old one; killed in between, there is no round, but never a model with another one's numbers."""
    numbers, old = folder.with_name("metrics.json"), folder.with_name(".model-old")
    partial = numbers.with_name(".metrics.json")
    partial.write_text(json.dumps(metrics, ensure_ascii=False, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    numbers.unlink(missing_ok=True)
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    os.replace(partial, numbers)
    shutil.rmtree(old, ignore_errors=True)


def _different(pairs: Sequence[Pair]) -> list[Pair]:
    """The first pair of each conversation, `SHOWN` at most."""
    return list({_key(pair.prompt): pair for pair in reversed(pairs)}.values())[::-1][:SHOWN]


def _answers(model: Transformer, tokenizer, pairs: Sequence[Pair]) -> list[str]:
    """What the model says by itself, greedily, to the conversations that are shown."""
    from workshop_lib.alignment_report import ANSWER_TOKENS
    from workshop_lib.engine import end_tokens
    from workshop_lib.rollouts import encode_prompts, rollouts

    prompts = encode_prompts([pair.prompt for pair in _different(pairs)], tokenizer)
    room = model.config.max_position_embeddings - max(map(len, prompts))
    drawn = rollouts(model, prompts, end_tokens(tokenizer), max_new_tokens=min(ANSWER_TOKENS, room), temperature=0,
                     pad=tokenizer.pad_token_id)  # fmt: skip
    return drawn.texts(tokenizer)


def _compared(name: str, before: PairScores, after: PairScores, clusters: Sequence[str]) -> dict[str, float]:
    """Preference accuracy per token before and after, and by how many nats the chosen answer has gained on the rejected one."""
    from workshop_lib.alignment_report import before_after, intervals

    margin = (after.chosen - before.chosen) - (after.rejected - before.rejected)
    return before_after(f"{name}_pref_accuracy", before.preferred_per_token, after.preferred_per_token, clusters) | intervals(
        f"{name}_margin", margin, clusters)  # fmt: skip


def last_round(home: Path) -> Round | None:
    """The round that was saved last, or None. Raises WorkshopError where its files are broken."""
    folder = Path(home) / "feedback" / "model"
    try:
        metrics = json.loads(folder.with_name("metrics.json").read_text(encoding="utf-8"))
        lines = (folder / "answers.jsonl").read_text(encoding="utf-8").splitlines()
        return Round(folder, metrics, [json.loads(line) for line in lines])
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise WorkshopError(f"{folder.parent}의 결과가 깨졌다({error}). `workshop feedback train`으로 다시 맞춘다.") from error


def run(workspace: Workspace, action: str = "show", path: Path | None = None) -> None:
    """`workshop feedback`: "show" counts and the last round, "export" to a path, or "train"."""
    from workshop_lib import display

    home = workspace.home
    if action == "export":
        found = export(home, path)
        print(f"{found.summary()}\n{path}에 썼다.")
        return
    if action == "train":
        if name := workspace.damaged("alignment"):
            raise WorkshopError(f"{workspace.path('alignment') / name} 파일이 없어졌거나 잘렸다. `workshop run --weeks 9`로 다시 만든다.")
        last = another_round(home, workspace.path("alignment"), workspace.profile.alignment, workspace.profile.seed)
    else:
        given = votes.counts(home)
        print(f"좋다 {given['up']:,}개, 나쁘다 {given['down']:,}개, 견줌 {given['comparisons']:,}개 ({votes.file(home)})")
        print(pairs(home).summary())
        last = last_round(home)
    if last is None:
        return
    print("\n마지막으로 맞춘 결과")
    print(display.table(last.table()))
    for row in last.answers:
        print(f"\n물음: {row['question']}\n  앞: {row['before']}\n  뒤: {row['after']}\n  고른 답: {row['chosen']}")
    print(f"\n모델 폴더: {last.folder}")
