"""The arithmetic of scale agrees with real models, with torch's own counters, with runs that were measured, and with its document."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from workshop_lib import WorkshopError, cluster_plan
from workshop_lib.architectures import kernels
from workshop_lib.architectures.transformer import Transformer, TransformerConfig
from workshop_lib.cluster_plan import CASES, H100, Layout, fitting_layout, flops_per_token, memory, plan, text_tokens, traffic
from workshop_lib.comparison import training_memory
from workshop_lib.outlook import parameters
from workshop_lib.profile import get_profile
from workshop_lib.throughput import model_flops_utilization
from workshop_lib.workspace import REPOSITORY

SMALL = TransformerConfig(512, 64, 160, 3, 4, 2, 64)
TEXT = 2.5, 2.2  # bytes a character, characters a token
OWN = {run.name: run for run in cluster_plan.measured()["runs"]}
sizes = st.sampled_from([2**n for n in range(7)])


def test_the_shapes_have_the_published_numbers_of_parameters():
    assert [parameters(case.config) for case in CASES[1:]] == [1_235_814_400, 8_030_261_248]  # model cards of Llama 3.2 and 3.1
    assert parameters(CASES[0].config) == pytest.approx(124e6, rel=0.01)


@pytest.mark.parametrize("config", [SMALL, replace(SMALL, tie_word_embeddings=False), replace(SMALL, num_key_value_heads=4)])
def test_operations_are_those_of_the_model_and_of_torchs_counter(config):
    model, ids = Transformer(config, seed=0), torch.arange(64).repeat(2, 1)
    assert flops_per_token(config) == model.flops_per_token(64)
    with mock.patch.object(kernels, "_by_hand", lambda x: False), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counted:
        model(ids, ids).backward()
    assert counted.get_total_flops() / ids.numel() == pytest.approx(flops_per_token(config), rel=0.02)


@pytest.mark.parametrize("run", OWN.values(), ids=lambda run: run.name)
def test_a_real_step_holds_what_the_formula_says(run):
    """Within 15 % for the definitions that a GPU uses; the course's CPU kernels keep no logits, and less of a SwiGLU."""
    settings = replace(get_profile("tiny").base_model, optimizer="adamw")
    ids = torch.zeros(run.sequences, run.context, dtype=torch.long)
    lean = training_memory(Transformer(run.config, seed=0), settings, ids, ids)
    with mock.patch.object(kernels, "_by_hand", lambda x: False):
        plain = training_memory(Transformer(run.config, seed=0), settings, ids, ids)
    foretold = memory(run.config, Layout(), run.sequences, run.context, number=4)["total"]
    assert plain == pytest.approx(foretold, rel=0.15) and 0.5 * foretold < lean < foretold
    assert run.process_bytes is None or foretold < run.process_bytes  # with Python, libraries and corpus
    assert (plain, lean) == pytest.approx((run.plain_bytes, run.lean_bytes), rel=0.05)  # as the document says


HELD = """
import json, sys
import torch
from workshop_lib import distributed
from workshop_lib.architectures.transformer import Transformer, TransformerConfig

def held(tensors):
    local = [tensor.to_local() if hasattr(tensor, "to_local") else tensor for tensor in tensors]
    return sum(tensor.numel() * tensor.element_size() for tensor in local)

with distributed.joined():
    for layout in ("ddp", "fsdp"):
        model = Transformer(TransformerConfig(**json.loads(sys.argv[1])), seed=0)
        network, ids = distributed.spread(model, layout), torch.arange(64).repeat(2, 1)
        optimizer = torch.optim.AdamW(model.parameters())
        network(ids, ids).backward()
        optimizer.step()
        moments = [value for state in optimizer.state.values() for value in state.values() if value.ndim]
        parts = list(model.parameters()), [p.grad for p in model.parameters()], moments
        if distributed.seat()[0] == 0:
            print("HELD", layout, *map(held, parts), flush=True)
"""


