"""Week 9: what alignment has changed, as numbers: every one measured on held-out rows, before and after, with its interval.

    look              all that is measured on one model
    dpo_metrics       preference accuracy, behaviour, loss and variety, beside the models that show what the parts do
    reward_metrics    how often the reward model agrees with held-out preferences
    policy_metrics    what PPO or GRPO have done to their reward, and to what an independent judge sees

Notable choices
- "wanted" conversations are the held-out ones whose answer a person would also want: polite, right, refused where it should be. The
  other half (casual answers, careless ones) is what preferences speak against, so the loss on it must rise; on these it must not.
- distinct-2 falls a little even in a perfect model: where half of the answers were casual, all are polite now, and the casual endings are
  gone. So it stands beside that of the true answers (mixed, as SFT was shown them, and all polite), and that to polite questions alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from workshop_lib.alignment import Behaviour, PairScores, behave, change, chat_loss, pair_scores, share, verdicts
from workshop_lib.architectures.transformer import Transformer
from workshop_lib.corpora import desk
from workshop_lib.decoding import distinct_n
from workshop_lib.engine import end_tokens
from workshop_lib.reinforcement import Scorer, margins
from workshop_lib.rollouts import Rollouts, rollouts

if TYPE_CHECKING:
    from workshop_lib.posttraining import World

ANSWER_TOKENS = 48  # of an answer, at most


@dataclass(frozen=True)
class Look:
    """What was found in one model."""

    scores: PairScores
    greedy: Behaviour
    loss: float  # on the wanted held-out conversations, nats a token
    sampled: Behaviour | None = None
    drawn: Rollouts | None = None  # the sampled answers' tokens
    safety: Behaviour | None = None
    loss_all: float = float("nan")  # on all held-out conversations


def look(model: Transformer, held: World, whole: bool = True) -> Look:
    """Measure a model on held-out rows; with `whole` also its sampled answers, the safety set and the loss on all conversations."""
    model.eval()
    greedy = behave(model, held.tokenizer, held.held_out, max_new_tokens=ANSWER_TOKENS)
    short = Look(pair_scores(model, held.held_out_pairs, held.pad), greedy, chat_loss(model, held.wanted, held.pad))
    if not whole:
        return short
    sampled, drawn = answered(model, held)
    safety = behave(model, held.tokenizer, held.safety, max_new_tokens=ANSWER_TOKENS)
    return Look(short.scores, short.greedy, short.loss, sampled, drawn, safety, chat_loss(model, held.chats, held.pad))


def answered(model: Transformer, held: World) -> tuple[Behaviour, Rollouts]:
    """One answer drawn to each held-out question, at temperature 1."""
    drawn = rollouts(model.eval(), held.prompts, end_tokens(held.tokenizer), max_new_tokens=ANSWER_TOKENS, seed=1, pad=held.pad)
    return verdicts(drawn, held.tokenizer, held.held_out), drawn


def intervals(name: str, values, clusters: Sequence[str]) -> dict[str, float]:
    """A share or mean under its name, and its 95 % interval under `…_low` and `…_high`."""
    return dict(zip((name, f"{name}_low", f"{name}_high"), share(values, clusters)))


def before_after(name: str, before, after, clusters: Sequence[str]) -> dict[str, float]:
    """`…_before`, `…_after`, and `…_change`, each with its interval; the last is that of the paired difference."""
    moved = change(before, after, clusters)
    return intervals(f"{name}_before", before, clusters) | intervals(f"{name}_after", after, clusters) | {
        f"{name}_change": moved.difference, f"{name}_change_low": moved.low, f"{name}_change_high": moved.high}  # fmt: skip


def spoken(name: str, before: Behaviour, after: Behaviour) -> dict[str, float]:
    """How the answers of two models differ in form: distinct-2, characters, and shares of empty, repeating and unfinished ones."""
    found = {}
    for when, said in (("before", before), ("after", after)):
        found |= {
            f"distinct2{name}_{when}": said.distinct_2,
            f"length{name}_{when}": float(np.mean([len(answer) for answer in said.answers])),
            f"empty{name}_{when}": float(np.mean([not answer for answer in said.answers])),
            f"degenerate{name}_{when}": float(said.found["degenerate"].mean()),
            f"unended{name}_{when}": float(1 - said.found["ended"].mean()),
        }
    return found


# ---------------------------------------------------------------------------------------------- what is reported


def dpo_metrics(first: Look, looks: dict[str, Look], held: World, settings) -> dict[str, float]:
    """SFT's and DPO's numbers, and those of the two that stand beside it.

    The issue's criteria: preference accuracy, preferred behaviour, the loss on wanted conversations, distinct-2; then safety.
    """
    after, clusters = looks["dpo"], held.clusters
    metrics = {"sft_val_loss": first.loss_all, "dpo_val_loss": after.loss_all, "wanted_loss_before": first.loss,
               "wanted_loss_after": after.loss, "wanted_loss_change": after.loss / first.loss - 1}  # fmt: skip
    metrics |= before_after("dpo_pref_accuracy", first.scores.preferred_per_token, after.scores.preferred_per_token, held.pair_clusters)
    for axis in desk.AXES:
        here = np.array([row["axis"] == axis for row in held.pair_rows])
        metrics |= {f"dpo_pref_accuracy_{axis}_{when}": float(found.scores.preferred_per_token[here].mean())
                    for when, found in (("before", first), ("after", after))}  # fmt: skip
    for way, before, now in (("", first.greedy, after.greedy), ("_sampled", first.sampled, after.sampled)):
        metrics |= before_after(f"preferred{way}", before.found["preferred"], now.found["preferred"], clusters)
        metrics |= spoken(way, before, now)
    metrics |= {f"distinct2_polite_{when}": found.greedy.where(lambda row: row["register"] == "polite").distinct_2
                for when, found in (("before", first), ("after", after))}  # fmt: skip
    shown = [row["messages"][-1]["content"] for row in held.held_out]
    metrics |= {"distinct2_true": distinct_n(shown, 2), "distinct2_true_polite": distinct_n(held.best, 2)}
    for name in ("polite", "right"):
        metrics |= before_after(name, first.greedy.found[name], after.greedy.found[name], clusters)
    metrics |= moved("dpo", first, after, settings.dpo_beta) | safety_metrics(first.safety, after.safety)
    ordinary = np.array([row["intent"] != "private" for row in held.held_out])
    metrics |= {f"refusal_rate_ordinary_{when}": float(found.greedy.found["refused"][ordinary].mean())
                for when, found in (("before", first), ("after", after))}  # fmt: skip
    for how in ("imitation", "plain"):
        other = looks[how]
        metrics |= intervals(f"{how}_pref_accuracy", other.scores.preferred_per_token, held.pair_clusters)
        metrics |= intervals(f"{how}_preferred", other.greedy.found["preferred"], clusters)
        metrics |= moved(how, first, other, settings.dpo_beta if how == "imitation" else settings.plain_beta)
        metrics |= {f"{how}_wanted_loss": other.loss, f"{how}_distinct2": other.greedy.distinct_2,
                    f"{how}_degenerate": float(other.greedy.found["degenerate"].mean()),
                    f"{how}_unended": float(1 - other.greedy.found["ended"].mean())}  # fmt: skip
    gained = change(looks["imitation"].scores.preferred_per_token, after.scores.preferred_per_token, held.pair_clusters)
    more = change(looks["imitation"].greedy.found["preferred"], after.greedy.found["preferred"], clusters)
    for name, difference in (("pref_accuracy", gained), ("preferred", more)):
        metrics |= {f"dpo_minus_imitation_{name}": difference.difference, f"dpo_minus_imitation_{name}_low": difference.low,
                    f"dpo_minus_imitation_{name}_high": difference.high}  # fmt: skip
    return metrics


def moved(name: str, first: Look, after: Look, beta: float) -> dict[str, float]:
    """How far the held-out pairs' log-probabilities have moved (nats an answer), and the mean margin that this makes."""
    chosen, rejected = after.scores.chosen - first.scores.chosen, after.scores.rejected - first.scores.rejected
    return {f"{name}_chosen": float(chosen.mean()), f"{name}_rejected": float(rejected.mean()),
            f"{name}_margin": float(beta * (chosen - rejected).mean())}  # fmt: skip


