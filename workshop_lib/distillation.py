"""A smaller model out of a larger one: cut what matters least, then let the small one learn from the large one.

The recipe is Minitron's (Muralidharan et al. 2024, arXiv 2407.14679), which also made Nemotron Nano 2 out of a 12 B model: importance
from activations on a little text, depth first, then width, then training on the teacher's whole distribution.

Notable choices
- Importance is only looked at: forward passes, no gradients, no change to the model.
- What is kept is copied weight by weight; with nothing cut the copy computes the very same.
- `distil` is `pretraining.train` with another loss: the same loop, optimiser and schedule as the model that it is compared with.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workshop_lib import WorkshopError
from workshop_lib.architectures.transformer import Transformer, TransformerConfig
from workshop_lib.belief import bootstrap_interval
from workshop_lib.ngram import bits_per_char
from workshop_lib.packing import Validation, encode
from workshop_lib.pretraining import Run, document_nats, new_model, train
from workshop_lib.profile import BaseModelSettings

LOGITS = 2**27  # at most so many of a model's at once: the loss holds several arrays as large

# --- importance -----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def layer_importance(model: Transformer, windows: Tensor) -> Tensor:
    """How many nats a token the loss rises when a layer is left out, for each layer: (layers,). windows: (rows, time) ids."""
    whole = _loss(model, windows)
    return torch.tensor([_loss(cut_layers(model, _others(model, layer)), windows) - whole for layer in range(len(model.model.layers))])


@torch.no_grad()
def neuron_importance(model: Transformer, windows: Tensor) -> Tensor:
    """Mean |activation| of each feed-forward neuron, silu(gate) · up, over the tokens of the windows: (layers, intermediate)."""
    return _mean_inputs(model, windows, [block.mlp.down_proj for block in model.model.layers], torch.abs)


@torch.no_grad()
def head_importance(model: Transformer, windows: Tensor) -> Tensor:
    """Mean length of what each attention head hands to the output projection: (layers, heads)."""
    heads = model.config.num_attention_heads

    def lengths(x: Tensor) -> Tensor:
        return x.unflatten(-1, (heads, -1)).norm(dim=-1)

    return _mean_inputs(model, windows, [block.self_attn.o_proj for block in model.model.layers], lengths)


@torch.no_grad()
def channel_importance(model: Transformer, windows: Tensor) -> Tensor:
    """Mean |value| of each channel in what attention and feed-forward layers read, over all of them: (width,)."""
    readers = [part for block in model.model.layers for part in (block.self_attn, block.mlp)]
    return _mean_inputs(model, windows, readers, torch.abs).mean(dim=0)


def _mean_inputs(model: Transformer, windows: Tensor, modules: Sequence[nn.Module], measure) -> Tensor:
    """Mean over all tokens of measure(what each module reads): (modules, …)."""
    found: list[Tensor] = [torch.empty(0)] * len(modules)
    hooks = [
        module.register_forward_pre_hook(lambda _, inputs, number=number: found.__setitem__(number, measure(inputs[0]).mean((0, 1))))
        for number, module in enumerate(modules)
    ]
    try:
        model(windows)
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack(found)


def _loss(model: Transformer, windows: Tensor) -> float:
    return float(model(windows[:, :-1], windows[:, 1:]))


def _others(model: Transformer, layer: int) -> list[int]:
    return [number for number in range(len(model.model.layers)) if number != layer]


# --- pruning --------------------------------------------------------------------------------------------------------------


def cut_layers(model: Transformer, kept: Sequence[int]) -> Transformer:
    """A copy with only the layers `kept`, in this order. Raises WorkshopError for none or for one that does not exist."""
    layers = len(model.model.layers)
    if not len(kept) or not all(0 <= number < layers for number in kept):
        raise WorkshopError(f"남길 층 {list(kept)}이(가) 0과 {layers - 1} 사이의 번호 하나 이상이어야 한다.")
    weights = {name: weight for name, weight in model.state_dict().items() if not name.startswith("model.layers.")}
    for new, old in enumerate(kept):
        block = model.model.layers[old].state_dict()
        weights |= {f"model.layers.{new}.{name}": weight for name, weight in block.items()}
    return _model(replace(model.config, num_hidden_layers=len(kept)), weights, model)


def cut_neurons(model: Transformer, kept: Sequence[Tensor]) -> Transformer:
    """A copy whose feed-forward layers have only the neurons `kept`: indices for each layer, as many in each."""
    weights = model.state_dict()
    for layer, rows in enumerate(kept):
        mlp = f"model.layers.{layer}.mlp."
        for name in ("gate_proj", "up_proj"):
            weights[f"{mlp}{name}.weight"] = weights[f"{mlp}{name}.weight"][rows]
        weights[f"{mlp}down_proj.weight"] = weights[f"{mlp}down_proj.weight"][:, rows]
    return _model(replace(model.config, intermediate_size=len(kept[0])), weights, model)


def cut_width(model: Transformer, groups: Sequence[Tensor], channels: Tensor) -> Transformer:
    """A copy with fewer attention heads and as many fewer channels: a head keeps its width, so heads · head width must be the channels.

    groups: for each layer the key/value heads kept, with the query heads that ask them; channels: those kept throughout the model.
    """
    config, weights = model.config, model.state_dict()
    head, shared = config.head_dim, config.num_attention_heads // config.num_key_value_heads
    for name, weight in weights.items():
        if "norm" in name:  # the mean square is now over fewer channels: right where the others were silent
            weights[name] = weight[channels] * (len(weight) / len(channels)) ** 0.5
        elif name.endswith(("o_proj.weight", "down_proj.weight")):
            weights[name] = weight[channels]
        else:
            weights[name] = weight[:, channels]
    for layer, kept in enumerate(groups):
        attention = f"model.layers.{layer}.self_attn."
        keys = (kept[:, None] * head + torch.arange(head, device=kept.device)).flatten()
        queries = (kept[:, None] * shared * head + torch.arange(shared * head, device=kept.device)).flatten()
        for name, rows in (("q_proj", queries), ("k_proj", keys), ("v_proj", keys)):
            weights[f"{attention}{name}.weight"] = weights[f"{attention}{name}.weight"][rows]
        weights[f"{attention}o_proj.weight"] = weights[f"{attention}o_proj.weight"][:, queries]
    heads = len(groups[0]) * shared
    return _model(replace(config, hidden_size=len(channels), num_attention_heads=heads, num_key_value_heads=len(groups[0])), weights, model)


def prune(model: Transformer, windows: Tensor, layers: int, intermediate: int, heads: int | None = None) -> Transformer:
    """A copy with the `layers` layers and in each the `intermediate` neurons that matter most. windows: (rows, time) ids to judge by.

    One layer after another goes, the one that is missed least; what lies inside the layers is then judged in the shallower model.
    `heads`: fewer attention heads, too, and with them channels (None: all). Raises WorkshopError when the model has fewer than that.
    """
    config = model.config
    wanted, had = (layers, intermediate), (config.num_hidden_layers, config.intermediate_size)
    if heads is not None:
        wanted, had = (*wanted, heads), (*had, config.num_attention_heads)
    if not all(1 <= count <= most for count, most in zip(wanted, had)):
        raise WorkshopError(
            f"(층, 중간 너비, 헤드)가 {had}인 모델에서 {wanted}만큼 남길 수 없다. 1 이상이고 원래보다 크지 않은 수를 고른다."
        )
    while model.config.num_hidden_layers > layers:
        model = cut_layers(model, _others(model, int(layer_importance(model, windows).argmin())))
    model = cut_neurons(model, [strongest(row, intermediate) for row in neuron_importance(model, windows)])
    if heads is None or heads == config.num_attention_heads:
        return model
    shared = config.num_attention_heads // config.num_key_value_heads
    if heads % shared:
        raise WorkshopError(f"키·값 헤드 하나를 질의 헤드 {shared}개가 나누어 쓰므로 남길 헤드 {heads}개는 {shared}의 배수여야 한다.")
    groups = head_importance(model, windows).unflatten(1, (-1, shared)).mean(dim=2)  # (layers, kv heads)
    channels = strongest(channel_importance(model, windows), heads * config.head_dim)
    return cut_width(model, [strongest(row, heads // shared) for row in groups], channels)


def strongest(scores: Tensor, count: int) -> Tensor:
    """Where the `count` largest scores are, in the order in which they stand: (count,)."""
    return scores.topk(count).indices.sort().values


def _model(config: TransformerConfig, weights: dict[str, Tensor], like: Transformer) -> Transformer:
    model = Transformer(config)
    model.load_state_dict(weights)
    return model.to(next(like.parameters()).device)


# --- what the student learns from -----------------------------------------------------------------------------------------


def distillation_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """T² · KL(teacher ‖ student), mean over all positions, in nats (Hinton et al. 2015, section 2).

    student_logits, teacher_logits: (…, vocabulary), both divided by the temperature T before the softmax. Dividing makes gradients
    1/T² as large; T² gives them back. Raises WorkshopError for different shapes or a temperature of 0 or less.
    """
    if student_logits.shape != teacher_logits.shape:
        raise WorkshopError(
            f"학생의 로짓 {tuple(student_logits.shape)}과(와) 교사의 로짓 {tuple(teacher_logits.shape)}의 모양이 다르다. "
            "두 모델의 어휘와 입력이 같은지 확인한다."
        )
    if temperature <= 0:
        raise WorkshopError(f"온도는 0보다 커야 한다. 받은 값: {temperature}")
    student = (student_logits / temperature).log_softmax(dim=-1)
    teacher = (teacher_logits / temperature).log_softmax(dim=-1)
    gap = F.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=-1)  # sum of p_teacher · (log p_teacher − log p_student)
    return temperature**2 * gap.mean()


class Lesson(nn.Module):
    """A student whose loss is its distance from the teacher; the right answers (`targets`) are not looked at."""

    def __init__(self, student: Transformer, teacher: Transformer, temperature: float):
        super().__init__()
        self.student, self.config, self.temperature = student, student.config, temperature
        self._teacher = [teacher.eval()]  # in a list: the teacher's weights are not the lesson's to train

    def forward(self, input_ids: Tensor, targets: Tensor | None = None) -> Tensor:
        """Ids (batch, time) to the distance from the teacher where targets are given, else to the student's logits."""
        logits = self.student(input_ids)
        if targets is None:
            return logits
        with torch.no_grad():
            wanted = self._teacher[0](input_ids)
        return distillation_loss(logits, wanted, self.temperature)

    def flops_per_token(self, context: int) -> float:
        """The student's training and the teacher's forward pass, a third of a training step."""
        return self.student.flops_per_token(context) + self._teacher[0].flops_per_token(context) / 3