@pytest.mark.slow
def test_two_real_processes_hold_of_the_model_what_the_formula_says(tmp_path):
    """Weights, gradients and moments of the fuller one, under DDP and under FSDP2 (ZeRO-3): gloo, float32."""
    (tmp_path / "held.py").write_text(HELD, encoding="utf-8")
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(tmp_path / "held.py")]
    alone = os.environ | {"OMP_NUM_THREADS": "1"}
    ran = subprocess.run([*run, json.dumps(asdict(SMALL))], capture_output=True, text=True, timeout=300, env=alone)
    found = {line.split()[1]: [int(n) for n in line.split()[2:]] for line in ran.stdout.splitlines() if line.startswith("HELD")}
    assert found, ran.stderr
    for layout, zero in (("ddp", 0), ("fsdp", 3)):
        formula = memory(SMALL, Layout(2, zero), 2, number=4)
        assert found[layout] == [formula[kind] for kind in ("weights", "gradients", "optimizer")]


def test_a_runs_speed_foretells_that_of_another_shape():
    """Within 30 %: narrower matrices are slower on the same cores (here 20 %)."""
    base, other = OWN.values()
    assert cluster_plan.MFU[0] < base.mfu < cluster_plan.MFU[-1]  # on a CPU, of its own peak
    foretold = base.tokens_per_s * flops_per_token(base.config, base.context) / flops_per_token(other.config, other.context)
    assert foretold == pytest.approx(other.tokens_per_s, rel=0.3)


def test_published_speeds_have_the_published_utilization_and_lie_in_the_planned_range():
    for row in cluster_plan.measured()["published"]:
        share = model_flops_utilization(*(row[key] for key in ("tokens_per_s", "parameters", "layers", "width", "context", "peak")))
        assert share == pytest.approx(row["stated_mfu"], abs=0.005)
        assert row["peak"] == H100.flops or "H100" not in row["gpu"]
        assert cluster_plan.MFU[0] < share < cluster_plan.MFU[-1]


@given(st.integers(0, 3), sizes, st.sampled_from([2, 4]))
def test_zero_divides_what_it_says_and_nothing_else(zero, gpus, number):
    whole, shared = (memory(SMALL, Layout(n, zero), 4, number=number) for n in (1, gpus))
    assert whole["weights"] + whole["gradients"] + whole["optimizer"] == 16 * parameters(SMALL)
    for stage, kind in enumerate(("optimizer", "gradients", "weights"), start=1):
        assert shared[kind] == pytest.approx(whole[kind] / (gpus if zero >= stage else 1))
    assert shared["activations"] == whole["activations"] and shared["logits"] == whole["logits"]
    assert shared["total"] == pytest.approx(sum(shared.values()) - shared["total"])


@given(st.integers(1, 8), sizes, st.sampled_from([1, 2, 4, 8]))
def test_recomputing_and_dividing_never_cost_memory(sequences, gpus, tensor):
    config = CASES[1].config
    plain = memory(config, Layout(gpus * tensor, 1, tensor), sequences)
    assert memory(config, Layout(gpus * tensor, 1, tensor, recompute=True), sequences)["total"] < plain["total"]
    assert memory(config, Layout(gpus * tensor * 2, 1, tensor * 2), sequences)["total"] < plain["total"]
    assert memory(config, Layout(gpus * tensor, 1, tensor), sequences + 1)["total"] > plain["total"]


