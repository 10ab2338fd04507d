"""Week 9's stage: a base model becomes an instruct model, and every step of the way is judged on what nobody has shown it.

    SFT -> reward model -> DPO -> PPO (with and without its KL term) -> GRPO, all from the same SFT model

The world is `corpora.desk`: what is asked in the held-out rows is a combination that no training row has. DPO's model is the one that is
kept; beside it stand two that show what its parts do:

    imitation   the same steps without the preference term: SFT on the chosen answers and the replayed conversations
    plain       the preference term alone, in steps ten times as long: both answers' probabilities fall, and what SFT taught with them

With real data (ChatbotData) SFT and DPO are run on it too, and told as they are (`smalltalk`). The numbers come from `alignment_report`.

Notable choices
- Rewards of PPO are counted in standard deviations of the SFT model's own answers to training questions: a reward model has no unit.
- GRPO's reward is a rule, `checked`, on requests for personal data: refuse another's, help with one's own. The SFT model does now the one,
  now the other, so there is something to choose from in each group. A rule that pays for manners does not work here: the model answers
  casual questions casually eight times out of eight, and a group without a difference teaches nothing.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from workshop_lib import WorkshopError, smalltalk, tokenization
from workshop_lib.alignment import Chat, PairScores, Training, behave, chat_loss, finetune_chat, pair_scores, question, train_dpo
from workshop_lib.alignment_report import ANSWER_TOKENS, before_after, dpo_metrics, look, policy_metrics, reward_metrics
from workshop_lib.architectures.transformer import Transformer
from workshop_lib.checkpoints import check_outputs, load_model, save_instruct
from workshop_lib.corpora import desk
from workshop_lib.corpora.reading import read_json_lines
from workshop_lib.distributed import LAYOUTS, joined, seat
from workshop_lib.engine import end_tokens
from workshop_lib.preferences import EncodedPair, encode_chat, encode_pair, read_pairs
from workshop_lib.profile import changed, get_profile
from workshop_lib.reinforcement import (
    ReinforcementSettings,
    RewardModelSettings,
    Scorer,
    checked_reward,
    model_reward,
    reinforce,
    train_reward_model,
)
from workshop_lib.rollouts import encode_prompts, rollouts
from workshop_lib.workspace import write_rows


@dataclass(frozen=True)
class World:
    """What is learnt from, and what everything is measured on."""

    tokenizer: object
    train: list[Chat]
    replay: list[Chat]  # those of them whose answers are wanted
    asked: list[dict]  # some of them, to be asked again in PPO and GRPO
    asked_prompts: list[list[int]]
    pairs: list[EncodedPair]
    held_out: list[dict]
    chats: list[Chat]  # of `held_out`
    wanted: list[Chat]  # of these
    pair_rows: list[dict]
    held_out_pairs: list[EncodedPair]
    safety: list[dict]  # another's data, one's own, and both kinds of thing in one message
    prompts: list[list[int]]  # of `held_out`
    duties: list[dict]  # training questions with a checked answer, for GRPO
    held_out_duties: list[dict]
    best: list[str]  # the answers to them that a person would want

    @property
    def pad(self) -> int:
        """The padding token's id."""
        return self.tokenizer.pad_token_id

    @property
    def clusters(self) -> list[str]:
        """What each row of `held_out` is about: rows of one combination stand and fall together in a bootstrap."""
        return [row["combination"] for row in self.held_out]

    @property
    def pair_clusters(self) -> list[str]:
        """The same for `pair_rows`."""
        return [row["combination"] for row in self.pair_rows]


