"""One budget for seven architectures; memory, time and exponents; the stage and its resumption."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from workshop_lib import WorkshopError, comparison, optimization, throughput
from workshop_lib.architectures import families
from workshop_lib.architectures.language_model import state_bytes
from workshop_lib.packing import encode, validation_windows
from workshop_lib.profile import PROFILES
from workshop_lib.workspace import Job

SETTINGS = replace(
    PROFILES["tiny"].comparison, parameters=60_000, width=32, layers=2, context=32, batch_size=4, steps=4, evaluate_every=2,
    lengths=(16, 32, 64), repeats=1, stream_tokens=128, streams=2, validation_chars=400, warmup_steps=1,
)  # fmt: skip
NAMES = tuple(families.TITLES)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def small(name: str, seed: int = 0):
    return families.build_model(name, 300, SETTINGS.parameters, SETTINGS.width, SETTINGS.layers, 200, seed)


# --- one budget ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("name", NAMES)
def test_every_architecture_meets_the_budget_of_every_profile(profile, name):
    settings = PROFILES[profile].comparison
    with torch.device("meta"):
        model = families.build_model(
            name, PROFILES[profile].tokenizer.vocab_size, settings.parameters, settings.width, settings.layers
        )
    assert model.num_parameters() == pytest.approx(settings.parameters, rel=families.TOLERANCE)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_model(name):
    a, b, c = small(name), small(name), small(name, seed=1)
    ids = torch.arange(20).unsqueeze(0)
    assert torch.equal(a(ids), b(ids)) and not torch.equal(a(ids), c(ids))


def test_unknown_names_and_impossible_budgets_are_refused():
    with pytest.raises(WorkshopError, match="'lstm'은"):
        families.build_model("lstm", 300, 60_000, 32, 2)
    with pytest.raises(WorkshopError, match="맞출 수 없다"):
        families.build_model("transformer", 300, 5_000, 32, 2)


def test_a_hybrid_is_mostly_mamba_with_islands():
    for layers in range(1, 20):
        letters = families.pattern(layers)
        assert letters.count("M") == layers and letters.count("*") == max(layers // 4, 1)
    assert families.pattern(3) == "M-M*-M-"


# --- the optimiser's groups ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_has_one_optimiser_and_only_matrices_are_made_orthogonal(name):
    model = small(name)
    adamw, muon = optimization.optimizers(model, SETTINGS)
    of = {id(p): n for n, p in model.named_parameters()}
    orthogonal = {of[id(p)] for group in muon.param_groups for p in group["params"]}
    rest = [of[id(p)] for group in adamw.param_groups for p in group["params"]]
    assert len(rest) == len(set(rest)) and orthogonal.isdisjoint(rest) and orthogonal | set(rest) == set(of.values())
    assert all(p.ndim >= 2 and "conv" not in n and "embed" not in n and "A_log" not in n
               for n, p in model.named_parameters() if n in orthogonal)  # fmt: skip
    still = {of[id(p)] for group in adamw.param_groups if not group["weight_decay"] for p in group["params"]}
    assert all(n in still for n in of.values() if n.endswith("A_log"))


def test_a_stack_of_matrices_steps_as_its_matrices_do():
    torch.manual_seed(0)
    stack = torch.nn.Parameter(torch.randn(3, 8, 5))
    single = [torch.nn.Parameter(matrix.clone()) for matrix in stack.detach()]
    stack.grad = torch.randn(3, 8, 5)
    for matrix, gradient in zip(single, stack.grad):
        matrix.grad = gradient.clone()
    for parameters in ([stack], single):
        optimization.Muon(parameters, lr=0.1).step()
    torch.testing.assert_close(stack.detach(), torch.stack([matrix.detach() for matrix in single]), rtol=1e-5, atol=1e-6)


# --- memory and time -------------------------------------------------------------------------------------------


def test_peak_memory_counts_what_is_alive_together():
    def run():
        a = torch.zeros(100_000)
        b = torch.zeros(100_000)
        del a
        c = torch.zeros(50_000)
        return b, c

    assert throughput.peak_memory(run) == pytest.approx(800_000, abs=1_000)
    assert throughput.peak_memory(lambda: None) == 0


def test_training_memory_grows_with_the_batch_and_leaves_the_model_alone():
    model = small("transformer")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    ids = torch.randint(300, (8, 33), generator=torch.Generator().manual_seed(0))
    one, eight = (comparison.training_memory(model, SETTINGS, ids[:n, :-1], ids[:n, 1:]) for n in (1, 8))
    assert eight > one > 4 * 4 * model.num_parameters()  # weights, gradients and two moments
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("name", NAMES)
def test_costs_by_length(name):
    model = small(name)
    rows = comparison.length_costs(model, (16, 64), repeats=1)
    assert [row["length"] for row in rows] == [16, 64] and all(row["prefill_s"] > 0 < row["step_s"] for row in rows)
    sizes = [row["state_bytes"] for row in rows]
    assert sizes[1] == 4 * sizes[0] if name in ("transformer", "moe") else sizes[1] == sizes[0] or name == "hybrid"
    assert rows[1]["prefill_mb"] > rows[0]["prefill_mb"] > 0
    assert sizes[0] == state_bytes(model.prefill(torch.zeros(1, 16, dtype=torch.long))[1])


def test_plain_attention_holds_a_square_table():
    rows = comparison.plain_attention_costs(2, 16, (64, 128, 256, 512))
    lengths, held = [row["length"] for row in rows], [row["prefill_mb"] for row in rows]
    assert comparison.fitted_exponent(lengths, held) == pytest.approx(2.0, abs=0.1)


def test_fitted_exponent():
    lengths = [1, 10, 100, 1_000, 10_000]
    assert comparison.fitted_exponent(lengths, [5 * n**1.7 for n in lengths]) == pytest.approx(1.7)
    assert comparison.fitted_exponent(lengths, [9, 9, 1, 10, 100]) == pytest.approx(1.0)  # the short ones do not count
    for wrong in ([(1, 1), (1, 2)], [(1, 0.0), (2, 1.0)]):
        with pytest.raises(WorkshopError, match="지수"):
            comparison.fitted_exponent(*zip(*wrong))


# --- the long stream -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<pad>", "<s>", "</s>"], initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator(["하나 둘 셋 넷 다섯"] * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


def documents(n: int) -> list[dict]:
    words = ("하나", "둘", "셋", "넷", "다섯")
    return [{"text": " ".join(words[(i * k) % 5] for k in range(1, 12 + i % 9)), "source": f"s{i % 3 // 2}"} for i in range(n)]


def test_a_stream_is_one_source_and_counts_its_characters(tokenizer):
    validation = validation_windows(encode(documents(60), tokenizer), 32)
    text = comparison.stream(validation, tokenizer, 100, 3)
    assert text.ids.shape == (3, 101) and text.characters.shape == (3, 100)
    assert (text.ids[0, -1] == text.ids[1, 0]) and text.characters[text.ids[:, 1:] == tokenizer.eos_token_id].sum() == 0
    decoded = tokenizer.decode(text.ids[0, 1:], skip_special_tokens=True)
    assert text.characters[0].sum() == pytest.approx(len(decoded), abs=2)  # at most one is cut at each end
    with pytest.raises(WorkshopError, match="긴 글"):
        comparison.stream(validation, tokenizer, 10**6, 1)


def test_stream_bits_meet_the_loss_and_the_short_reading_starts_anew(tokenizer):
    text = comparison.stream(validation_windows(encode(documents(60), tokenizer), 32), tokenizer, 128, 2)
    model = families.build_model("transformer", len(tokenizer), 60_000, 32, 2, 200)
    rows = comparison.stream_bits(model, text, 32)
    assert [(row["start"], row["stop"]) for row in rows] == [(0, 32), (32, 64), (64, 128)]
    assert rows[0]["bpc"] == pytest.approx(rows[0]["short_bpc"])
    ids = torch.from_numpy(text.ids)
    with torch.no_grad():
        nats = float(model(ids[:, :-1], ids[:, 1:])) * text.characters.size
    total = sum(row["bpc"] * text.characters[:, row["start"] : row["stop"]].sum() for row in rows)
    assert total == pytest.approx(nats / np.log(2), rel=1e-4)


# --- the stage -------------------------------------------------------------------------------------------------


@pytest.fixture
def inputs(tokenizer, tmp_path):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for name, count in (("train", 120), ("validation", 60)):
        rows = "".join(json.dumps({"id": str(i)} | row, ensure_ascii=False) + "\n" for i, row in enumerate(documents(count)))
        (corpus / f"{name}.jsonl").write_text(rows, encoding="utf-8")
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    return {"corpus": corpus, "tokenizer": tmp_path / "tokenizer"}


def test_the_stage_goes_on_where_it_was_interrupted(inputs, tmp_path, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    job = Job(out, inputs, SETTINGS, 0, None)
    done, real = [], comparison.compare

    def compare(name, *arguments):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(name)
        return real(name, *arguments)

    monkeypatch.setattr(comparison, "compare", compare)
    with pytest.raises(KeyboardInterrupt):
        comparison.build(job)
    assert done == list(NAMES[:3])
    monkeypatch.setattr(comparison, "compare", lambda name, *rest: done.append(name) or real(name, *rest))
    metrics = comparison.build(job)
    assert done == list(NAMES)

    for key in ("params", "val_bpc", "train_tokens_per_s", "peak_mb", "prefill_exponent", "decode_state_bytes"):
        assert {f"{key}_{name}" for name in NAMES} <= metrics.keys()
    assert metrics["active_params_moe"] < metrics["params_moe"]
    assert all(np.isfinite(value) for value in metrics.values())
    files = {path.name for path in out.iterdir()}
    assert files == {"curves.jsonl", "lengths.jsonl", "stream.jsonl", "models.json"} | {f"{name}.safetensors" for name in NAMES}
    curves = [json.loads(line) for line in (out / "curves.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(row["name"], row["step"]) for row in curves] == [(name, step) for name in NAMES for step in (2, 4)]

    tokens = torch.arange(30).unsqueeze(0)
    for name in NAMES:
        a, b = (comparison.load_model(out, name) for _ in range(2))
        assert torch.equal(a(tokens), b(tokens)) and a.num_parameters() == metrics[f"params_{name}"]


def test_a_model_that_is_not_there_is_named(tmp_path):
    with pytest.raises(WorkshopError, match="'mamba' 모델"):
        comparison.load_model(tmp_path, "mamba")