def distil(
    student: Transformer, teacher: Transformer, tokens: np.ndarray, settings: BaseModelSettings, temperature: float = 1.0, seed: int = 0,
    validation: Validation | None = None, **options,
) -> Run:
    """Train `student` in place to say what `teacher` says on the stream `tokens`. `options`: those of `pretraining.train`."""
    return train(Lesson(student, teacher, temperature), tokens, settings, seed, validation, **options)


# --- the stage's part -----------------------------------------------------------------------------------------------------


@dataclass
class Student:
    """What `build_student` made: the distilled model, the one of the same size and tokens from random weights, and their numbers."""

    model: Transformer
    scratch: Transformer
    rows: list[dict]  # curves: model, step, tokens, loss, val_bpc, seconds
    nats: dict[str, np.ndarray]  # of each held-out document: teacher, pruned, distilled, scratch_small
    metrics: dict[str, float]


def training_settings(config: TransformerConfig, settings, rate: float) -> BaseModelSettings:
    """Week 5's settings for a model of this shape, with the steps, batch and rate of the compression section."""
    tied, batch = config.tie_word_embeddings, settings.distil_batch
    sequence = config.max_position_embeddings * config.vocab_size
    parts = next((n for n in range(1, batch) if batch % n == 0 and batch // n * sequence <= LOGITS), batch)
    return BaseModelSettings(
        hidden_size=config.hidden_size, layers=config.num_hidden_layers, heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads, intermediate_size=config.intermediate_size, context=config.max_position_embeddings,
        tie_embeddings=tied, rope_theta=config.rope_theta, batch_size=batch, accumulation=parts, steps=settings.distil_steps,
        learning_rate=rate, embedding_rate=1.0 if tied else 0.5, optimizer="muon", muon_iterations=3, schedule="wsd", decay_fraction=0.9,
        warmup_steps=min(20, settings.distil_steps // 4), evaluate_every=max(1, settings.distil_steps // 4), checkpoint_every=10**9,
        sample_every=10**9,
    )


def build_student(teacher: Transformer, tokens: np.ndarray, validation: Validation, settings, seed: int = 0) -> Student:
    """Prune the teacher, distil it into what is left, and train a model of that shape from random weights on the same tokens.

    tokens: (tokens,) ids of training text. settings: `CompressionSettings`. Raises WorkshopError when the student is not smaller.
    """
    context, device = teacher.config.max_position_embeddings, next(teacher.parameters()).device
    windows = torch.from_numpy(tokens[: settings.calibration_windows * context]).view(-1, context)
    pruned = prune(teacher, windows.to(device), settings.student_layers, settings.student_intermediate)
    if pruned.num_parameters() >= teacher.num_parameters():
        raise WorkshopError("학생이 교사보다 작지 않다. student_layers나 student_intermediate를 줄인다.")
    nats = {"teacher": document_nats(teacher, validation), "pruned": document_nats(pruned, validation)}

    gentle = training_settings(pruned.config, settings, settings.distil_rate)
    fresh = training_settings(pruned.config, settings, settings.scratch_rate)
    scratch = new_model(fresh, pruned.config.vocab_size, seed).to(device)
    options = {"progress": False, "peak": 1e12}  # any peak: how busy the machine is, is not asked here
    runs = {
        "distilled": distil(pruned, teacher, tokens, gentle, settings.temperature, seed, validation, **options),
        "scratch_small": train(scratch, tokens, fresh, seed, validation, **options),
    }
    nats |= {"distilled": document_nats(pruned, validation), "scratch_small": document_nats(scratch, validation)}
    difference, low, high = bpc_difference(nats["distilled"], nats["scratch_small"], validation)
    metrics = {f"{name}_bpc": bits_per_char(float(found.sum()), validation.characters) for name, found in nats.items()}
    metrics |= {
        "distilled_minus_scratch_bpc": difference,
        "distilled_minus_scratch_bpc_low": low,
        "distilled_minus_scratch_bpc_high": high,
        "student_params": pruned.num_parameters(),
        "student_tokens": settings.distil_steps * settings.distil_batch * context,
    }
    metrics |= {f"{name}_seconds": run.seconds for name, run in runs.items()}
    keys = ("step", "tokens", "loss", "val_bpc", "seconds")
    curves = [{"model": name} | {key: row[key] for key in keys} for name, run in runs.items() for row in run.history]
    return Student(pruned, scratch, curves, nats, metrics)


def bpc_difference(first: np.ndarray, second: np.ndarray, validation: Validation) -> tuple[float, float, float]:
    """Bits per character first − second and its 95 % interval over documents drawn again. first, second: nats of each document."""
    characters = np.array([document.characters for document in validation.documents])
    rows = np.stack([first - second, characters], axis=1)

    def gap(rows: np.ndarray) -> float:
        return float(rows[:, 0].sum() / rows[:, 1].sum() / math.log(2))

    return gap(rows), *bootstrap_interval(rows, gap)


def first_tokens(documents: Iterable[dict], tokenizer, count: int) -> np.ndarray:
    """The first `count` ids of a stream of documents: (count,). Raises WorkshopError when there are fewer."""
    ids: list[int] = []
    for document in encode(documents, tokenizer):
        ids += document.ids
        if len(ids) >= count:
            return np.array(ids[:count], dtype=np.int64)
    raise WorkshopError(f"학습용 말뭉치가 {len(ids):,}토큰뿐이라 {count:,}토큰을 쓸 수 없다. distil_steps나 distil_batch를 줄인다.")