def world(tokenizer, settings, seed: int = 0) -> World:
    """Draw everything from the help desk; held-out rows are the same for every seed."""
    train = list(desk.conversations(settings.conversations, seed))
    held_out = list(desk.conversations(settings.held_out, split="validation"))
    pair_rows = list(desk.pairs(settings.held_out_pairs, split="validation"))
    safety = list(desk.conversations(settings.safety, seed=1, split="validation", intents=("private", "own")))
    encode = partial(encode_chat, tokenizer=tokenizer)
    chats = [encode(row["messages"]) for row in train]
    return World(
        tokenizer=tokenizer,
        train=chats,
        replay=[chat for chat, row in zip(chats, train) if wanted(row)],
        asked=train[: settings.asked],
        asked_prompts=encode_prompts([question(row) for row in train[: settings.asked]], tokenizer),
        pairs=[encode_pair(pair, tokenizer) for pair in read_pairs(desk.pairs(settings.pairs, seed), tokenizer)],
        held_out=held_out,
        chats=[encode(row["messages"]) for row in held_out],
        wanted=[encode(row["messages"]) for row in held_out if wanted(row)],
        pair_rows=pair_rows,
        held_out_pairs=[encode_pair(pair, tokenizer) for pair in read_pairs(pair_rows, tokenizer)],
        safety=safety + list(desk.compound(settings.safety // 2, seed=1)),
        prompts=encode_prompts([question(row) for row in held_out], tokenizer),
        duties=list(desk.conversations(settings.asked // 2, seed, intents=("private", "own"))),
        held_out_duties=list(desk.conversations(settings.held_out_duties, 3, "validation", intents=("private", "own"))),
        best=[row["messages"][-1]["content"] for row in desk.conversations(settings.held_out, split="validation", best=True)],
    )


def wanted(row: dict) -> bool:
    """Whether a conversation's answer is one that the judge prefers."""
    return desk.judge(row["messages"][-1]["content"], row)["preferred"]


def checked(answer: str, row: dict) -> float:
    """GRPO's reward, by rule: 1 for an answer that refuses what is another's, or helps with what is one's own."""
    found = desk.judge(answer, row)
    return float(found["right"] and found["refused"] == row["sensitive"])


# ---------------------------------------------------------------------------------------------- the steps


def sft(model: Transformer, held: World, settings, seed: int) -> list[dict]:
    """Supervised fine-tuning of the base model, in place."""
    return finetune_chat(model.train(), held.train, supervised(settings), seed, held.pad)


def supervised(settings) -> Training:
    """How SFT learns, from the profile's section."""
    return Training(settings.sft_steps, settings.sft_batch, settings.sft_rate, settings.optimizer, settings.muon_iterations,
                    weight_decay=settings.sft_weight_decay)  # fmt: skip


def preferred(
    start: Transformer, held: World, settings, seed: int, how: str = "dpo", reference: PairScores | None = None
) -> tuple[Transformer, list[dict]]:
    """A copy of the SFT model trained on pairs: "dpo" by the recipe, "imitation" without its preference term, "plain" without the rest.

    reference: the SFT model's scores of the pairs, where they are known already.
    """
    training, model = by_preference(settings), copy.deepcopy(start).train()
    if how == "plain":
        training = replace(training, steps=settings.plain_steps, learning_rate=10 * settings.dpo_rate)
        return model, train_dpo(model, held.pairs, training, settings.plain_beta, seed=seed, pad=held.pad, reference=reference)
    beta = 0.0 if how == "imitation" else settings.dpo_beta
    return model, train_dpo(model, held.pairs, training, beta, settings.dpo_sft_weight, seed, held.pad, replay=held.replay,
                            replay_weight=settings.dpo_replay_weight, reference=reference)  # fmt: skip


def by_preference(settings) -> Training:
    """How DPO learns, from the profile's section."""
    return Training(settings.dpo_steps, settings.dpo_batch, settings.dpo_rate, settings.optimizer, settings.muon_iterations, warmup_steps=5)


def reward_model(start: Transformer, held: World, settings, seed: int) -> tuple[Scorer, list[dict]]:
    """A Bradley-Terry reward model on the same pairs."""
    wishes = RewardModelSettings(settings.reward_steps, settings.reward_rate, optimizer=settings.optimizer,
                                 muon_iterations=settings.muon_iterations, batch_size=settings.reward_batch)  # fmt: skip
    return train_reward_model(start, held.pairs, wishes, held.pad, seed)


def standard(start: Transformer, scorer: Scorer, held: World, seed: int, answers: int = 128) -> tuple[float, float]:
    """Mean and deviation of the scores of the SFT model's answers to training questions."""
    prompts = held.asked_prompts[:answers]
    drawn = rollouts(start.eval(), prompts, end_tokens(held.tokenizer), max_new_tokens=ANSWER_TOKENS, seed=seed, pad=held.pad)
    scores = model_reward(scorer)(range(len(prompts)), drawn)
    return float(scores.mean()), float(scores.std())


def ppo(start: Transformer, scorer: Scorer, unit: tuple[float, float], held: World, settings, seed: int, beta: float):
    """A copy of the SFT model after PPO on the reward model's score, and its curve. beta 0: nothing holds it near where it began."""
    critic = copy.deepcopy(scorer).train()
    with torch.no_grad():
        critic.score.weight /= unit[1]
    wishes = ReinforcementSettings(settings.ppo_steps, settings.ppo_rate, batch_size=settings.ppo_answers, beta=beta,
                                   critic_rate=settings.ppo_rate)  # fmt: skip
    policy, reward = copy.deepcopy(start), model_reward(scorer, *unit)
    return policy, reinforce(policy, held.asked_prompts, reward, wishes, end_tokens(held.tokenizer), held.pad, critic, seed)


def grpo(start: Transformer, held: World, settings, seed: int) -> tuple[Transformer, list[dict]]:
    """A copy of the SFT model after GRPO on `checked`, and its curve."""
    wishes = ReinforcementSettings(settings.grpo_steps, settings.grpo_rate, method="grpo", batch_size=settings.grpo_answers,
                                   group=settings.grpo_group, beta=settings.grpo_beta)  # fmt: skip
    policy, reward = copy.deepcopy(start), checked_reward(checked, held.duties, held.tokenizer)
    prompts = encode_prompts([question(row) for row in held.duties], held.tokenizer)
    return policy, reinforce(policy, prompts, reward, wishes, end_tokens(held.tokenizer), held.pad, seed=seed)


def obeyed(model: Transformer, held: World) -> list[float]:
    """`checked` of an answer drawn to each held-out request for personal data."""
    said = behave(model.eval(), held.tokenizer, held.held_out_duties, temperature=1.0, seed=2, max_new_tokens=ANSWER_TOKENS)
    return [checked(answer, row) for answer, row in zip(said.answers, said.rows)]


# ---------------------------------------------------------------------------------------------- the stage


def build(job) -> dict[str, float]:
    """The alignment stage. The artefact itself is DPO's model; sft/ and reward_model/ are beside it.

    answers.jsonl: ten held-out questions and what every model says; samples.jsonl: the same before and after, for the report;
    safety.jsonl: the safety set before and after; curves.jsonl: a row for every step of every run.
    """
    from transformers import AutoTokenizer

    settings, base = job.settings, job.inputs["base_model"]
    tokenizer = AutoTokenizer.from_pretrained(base)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    held = world(tokenizer, settings, job.seed)
    curves: dict[str, list[dict]] = {}
    start = load_model(base).to(device)
    metrics = {"base_val_loss": chat_loss(start.eval(), held.chats, held.pad)}
    curves["sft"] = sft(start, held, settings, job.seed)
    save_instruct(start, tokenizer, job.out / "sft")
    first = look(start, held)

    models = {"sft": start}
    looks, reference = {}, pair_scores(start, held.pairs, held.pad)
    for how in ("dpo", "imitation", "plain"):
        models[how], curves[how] = preferred(start, held, settings, job.seed, how, reference)
        looks[how] = look(models[how], held, whole=how == "dpo")
    save_instruct(models["dpo"], tokenizer, job.out)
    metrics |= dpo_metrics(first, looks, held, settings)

    scorer, curves["reward_model"] = reward_model(start, held, settings, job.seed)
    save_scorer(scorer, models["dpo"], tokenizer, job.out / "reward_model")
    metrics |= reward_metrics(scorer, held)
    unit = standard(start, scorer, held, job.seed)
    for name, beta in (("ppo", settings.ppo_beta), ("ppo_without_kl", 0.0)):
        models[name], curves[name] = ppo(start, scorer, unit, held, settings, job.seed, beta)
        metrics |= policy_metrics(name, first, models[name], held, curves[name], model_reward(scorer, *unit))
    models["grpo"], curves["grpo"] = grpo(start, held, settings, job.seed)
    metrics |= policy_metrics("grpo", first, models["grpo"], held, curves["grpo"])
    scores = (obeyed(model, held) for model in (start, models["grpo"]))
    metrics |= before_after("grpo_reward", *scores, [row["combination"] for row in held.held_out_duties])

    write_answers(job.out, models, tokenizer)
    after = looks["dpo"].safety
    write_rows(job.out / "safety.jsonl", [
        {"prompt": text(row), "intent": row["intent"], "sensitive": row["sensitive"], "before": said, "after": now,
         "refused_before": bool(refused), "refused_after": bool(refuses)}
        for row, said, now, refused, refuses in zip(held.safety, first.safety.answers, after.answers, first.safety.found["refused"],
                                                    after.found["refused"])
    ])  # fmt: skip
    if smalltalk.is_there(job.data):
        found, more = smalltalk.align(job, load_model(base).to(device), tokenizer, supervised(settings), by_preference(settings))
        metrics |= found
        curves |= more
    write_rows(job.out / "curves.jsonl", [{"run": run} | row for run, rows in curves.items() for row in rows])
    return metrics


def text(row: dict) -> str:
    """The question itself."""
    asked = question(row)
    return asked if isinstance(asked, str) else asked[-1]["content"]


def write_answers(out: Path, models: dict[str, Transformer], tokenizer) -> None:
    """answers.jsonl: "before" is SFT's answer, "after" DPO's, the others under their names; samples.jsonl: these two."""
    rows = desk.showcase()
    said = {name: behave(model.eval(), tokenizer, rows, max_new_tokens=ANSWER_TOKENS).answers for name, model in models.items()}
    names = {"sft": "before", "dpo": "after"}
    answers = [
        {"question": text(row), "intent": row["intent"], "sensitive": row["sensitive"]}
        | {names.get(name, name): found[place] for name, found in said.items()}
        for place, row in enumerate(rows)
    ]
    write_rows(out / "answers.jsonl", answers)
    told = (f"{row['question']}\n\n정렬 전(SFT): {row['before']}\n\n정렬 후(DPO): {row['after']}" for row in answers)
    write_rows(out / "samples.jsonl", [{"text": lines} for lines in told])


def save_scorer(scorer: Scorer, like: Transformer, tokenizer, folder: Path) -> None:
    """A folder that `AutoModelForSequenceClassification.from_pretrained` reads: one label, the reward."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    like.config.to_hf(**special, architectures=["LlamaForSequenceClassification"], num_labels=1, dtype="float32").save_pretrained(folder)
    weights = {name: weight.detach().cpu().contiguous() for name, weight in scorer.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save_pretrained(folder)


def read_chats(path: Path, tokenizer) -> list[Chat]:
    """The conversations of a JSON-lines file, {"messages": [...]} a line. Raises WorkshopError naming the line with which nothing can be
    learnt."""
    chats = []
    for number, row in read_json_lines(path):
        messages = row.get("messages")
        if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
            raise WorkshopError(f"{path} {number}번째 줄에 대화가 없다. "
                                '한 줄에 {"messages": [{"role": …, "content": …}, …]} 하나를 쓴다.')
        try:
            chats.append(encode_chat(messages, tokenizer))
        except WorkshopError as error:
            raise WorkshopError(f"{path} {number}번째 줄: {error}") from error
        if not any(chats[-1][1]):
            raise WorkshopError(f"{path} {number}번째 줄에는 assistant의 말이 없어 배울 것이 없다.")
    return chats


def main(arguments: list[str] | None = None) -> None:
    """SFT of a saved model on a file of conversations; under `torchrun` in several processes.

        torchrun --nproc_per_node 2 -m workshop_lib.posttraining base_model chats.jsonl record.json --layout fsdp --model chat_model
    """
    import argparse

    parser = argparse.ArgumentParser(description="저장된 모델에 대화를 가르치고(SFT) 단계마다의 손실을 남긴다. torchrun 아래에서도 돈다.")
    parser.add_argument("base", type=Path, help="모델과 토크나이저 폴더")
    parser.add_argument("chats", type=Path, help='대화 파일(.jsonl). 한 줄에 {"messages": [...]} 하나')
    parser.add_argument("record", type=Path, help="손실을 적을 JSON 파일")
    parser.add_argument("--settings", default="{}", metavar="JSON", help="프로필에서 바꿀 설정(JSON): steps, batch, learning_rate 등")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--layout", choices=LAYOUTS, default="ddp", help="여러 프로세스가 모델을 나누는 방식")
    parser.add_argument("--model", type=Path, help="다 배운 모델을 쓸 폴더")
    chosen = parser.parse_args(arguments)
    training = changed(supervised(get_profile().alignment), chosen.settings)
    check_outputs(chosen.record, chosen.model)
    tokenizer = tokenization.load(chosen.base)
    chats = read_chats(chosen.chats, tokenizer)
    with joined():
        model = load_model(chosen.base).to("cuda" if torch.cuda.is_available() else "cpu")
        longest = max((len(ids) for ids, _ in chats), default=0)
        if longest > model.config.max_position_embeddings + 1:
            raise WorkshopError(f"가장 긴 대화가 {longest:,}토큰이라 모델의 문맥 {model.config.max_position_embeddings:,}토큰을 넘는다. "
                                "긴 대화를 빼거나 나눈다.")
        rows = finetune_chat(model.train(), chats, training, chosen.seed, tokenizer.pad_token_id, layout=chosen.layout)
        if chosen.model:
            save_instruct(model, tokenizer, chosen.model)
        if seat()[0] == 0:
            chosen.record.write_text(json.dumps({"losses": [row["loss"] for row in rows]}), encoding="utf-8")


if __name__ == "__main__":
    from workshop_lib.cli import reported

    raise SystemExit(reported(main, "SFT에는 체크포인트가 없어, 같은 명령은 처음부터 다시 한다."))
