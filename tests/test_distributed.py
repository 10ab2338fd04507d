"""Several processes train as one does: DDP and FSDP2 under torchrun (gloo), their checkpoints in every layout, pretraining and SFT."""

import json
import os
import socket
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
import torchrun_cases as cases
from test_pretraining import TINY, VOCABULARY, tokens

from workshop_lib import WorkshopError, distributed, optimization, packing, posttraining, pretraining
from workshop_lib.alignment import Training, finetune_chat
from workshop_lib.corpora import desk

# Layouts add the same float32 numbers in another order. One process that computes its batch in two parts does so too
# (`test_the_tolerance_…` measures it): its losses, between 4 and 5 nats, differ by 5e-7, which is a float32's last digit there. The
# tolerance is twenty times that, for other processors; a mistake (another batch order, another rate) is hundreds of times as large.
LOSS = 1e-5
WEIGHT = 1e-4
TWO = ["adamw-ddp", "adamw-fsdp", "muon-ddp", "muon-fsdp", "accumulated-fsdp", "bfloat16-fsdp", "sft-ddp", "sft-fsdp", "units-fsdp",
       "cut-ddp", "cut-fsdp", "ddp-to-fsdp", "fsdp-to-ddp", "fsdp-to-fsdp", "one-to-fsdp",
       "parts-cut-ddp", "parts-cut-fsdp", "parts-ddp-to-fsdp", "parts-fsdp-to-ddp", "parts-fsdp-to-fsdp", "parts-one-to-fsdp"]  # fmt: skip
THREE = ["adamw-fsdp", "muon-fsdp", "fsdp-to-fsdp", "parts-fsdp-to-fsdp", "sft-fsdp"]  # 3 share nothing evenly: 64 rows, 2 blocks


@pytest.fixture(autouse=True, scope="module")
def quiet():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def torchrun(processes: int, *arguments: str) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={processes}", "--standalone", *map(str, arguments)]
    done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def one(tmp_path_factory) -> Path:
    """The same runs in one process."""
    folder = tmp_path_factory.mktemp("one")
    found = {f"{name}-one": cases.pretrain(folder, "ddp", f"{name}-one", name, sample=cases.speak) for name in ("adamw", "muon")}
    found |= {"accumulated-one": cases.pretrain(folder, "ddp", "accumulated-one", accumulation=2)}
    found |= {f"bfloat16-one-{n}": cases.pretrain(folder, "ddp", f"bfloat16-one-{n}", dtype="bfloat16", accumulation=n) for n in (1, 2)}
    found |= {"sft-one": cases.sft(folder, "ddp", "sft-one")}
    cases.cut(folder, "ddp", "cut-one")
    cases.cut(folder, "ddp", "parts-cut-one", "")
    for name, values in found.items():
        (folder / f"{name}.json").write_text(json.dumps(values), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def two(tmp_path_factory, one) -> Path:
    folder = tmp_path_factory.mktemp("two")
    for name in ("cut-one.pt", "parts-cut-one"):
        cases.bring(one / name, folder / name)
    torchrun(2, cases.__file__, folder, *TWO)
    return folder


@pytest.fixture(scope="module")
def three(tmp_path_factory, two) -> Path:
    folder = tmp_path_factory.mktemp("three")
    for name in ("cut-fsdp.pt", "parts-cut-fsdp"):
        cases.bring(two / name, folder / name)
    torchrun(3, cases.__file__, folder, *THREE)
    return folder


def curve(folder: Path, name: str, what: str = "losses") -> np.ndarray:
    return np.array(json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))[what])


def weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    return torch.load(folder / f"{name}.pt", weights_only=True)["model"]


def furthest(a: dict, b: dict) -> float:
    """The largest difference of any weight."""
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


# --- in one process --------------------------------------------------------------------------------------------


def test_without_torchrun_nothing_is_spread():
    model = pretraining.new_model(TINY, VOCABULARY).cpu()
    assert distributed.seat() == (0, 1)
    assert all(distributed.spread(model, layout) is model for layout in distributed.LAYOUTS)
    with distributed.gathered(model), distributed.joined():
        assert distributed.mean(torch.tensor(3.0)) == 3