def safety_metrics(before: Behaviour, after: Behaviour) -> dict[str, float]:
    """Shares of refusals: of requests for another's data and of the compound ones (should), of those for one's own (should not)."""
    kinds = {
        "private": lambda row: row["sensitive"] and "messages" in row,
        "own": lambda row: not row["sensitive"],
        "compound": lambda row: row["sensitive"] and "messages" not in row,
    }
    metrics = {}
    for name, keep in kinds.items():
        old, new = before.where(keep), after.where(keep)
        clusters = [row["combination"] for row in old.rows]
        metrics |= before_after(f"refusal_rate_{name}", old.found["refused"], new.found["refused"], clusters)
    return metrics


def reward_metrics(scorer: Scorer, held: World) -> dict[str, float]:
    """Held-out accuracy of the reward model, for each axis too, and that of calling the longer answer better."""
    right = (margins(scorer, held.held_out_pairs, held.pad) > 0).cpu().numpy()
    metrics = intervals("rm_accuracy", right, held.pair_clusters)
    for axis in desk.AXES:
        here = [place for place, row in enumerate(held.pair_rows) if row["axis"] == axis]
        metrics |= intervals(f"rm_accuracy_{axis}", right[here], [held.pair_rows[place]["combination"] for place in here])
    return metrics | {"rm_accuracy_longer": float(np.mean([len(row["chosen"]) > len(row["rejected"]) for row in held.pair_rows]))}


def policy_metrics(
    name: str, first: Look, policy: Transformer, held: World, curve: list[dict], reward: Callable[..., Tensor] | None = None
) -> dict[str, float]:
    """What an independent judge sees in a policy's sampled answers to held-out questions, before and after; also a `reward`, if given."""
    said, drawn = answered(policy, held)
    metrics = {}
    if reward is not None:
        scores = [reward(range(len(held.held_out)), answers).cpu().numpy() for answers in (first.drawn, drawn)]
        metrics |= before_after(f"{name}_reward", *scores, held.clusters)
    for what in ("polite", "right", "preferred"):
        metrics |= {f"{name}_{what}_before": float(first.sampled.found[what].mean())}
        metrics |= {f"{name}_{what}_after": float(said.found[what].mean())}
    for intent in ("private", "own"):
        here = np.array([row["intent"] == intent for row in held.held_out])
        for when, found in (("before", first.sampled), ("after", said)):
            kind = found.found["refused"][here]
            metrics |= {f"{name}_refusal_{intent}_{when}": float(kind.mean())} if len(kind) else {}
    last = curve[-max(1, len(curve) // 4) :]
    return metrics | {
        f"{name}_kl": float(np.mean([row["kl"] for row in last])),
        f"{name}_length_before": float(first.drawn.lengths.float().mean()),
        f"{name}_length_after": float(drawn.lengths.float().mean()),
        f"{name}_distinct2_after": said.distinct_2,
    }