@pytest.mark.parametrize("number", [2, 4])
@pytest.mark.parametrize("tensor", [1, 2])
def test_activations_are_the_tensors_of_a_layer_by_name(number, tensor):
    """Counted by hand for grouped-query attention; recomputing keeps the inputs of all layers and one layer's tensors."""
    width, keys, inner, layers, vocabulary, tokens = 64, 32, 160, 3, 512, 5 * 64
    layer = {"first norm": width, "q, k, v from": width, "q": width, "k": keys, "v": keys, "attended": width, "second norm": width,
             "gate, up from": width, "gate": inner, "up": inner, "silu": inner, "product": inner}  # fmt: skip
    found = memory(SMALL, Layout(tensor, 0, tensor), 5, number=number)
    assert found["activations"] == tokens * (layers * sum(layer.values()) + 2 * width) * number / tensor
    again = memory(SMALL, Layout(tensor, 0, tensor, recompute=True), 5, number=number)
    assert again["activations"] == tokens * (layers * width + sum(layer.values()) + 2 * width) * number / tensor
    assert found["logits"] == again["logits"] == tokens * vocabulary * 3 * 4 / tensor
    gathered = memory(SMALL, Layout(4 * tensor, 3, tensor), 5, number=number)["gathered"]
    block = sum(p.numel() for p in Transformer(SMALL).model.layers[0].parameters())
    assert gathered == 2 * block * number / tensor and block > vocabulary * width and found["gathered"] == 0
    wide = memory(replace(SMALL, vocab_size=5_000), Layout(4 * tensor, 3, tensor), 5, number=number)["gathered"]
    assert wide == 2 * 5_000 * width * number / tensor  # the table is the larger unit


