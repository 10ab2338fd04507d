"""Scale on paper: what a larger model and more Korean text would cost, from formulas and measured points alone.

`plan` answers for one model and one amount of text: tokens, operations, GPU-hours, a layout that fits, storage, cost. `document`
renders the whole as `docs/scaling.md`: `python -m workshop_lib.cluster_plan > docs/scaling.md`.

Notable choices
- Everything is arithmetic on a `TransformerConfig`: the same shapes that week 5 trains.
- Memory is what tensors take, an upper bound (gradients and logits are counted as if they met); a tenth of the device stays free.
- Nothing here was run on a GPU. What stands beside the formulas: this course's own runs (`OwnRun`), and speeds that others published.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from workshop_lib import WorkshopError
from workshop_lib.architectures.transformer import TransformerConfig
from workshop_lib.outlook import cache_bytes, parameters
from workshop_lib.pretraining import model_config
from workshop_lib.profile import get_profile
from workshop_lib.throughput import model_flops_utilization


@dataclass(frozen=True)
class Accelerator:
    """Operations a second (dense bf16), bytes of memory, devices a node, bytes a second to others in and outside it, dollars an hour."""

    name: str
    flops: float
    memory: float
    node: int
    inside: float
    outside: float
    price: float


@dataclass(frozen=True)
class Layout:
    """How a model lies on devices. `zero`: which of optimiser (1), gradients (2), weights (3) the data-parallel group divides.

    Raises WorkshopError for devices that cannot be shared so.
    """

    gpus: int = 1
    zero: int = 0
    tensor: int = 1
    pipeline: int = 1
    recompute: bool = False

    def __post_init__(self) -> None:
        if min(self.gpus, self.tensor, self.pipeline) < 1 or self.gpus % (self.tensor * self.pipeline) or self.zero not in range(4):
            raise WorkshopError(f"GPU {self.gpus}개를 텐서 {self.tensor} × 파이프라인 {self.pipeline}, ZeRO-{self.zero}로 나눌 수 없다. "
                                "두 병렬의 곱은 GPU 수의 약수이고 ZeRO는 0–3이다.")

    @property
    def data(self) -> int:
        """Copies of the model that read different text."""
        return self.gpus // (self.tensor * self.pipeline)


@dataclass(frozen=True)
class Case:
    """A model to plan for. `sequences`: texts of a whole context that a device holds at once; `batch`: tokens a step."""

    name: str
    config: TransformerConfig
    sequences: int
    batch: int
    origin: str


H100 = Accelerator("H100 SXM 80GB", 989.4e12, 80e9, 8, 450e9, 50e9, 3.0)
CASES = (
    Case("124 M", model_config(get_profile("gpu").base_model, 51_200), 8, 2**19, "gpu 프로필의 모양, 어휘 51,200"),
    Case("1 B", TransformerConfig(128_256, 2_048, 8_192, 16, 32, 8, 2_048), 4, 2**20, "Llama 3.2 1B의 모양"),
    Case("8 B", TransformerConfig(128_256, 4_096, 14_336, 32, 32, 8, 4_096, tie_word_embeddings=False), 1, 2**22, "Llama 3.1 8B의 모양"),
)
MFU = (0.3, 0.4, 0.5)  # low, planned, high
DAYS = 7.0


@dataclass(frozen=True)
class OwnRun:
    """A run of this course on two CPU cores: its shape, tokens a second, and the bytes that a float32 step with AdamW held: with a GPU's
    definitions (`plain`), and with `architectures.kernels` (`lean`). Of the base model, also its utilization and the whole process."""

    name: str
    config: TransformerConfig
    context: int
    sequences: int
    tokens_per_s: float
    plain_bytes: float
    lean_bytes: float
    mfu: float | None = None
    process_bytes: float | None = None


# --- operations, text, memory --------------------------------------------------------------------------------------------


def flops_per_token(config: TransformerConfig, context: int | None = None) -> float:
    """Operations of one training token, as `Transformer.flops_per_token` counts them (Chowdhery et al. 2022, appendix B).

    6 for each weight that is multiplied (Kaplan et al. 2020) and 12 · layers · width · context for attention.
    """
    width, layers = config.hidden_size, config.num_hidden_layers
    idle = (2 * layers + 1) * width + (0 if config.tie_word_embeddings else config.vocab_size * width)  # norms; looked up
    return 6.0 * (parameters(config) - idle) + 12.0 * layers * width * (context or config.max_position_embeddings)


def text_tokens(gigabytes: float, bytes_per_char: float, chars_per_token: float) -> float:
    """Tokens of so many gigabytes (10⁹ bytes) of clean UTF-8 text."""
    if min(gigabytes, bytes_per_char, chars_per_token) <= 0:
        raise WorkshopError("글의 크기, 글자당 바이트, 토큰당 글자는 0보다 커야 한다.")
    return gigabytes * 1e9 / bytes_per_char / chars_per_token


def memory(config: TransformerConfig, layout: Layout, sequences: int, context: int | None = None, number: int = 2) -> dict[str, float]:
    """Bytes on the fullest device while it trains on `sequences` texts at once: a value for each kind, and `total`.

    number: bytes of a weight; 2 is bf16 beside a float32 copy and two moments (16 a parameter: Rajbhandari et al. 2020, section 3.1),
    4 is float32 alone (also 16). Activations by counting what a Llama layer keeps, FlashAttention leaving no square of the context,
    divided by tensor parallelism with sequence parallelism (Korthikanti et al. 2022); with `recompute`, a layer's input alone. A pipeline
    holds as many micro-batches as it has stages, so that it does not lessen them (Narayanan et al. 2021, 1F1B); its last stage has the
    output layer beside its share of the layers (its own copy of a tied one).
    """
    count, tokens = parameters(config), sequences * (context or config.max_position_embeddings)
    width, layers = config.hidden_size, config.num_hidden_layers
    share = [layout.data if layout.zero >= stage else 1 for stage in (1, 2, 3)]
    keys = config.num_key_value_heads * width // config.num_attention_heads
    layer = 6 * width + 2 * keys + 4 * config.intermediate_size  # norms' and projections' inputs, q, k, v, gate, up, silu, product
    kept = (layers * width + layer if layout.recompute else layers * layer) + 2 * width
    table = config.vocab_size * width
    block = (count - width - table * (1 if config.tie_word_embeddings else 2)) // layers  # without the last norm
    stage = count if layout.pipeline == 1 else math.ceil(layers / layout.pipeline) * block + table + width
    held = stage / layout.tensor
    bytes_of = {
        "weights": held * number / share[2],
        "gradients": held * number / share[1],
        "optimizer": held * (12 if number == 2 else 8) / share[0],
        "gathered": 2 * number * max(block, table) / layout.tensor if layout.zero == 3 else 0.0,  # the unit in use and the next
        "activations": tokens * kept * number / layout.tensor,
        "logits": tokens * config.vocab_size * 12 / layout.tensor,  # float32: log-probabilities, their gradient, the scores' gradient
    }
    return bytes_of | {"total": sum(bytes_of.values())}


def micro_batches(case: Case, layout: Layout) -> float:
    """How often a copy of the model computes `sequences` texts for one step of `batch` tokens."""
    return case.batch / (layout.data * case.sequences * case.config.max_position_embeddings)


def fitting_layout(case: Case, gpus: int, recompute: bool = False, device: Accelerator = H100, spare: float = 0.1) -> Layout | None:
    """The plainest layout that fits: first more ZeRO, then tensor parallelism inside a node. None: none does.

    No more copies of the model than the batch has texts for: beyond that, more devices would be idle.
    """
    for tensor in (n for n in (1, 2, 4, 8) if n <= min(gpus, device.node)):
        for zero in range(4 if gpus > tensor else 1):
            layout = Layout(gpus, zero, tensor, 1, recompute)
            held = memory(case.config, layout, case.sequences)["total"]
            if micro_batches(case, layout) >= 1 and held <= (1 - spare) * device.memory:
                return layout
    return None


def traffic(case: Case, layout: Layout, device: Accelerator = H100, mfu: float = MFU[1]) -> float:
    """Seconds of data-parallel exchange for each second of computing in a step, were none of it hidden behind the other.

    2 numbers a parameter (Rajbhandari et al. 2020, section 7) once a step, where whole gradients may pile up over micro-batches; ZeRO-2
    scatters them at each micro-batch, and ZeRO-3 gathers the weights twice there as well.
    """
    parts = micro_batches(case, layout)
    numbers = (2, 2, 1 + parts, 3 * parts)[layout.zero] * parameters(case.config) / (layout.tensor * layout.pipeline)
    exchanging = numbers * 2 * (layout.data - 1) / layout.data / (device.inside if layout.gpus <= device.node else device.outside)
    return exchanging / (case.batch / layout.gpus * flops_per_token(case.config) / (device.flops * mfu))


# --- a plan --------------------------------------------------------------------------------------------------------------


def plan(
    case: Case, gigabytes: float, bytes_per_char: float, chars_per_token: float, days: float = DAYS, device: Accelerator = H100,
    mfu: Sequence[float] = MFU, checkpoints: int = 3,
) -> dict:
    """What training `case` on so much text takes, on the fewest devices (a power of 2) that fit it and are done in `days`;
    more devices rather than recomputation, which costs a third more device-hours.

    The text is read until 20 tokens a parameter are seen (Hoffmann et al. 2022), at least once, at most four times (Muennighoff et al.
    2023: up to there a repetition is worth nearly as much as new text). `hours`, `cost`: at each `mfu`; the days at the middle one.
    Raises WorkshopError where 4,096 devices are not enough.
    """
    count, unique = parameters(case.config), text_tokens(gigabytes, bytes_per_char, chars_per_token)
    epochs = min(max(20 * count / unique, 1.0), 4.0)
    operations = epochs * unique * flops_per_token(case.config)
    for recompute, gpus in ((again, 2**n) for again in (False, True) for n in range(13)):
        layout = fitting_layout(case, gpus, recompute, device)
        hours = [operations * (4 / 3 if recompute else 1) / (device.flops * share) / 3_600 for share in mfu]  # one more forward pass
        if layout is not None and hours[1] / gpus <= days * 24:
            break
    else:
        raise WorkshopError(f"{device.name} 4,096개로도 {case.name}을(를) {days:g}일 안에 끝내지 못한다. 글이나 모델을 줄인다.")
    stored = {
        "text": gigabytes * 1e9,
        "ids": unique * (2 if case.config.vocab_size <= 2**16 else 4),  # as `packing` writes them
        "checkpoints": checkpoints * 12.0 * count,  # float32 weights and two moments
        "model": 2.0 * count,
    }
    return {
        "case": case, "gigabytes": gigabytes, "parameters": count, "unique": unique, "epochs": epochs, "tokens": epochs * unique,
        "ratio": epochs * unique / count, "operations": operations, "hours": hours, "layout": layout, "days": hours[1] / layout.gpus / 24,
        "memory": memory(case.config, layout, case.sequences), "traffic": traffic(case, layout, device, mfu[1]), "storage": stored,
        "cost": [each * device.price for each in hours],
    }  # fmt: skip


# --- the document --------------------------------------------------------------------------------------------------------


def measured() -> dict:
    """What `benchmarks/scaling_points.py` measured (text, own runs) and what others published of their training speed."""
    found = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
    return found | {"runs": [OwnRun(**row | {"config": TransformerConfig(**row["config"])}) for row in found["runs"]]}


def document() -> str:
    """`docs/scaling.md`: every number of every table from the functions above."""
    from jinja2 import Environment, StrictUndefined

    known = measured()
    text = known["bytes_per_char"], known["chars_per_token"][str(get_profile("gpu").tokenizer.vocab_size)]
    (base, other), largest = known["runs"], CASES[-1]
    layouts = [Layout(1), *(Layout(8, zero) for zero in range(4)), Layout(8, 3, recompute=True), Layout(8, 0, 8), Layout(8, 0, 2, 4)]
    jinja = Environment(trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined, keep_trailing_newline=True)
    jinja.filters |= {"short": short, "placed": placed}
    return jinja.from_string(Path(__file__).with_suffix(".md").read_text(encoding="utf-8")).render(
        known=known, cases=CASES, device=H100, mfu=MFU, days=DAYS, text=text, largest=largest, base=base, other=other,
        parameters=parameters, flops=flops_per_token, cache=cache_bytes, peak_share=model_flops_utilization, micro_batches=micro_batches,
        plans=[plan(case, size, *text) for case in CASES for size in (10, 100)],
        layouts=[(layout, memory(largest.config, layout, largest.sequences)) for layout in layouts],
        foretold=base.tokens_per_s * flops_per_token(base.config, base.context) / flops_per_token(other.config, other.context),
        held=[(run, memory(run.config, Layout(), run.sequences, run.context, number=4)["total"]) for run in known["runs"]],
    )  # fmt: skip


def short(number: float) -> str:
    """Three digits and a Korean unit: 12.4억, 3.60조; below ten thousand as it is."""
    for size, unit in ((1e12, "조"), (1e8, "억"), (1e4, "만")):
        if abs(number) >= size:
            return short(number / size) + unit
    return f"{number:,.{max(0, 2 - math.floor(math.log10(abs(number)))) if number else 0}f}"


def placed(layout: Layout) -> str:
    """A layout in a few words."""
    copies = "DDP" if layout.zero == 0 else f"ZeRO-{layout.zero}"
    parts = [f"TP {layout.tensor}"] * (layout.tensor > 1) + [f"PP {layout.pipeline}"] * (layout.pipeline > 1)
    return " + ".join(parts + [copies] * (layout.data > 1) + ["재계산"] * layout.recompute) or "나누지 않음"


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8")
    print(document(), end="")