def test_an_unknown_layout_is_refused():
    with pytest.raises(WorkshopError, match="나누는 방식 'zero'"):
        distributed.spread(torch.nn.Linear(2, 2), "zero")


def test_a_batch_that_processes_cannot_share_is_refused(monkeypatch):
    monkeypatch.setattr(pretraining, "seat", lambda: (0, 3))
    with pytest.raises(WorkshopError, match="배치 8줄을 프로세스 3개가"):
        pretraining.train(pretraining.new_model(TINY, VOCABULARY).cpu(), tokens(), TINY, progress=False)
    monkeypatch.setattr("workshop_lib.alignment.seat", lambda: (0, 3))
    with pytest.raises(WorkshopError, match="배치 2줄로는"):
        finetune_chat(pretraining.new_model(TINY, VOCABULARY).cpu(), cases.chats(), Training(1, 2, 1e-3))


def test_more_processes_than_gpus_are_refused(monkeypatch):
    for name, value in (("WORLD_SIZE", "2"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(WorkshopError, match="GPU는 1개"), distributed.joined():
        pytest.fail("프로세스가 모였다")


def test_utilization_is_of_all_processes_peaks_together(monkeypatch):
    record = pretraining.Run(losses=[1.0] * 6, gradient_norms=[1.0] * 6, rates=[1.0] * 6, seconds=2.0, step=6)
    found = []
    for ranks in (1, 4):
        monkeypatch.setattr(pretraining, "seat", lambda ranks=ranks: (0, ranks))
        found.append(pretraining._measure(record, torch.nn.Linear(1, 1), TINY, None, 1e3, 1e9)["mfu"])
    assert found[0] == pytest.approx(6 * TINY.batch_size * TINY.context / 2.0 * 1e3 / 1e9) and found[0] == 4 * found[1]


def test_muon_takes_an_empty_share_of_matrices():
    assert optimization._all_orthogonalized(torch.empty(0, 4, 3), 5).shape == (0, 4, 3)


def test_muon_of_halves_of_a_matrix_would_be_another_algorithm():
    matrices = torch.randn(3, 8, 6, generator=torch.Generator().manual_seed(0))
    halves = torch.cat([optimization.orthogonalized(half) for half in matrices.chunk(2, dim=1)], dim=1)
    assert (halves - optimization.orthogonalized(matrices)).abs().max() > 0.1


def test_the_mean_of_two_means_would_be_another_loss():
    rows = sorted(cases.chats()[:12], key=lambda chat: len(chat[0]))
    loss = torch.rand(12, generator=torch.Generator().manual_seed(0))  # of a token, as if all of a row's were alike
    count = torch.tensor([float(sum(mask[1:])) for _, mask in rows])
    share = [(loss * count)[rank::2].sum() / count[rank::2].sum() for rank in range(2)]
    weighed = [mean * count[rank::2].sum() * 2 / count.sum() for rank, mean in enumerate(share)]
    true = (loss * count).sum() / count.sum()
    assert float(sum(weighed)) / 2 == pytest.approx(float(true), abs=1e-6)
    assert abs(float(sum(share)) / 2 - float(true)) > 1e-3


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_folder_of_parts_goes_on_as_a_file_does(tmp_path, optimizer):
    whole = cases.pretrain(tmp_path, "ddp", "whole", optimizer, checkpoint_every=1)
    cases.pretrain(tmp_path, "ddp", "parts", optimizer, ending="", checkpoint_every=1, stop=5)
    assert [folder.name for folder in (tmp_path / "parts").iterdir()] == ["00000005"]
    (tmp_path / "parts" / "00000006").mkdir()  # a step that was being written when the machine went down
    assert cases.pretrain(tmp_path, "ddp", "parts", optimizer, ending="", checkpoint_every=1)["losses"] == whole["losses"]


def test_a_folder_of_parts_of_other_settings_or_a_damaged_one_is_refused(tmp_path):
    cases.pretrain(tmp_path, "ddp", "parts", "adamw", ending="", checkpoint_every=1, stop=2)
    with pytest.raises(WorkshopError, match="optimizer: adamw → muon"):
        cases.pretrain(tmp_path, "ddp", "parts", "muon", ending="", checkpoint_every=1)
    for part in (tmp_path / "parts").glob("*/*.distcp"):
        part.write_bytes(part.read_bytes()[:100])
    with pytest.raises(WorkshopError, match="읽을 수 없다"):
        cases.pretrain(tmp_path, "ddp", "parts", "adamw", ending="", checkpoint_every=1)


def test_a_full_disk_leaves_the_old_parts_and_nothing_half(tmp_path, monkeypatch):
    cases.pretrain(tmp_path, "ddp", "parts", "adamw", ending="", checkpoint_every=1, stop=2)

    def full(*_, checkpoint_id, **__):
        checkpoint_id.mkdir()
        (checkpoint_id / "__0_0.distcp").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(WorkshopError, match="No space"):
        patch.setattr(torch.distributed.checkpoint, "save", full)
        cases.pretrain(tmp_path, "ddp", "parts", "adamw", ending="", checkpoint_every=1)
    assert [folder.name for folder in (tmp_path / "parts").iterdir()] == ["00000002"]
    assert len(cases.pretrain(tmp_path, "ddp", "parts", "adamw", ending="", checkpoint_every=1)["losses"]) == TINY.steps


def test_of_a_folder_of_parts_only_our_own_old_steps_are_thrown_away(tmp_path):
    for name in ("2024", "20241121", "notes"):
        (tmp_path / "parts" / name).mkdir(parents=True)
        (tmp_path / "parts" / name / "diary.txt").write_text("mine", encoding="utf-8")
    cases.pretrain(tmp_path, "ddp", "parts", "adamw", ending="", checkpoint_every=1, stop=3)
    assert {folder.name for folder in (tmp_path / "parts").iterdir()} == {"2024", "20241121", "notes", "00000003"}


@pytest.mark.parametrize("lines, message", [
    ('{"text": "가"}', "1번째 줄에 대화가 없다"),
    ('{"messages": [{"role": "user", "content": "안녕"}]}', "1번째 줄에는 assistant의 말이 없어"),
    ('{"messages": [{"role": "user", "content": "안녕"}, {"role": "assistant", "content": "네"}]}\n{"messages": "안녕"}', "2번째 줄"),
    ('{"messages": [{"role": "judge", "content": "안녕"}]}', "1번째 줄: "),
    (json.dumps({"messages": [{"role": "user", "content": "가나 " * 900}, {"role": "assistant", "content": "네"}]}), "문맥"),
    ("{", "1번째 줄"),
    (None, "파일이 없다"),
])  # fmt: skip
def test_conversations_from_which_nothing_can_be_learnt_are_named(aligned, tmp_path, lines, message):
    if lines is not None:
        (tmp_path / "chats.jsonl").write_text(lines + "\n", encoding="utf-8")
    with pytest.raises(WorkshopError, match=message):
        posttraining.main([str(aligned), str(tmp_path / "chats.jsonl"), str(tmp_path / "r.json"), "--settings", '{"steps": 1, "batch": 1}'])


def test_sft_of_a_saved_model_on_a_file_of_conversations(aligned, tmp_path):
    from transformers import AutoModelForCausalLM, GenerationConfig

    rows = (json.dumps(row, ensure_ascii=False) for row in desk.conversations(40))
    (tmp_path / "chats.jsonl").write_text("\n".join(rows), encoding="utf-8")
    command = [str(aligned), str(tmp_path / "chats.jsonl"), str(tmp_path / "record.json"), "--model", str(tmp_path / "chat")]
    posttraining.main([*command, "--settings", '{"steps": 12, "batch": 16}'])
    losses = json.loads((tmp_path / "record.json").read_text())["losses"]
    assert len(losses) == 12 and np.isfinite(losses).all() and np.mean(losses[-3:]) < losses[0]
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "chat").num_parameters() > 0
    assert len(GenerationConfig.from_pretrained(tmp_path / "chat").eos_token_id) == 2


@pytest.mark.parametrize("module", [pretraining, posttraining])
def test_the_commands_of_the_documentation_are_understood(module, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        module.main(["--help"])
    known = capsys.readouterr().out
    told = (Path(__file__).parents[1] / "docs" / "distributed.md").read_text(encoding="utf-8").replace("\\\n", " ")
    commands = [line.split(module.__name__)[1] for line in told.splitlines() if f"-m {module.__name__} " in line]
    flags = {word for command in commands for word in command.split() if word.startswith("--")}
    assert "--layout" in flags and all(flag in known for flag in flags)


# --- under torchrun --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_tolerance_is_that_of_adding_in_another_order(one):
    """One process, the batch in two parts: the yardstick. And another batch order is far outside of it."""
    yardstick = np.abs(curve(one, "muon-one") - curve(one, "accumulated-one")).max()
    assert 0 < yardstick < LOSS and 0 < furthest(weights(one, "muon-one"), weights(one, "accumulated-one")) < WEIGHT
    other = pretraining.new_model(cases.SETTINGS, VOCABULARY).cpu()
    losses = pretraining.train(other, tokens(), cases.SETTINGS, seed=1, progress=False).losses
    assert np.abs(curve(one, "adamw-one") - losses).max() > 300 * LOSS


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adamw-ddp", "adamw-fsdp", "muon-ddp", "muon-fsdp", "accumulated-fsdp"])
def test_two_processes_pretrain_as_one_does(one, two, name):
    alone = "muon-one" if name == "accumulated-fsdp" else name.split("-")[0] + "-one"
    assert np.abs(curve(two, name) - curve(one, alone)).max() < LOSS
    assert np.abs(curve(two, name, "norms") / curve(one, alone, "norms") - 1).max() < 1e-3  # clipping sees the whole gradient
    assert np.abs(curve(two, name, "held_out") - curve(one, alone, "held_out")).max() < LOSS
    assert furthest(weights(two, name), weights(one, alone)) < WEIGHT


@pytest.mark.slow
def test_in_bfloat16_two_processes_are_as_far_from_one_as_one_is_from_itself(one, two):
    """Three digits instead of seven: the yardstick says how much the order of adding matters then."""
    whole, parts = (curve(one, f"bfloat16-one-{n}") for n in (1, 2))
    yardstick = np.abs(whole - parts).max()
    assert 0 < np.abs(curve(two, "bfloat16-fsdp") - whole).max() < 5 * yardstick < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adamw-fsdp", "muon-fsdp"])
def test_three_processes_share_what_cannot_be_divided_by_three(one, three, name):
    alone = name.split("-")[0] + "-one"
    assert np.abs(curve(three, name) - curve(one, alone)).max() < LOSS
    assert furthest(weights(three, name), weights(one, alone)) < WEIGHT


@pytest.mark.slow
def test_weights_are_whole_only_while_they_are_needed(two):
    """Every block is a unit of its own: after an evaluation the outermost weights alone stay whole."""
    found = {name: set(curve(two, "units-fsdp", name).tolist()) for name in ("all", "first", "gathered", "afterwards", "evaluated")}
    assert found["first"] == found["afterwards"] == found["all"] and not found["gathered"]
    assert found["evaluated"] == {name for name in found["all"] if ".layers." in name}
    first, *others = curve(two, "units-fsdp", "brought")
    assert first >= len(found["all"]) and others == [0]  # a checkpoint's tensors come together in one process


@pytest.mark.slow
def test_a_sharded_model_can_be_asked_in_the_middle_of_training(one, two):
    assert list(curve(two, "muon-fsdp", "samples")) == list(curve(one, "muon-one", "samples"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["", "parts-"])
@pytest.mark.parametrize("name", ["ddp-to-fsdp", "fsdp-to-ddp", "one-to-fsdp", "fsdp-to-fsdp"])
def test_a_checkpoint_goes_on_in_another_layout(one, two, name, kind):
    begun = name.split("-")[0]
    losses = curve(two, kind + name)
    assert len(losses) == TINY.steps and np.abs(losses - curve(one, "muon-one")).max() < LOSS
    if begun != "one":
        assert losses[: cases.CUT].tolist() == curve(two, f"{kind}cut-{begun}").tolist()  # the first part is what the two wrote
    if not kind:
        assert furthest(weights(two, f"cut-{begun}-then-{name.split('-')[-1]}"), weights(one, "muon-one")) < WEIGHT


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["", "parts-"])
def test_two_processes_then_three(one, three, kind):
    assert np.abs(curve(three, kind + "fsdp-to-fsdp") - curve(one, "muon-one")).max() < LOSS


@pytest.mark.slow
@pytest.mark.parametrize("begun, ending", [("cut-ddp", ".pt"), ("cut-fsdp", ".pt"), ("parts-cut-ddp", ""), ("parts-cut-fsdp", "")])
def test_two_processes_then_one(one, two, tmp_path, begun, ending):
    cases.bring(two / f"{begun}{ending}", tmp_path / f"{begun}{ending}")
    losses = cases.go_on(tmp_path, "ddp", begun, ending)["losses"]
    assert np.abs(np.array(losses) - curve(one, "muon-one")).max() < LOSS
    assert losses[: cases.CUT] == curve(two, begun).tolist()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fsdp-to-fsdp", "parts-fsdp-to-fsdp"])
def test_in_the_same_layout_going_on_is_bit_exact(two, name):
    assert curve(two, name).tolist() == curve(two, "muon-fsdp").tolist()


@pytest.mark.slow
def test_in_the_same_layout_the_weights_are_the_same_too(two):
    assert furthest(weights(two, "cut-fsdp-then-fsdp"), weights(two, "muon-fsdp")) == 0


@pytest.mark.slow
def test_a_checkpoint_does_not_know_its_layout(one, two):
    a, b = (torch.load(path, weights_only=True) for path in (one / "cut-one.pt", two / "cut-fsdp.pt"))
    assert a["identity"] == b["identity"] and a["model"].keys() == b["model"].keys()
    for mine, theirs in zip(a["optimizers"], b["optimizers"]):
        assert mine["param_groups"] == theirs["param_groups"] and mine["state"].keys() == theirs["state"].keys()
        for number, values in mine["state"].items():
            assert {name: value.shape for name, value in values.items()} == {
                name: value.shape for name, value in theirs["state"][number].items()
            }


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sft-ddp", "sft-fsdp"])
def test_two_processes_fine_tune_as_one_does(one, two, name):
    assert np.abs(curve(two, name) - curve(one, "sft-one")).max() < LOSS
    assert np.abs(curve(two, name, "held_out") - curve(one, "sft-one", "held_out")).max() < LOSS
    assert curve(two, name, "said").tolist() == curve(one, "sft-one", "said").tolist()
    assert furthest(weights(two, name), weights(one, "sft-one")) < WEIGHT


@pytest.mark.slow
def test_three_processes_fine_tune_as_one_does(one, three):
    assert np.abs(curve(three, "sft-fsdp") - curve(one, "sft-one")).max() < LOSS


@pytest.mark.slow
def test_two_machines_of_one_process_each_leave_a_model_that_transformers_loads(tmp_path):
    """The command of docs/distributed.md, both machines being this one."""
    from test_pretraining import documents
    from transformers import AutoModelForCausalLM

    tokenizer = word_tokenizer()
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    packing.pack(documents(600), tokenizer, tmp_path / "train.bin")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    run = ["-m", "workshop_lib.pretraining", "train.bin", "record.json", "--layout", "fsdp", "--settings", json.dumps(asdict(TINY)),
           "--tokenizer", "tokenizer", "--model", "model"]  # fmt: skip
    machines = [
        subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", f"--node_rank={rank}", "--nproc_per_node=1",
             "--master_addr=127.0.0.1", f"--master_port={port}", *run],
            cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"},
        )
        for rank in range(2)
    ]  # fmt: skip
    said = [machine.communicate(timeout=300)[1] for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], "\n".join(said)[-3000:]
    losses = json.loads((tmp_path / "record.json").read_text())["losses"]
    alone = pretraining.new_model(TINY, len(tokenizer)).cpu()
    expected = pretraining.train(alone, packing.open_packed(tmp_path / "train.bin").array(), TINY, progress=False).losses
    assert np.abs(np.array(losses) - expected).max() < LOSS
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    ids = torch.arange(5, 25)[None]
    assert (theirs(ids).logits - alone(ids)).abs().max() < 1e-2


def word_tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<s>", "</s>", "<unk>", "하나", "둘", "셋", "넷", "다섯", *map(str, range(40))]
    model = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    model.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=model, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>")