@pytest.mark.parametrize("config", [case.config for case in CASES], ids=[case.name for case in CASES])
@pytest.mark.parametrize("stages", [1, 2, 4])
def test_the_fullest_stage_of_a_pipeline_has_the_embeddings_too(config, stages):
    """The stages of transformers' own model: the first has the embeddings, the last the norm and its output layer."""
    from transformers import LlamaForCausalLM

    with torch.device("meta"):
        model = LlamaForCausalLM(config.to_hf(bos_token_id=1, eos_token_id=2, pad_token_id=0))
    counted = [sum(p.numel() for p in layer.parameters()) for layer in model.model.layers]
    each = len(counted) // stages
    held = [sum(counted[stage * each : (stage + 1) * each]) for stage in range(stages)]
    held[0] += model.model.embed_tokens.weight.numel()
    held[-1] += model.model.norm.weight.numel()
    if stages > 1 or not config.tie_word_embeddings:
        held[-1] += model.lm_head.weight.numel()
    found = memory(config, Layout(stages, 0, 1, stages), 1)
    assert [found["weights"], found["optimizer"]] == [2 * max(held), 12 * max(held)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_copies_of_the_model_are_no_more_than_the_batch_has_texts(case):
    found = plan(case, 2_000, *TEXT, days=2)
    assert case.batch >= found["layout"].data * case.sequences * case.config.max_position_embeddings
    texts = case.batch // (case.sequences * case.config.max_position_embeddings)
    assert fitting_layout(replace(case, sequences=case.sequences * texts * 2), 1) is None
    assert fitting_layout(case, 2 * texts).tensor > 1  # more devices than texts: they share a copy


def test_what_is_stored_is_what_the_course_writes():
    by_name = {case.name: plan(case, 10, *TEXT) for case in CASES}
    assert by_name["124 M"]["storage"]["ids"] == 2 * by_name["124 M"]["unique"]  # uint16
    assert by_name["8 B"]["storage"]["ids"] == 4 * by_name["8 B"]["unique"]  # uint32: 128,256 tokens
    for found in by_name.values():
        assert found["storage"]["checkpoints"] == 3 * 3 * 4 * found["parameters"] and found["storage"]["model"] == 2 * found["parameters"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@given(size=st.floats(1, 1_000), days=st.floats(2, 60))
def test_a_plan_keeps_its_promises(case, size, days):
    found = plan(case, size, *TEXT, days=days)
    layout = found["layout"]
    assert found["memory"]["total"] <= 0.9 * H100.memory and found["days"] <= days * (1 + 1e-9)
    assert 1 <= found["epochs"] <= 4 and found["ratio"] == pytest.approx(found["tokens"] / found["parameters"])
    assert found["ratio"] == pytest.approx(20) or found["epochs"] in (1, 4)
    seconds = found["operations"] / (0.4 * H100.flops)
    assert not layout.recompute  # only where nothing else fits
    assert found["hours"][1] == pytest.approx(seconds / 3_600) and found["hours"] == sorted(found["hours"], reverse=True)
    assert found["cost"][1] == pytest.approx(found["hours"][1] * H100.price)
    if layout.gpus > 1 and fitting_layout(case, layout.gpus // 2):
        assert seconds / 86_400 / (layout.gpus // 2) > days * (1 - 1e-9)


def test_recomputing_is_the_last_resort_and_costs_a_third_more():
    case, card = CASES[-1], replace(H100, memory=12e9, node=1)
    found, usual = plan(case, 10, *TEXT, device=card, days=1_000), plan(case, 10, *TEXT)
    assert found["layout"].recompute and found["memory"]["total"] <= 0.9 * card.memory
    assert found["hours"][1] == pytest.approx(usual["hours"][1] * 4 / 3)


@pytest.mark.parametrize("numbers", [(0,), (4, 0, 3), (2, 0, 8), (8, 0, 2, 8), (8, 4), (8, -1)])
def test_a_layout_that_cannot_be_is_refused(numbers):
    with pytest.raises(WorkshopError, match="나눌 수 없다"):
        Layout(*numbers)


def test_what_cannot_be_done_in_time_is_said():
    with pytest.raises(WorkshopError, match="4,096"):
        plan(CASES[-1], 1e6, *TEXT, days=0.01)
    with pytest.raises(WorkshopError, match="0보다"):
        text_tokens(10, 0, 2)


def test_text_is_counted_by_bytes():
    text = "나는 학교에 간다. " * 1_000
    tokens = text_tokens(len(text.encode()) / 1e9, len(text.encode()) / len(text), 2.0)
    assert tokens == pytest.approx(len(text) / 2)


def test_exchange_grows_with_the_group_and_shrinks_with_the_batch():
    case = CASES[1]
    assert traffic(case, Layout(1)) == 0
    assert 0 < traffic(case, Layout(2)) < traffic(case, Layout(8)) < traffic(case, Layout(16))
    parts = case.batch / (8 * case.sequences * 2_048)  # micro-batches of a step, each of which ZeRO-3 gathers weights for
    assert traffic(case, Layout(8, 3)) == pytest.approx(1.5 * parts * traffic(case, Layout(8, 1)))
    assert traffic(case, Layout(8, 1)) < traffic(case, Layout(8, 2)) < traffic(case, Layout(8, 3))
    assert traffic(case, Layout(8, 2)) == pytest.approx((1 + parts) / 2 * traffic(case, Layout(8, 1)))
    computing = case.batch / 8 * flops_per_token(case.config) / (0.4 * 989.4e12)
    assert traffic(case, Layout(8)) == pytest.approx(2 * parameters(case.config) * 2 * 7 / 8 / 450e9 / computing)  # bf16, NVLink
    computing, slow = computing / 2, 2 * parameters(case.config) * 2 * 15 / 16 / 50e9
    assert traffic(case, Layout(16)) == pytest.approx(slow / computing)
    assert traffic(replace(case, batch=2 * case.batch), Layout(8)) == pytest.approx(traffic(case, Layout(8)) / 2)


def test_numbers_are_read_by_people():
    assert [cluster_plan.short(n) for n in (0, 3.14159, 999, 12_345, 1.5e8, 2.3e12)] == ["0", "3.14", "999", "1.23만", "1.50억", "2.30조"]
    assert cluster_plan.placed(Layout(8, 3, recompute=True)) == "ZeRO-3 + 재계산"
    assert cluster_plan.placed(Layout(8, 0, 2, 4)) == "TP 2 + PP 4" and cluster_plan.placed(Layout()) == "나누지 않음"


def test_the_document_is_what_the_command_writes():
    assert (REPOSITORY / "docs" / "scaling.md").read_text(encoding="utf-8") == cluster_plan.document()
    rows = [line for line in cluster_plan.document().splitlines() if line.startswith("|")]
    assert rows and not any("nan" in row or "inf" in row for row in rows)
