"""The recipes before the tools' own judges: configuration classes, schedulers, readers; and three of them run, on two processes.

What runs here runs under a shim that gives the CPU to code that names CUDA (cpu_shim.py), and in float32.
"""

import dataclasses
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from workshop_lib import recipe_folder
from workshop_lib.optimization import schedule
from workshop_lib.profile import PROFILES, get_profile, with_settings
from workshop_lib.recipes import Places, recipes
from workshop_lib.workspace import Workspace

pytestmark = pytest.mark.nvidia
REASON = "`make test-nvidia`의 환경에서만 돈다"
SHIM = Path(__file__).with_name("cpu_shim.py")


def tool(name):
    """The module, or a skip."""
    return pytest.importorskip(name, reason=REASON, exc_type=ImportError)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """(workspace, folder of recipes): a small model and tokenizer on the help desk's words, and everything that they read."""
    from workshop_lib.architectures.transformer import Transformer
    from workshop_lib.checkpoints import save_model
    from workshop_lib.corpora import desk
    from workshop_lib.pretraining import model_config
    from workshop_lib.tokenization import SPECIAL_TOKENS, train_whole_char_bpe, wrap

    home = tmp_path_factory.mktemp("home")
    profile = with_settings(
        get_profile("tiny"), "base_model", hidden_size=64, layers=2, heads=1, kv_heads=1, intermediate_size=128, steps=30, batch_size=16,
        context=64, evaluate_every=15, checkpoint_every=30, warmup_steps=5, learning_rate=5e-3,
    )
    profile = with_settings(profile, "task_model", bundled_rows=160, bundled_held_out=64, epochs=1, max_length=64)
    profile = with_settings(profile, "alignment", conversations=160, held_out=32, pairs=40, held_out_pairs=20, sft_steps=16, sft_batch=16)
    texts = [message["content"] for row in desk.conversations(400) for message in row["messages"]]
    tokenizer = wrap(train_whole_char_bpe(texts, 600, SPECIAL_TOKENS), 64)
    tokenizer.save_pretrained(home / "tokenizer")
    save_model(Transformer(model_config(profile.base_model, len(tokenizer)), seed=0), tokenizer, home / "base_model")
    (home / "corpus").mkdir()
    recipe_folder.write_rows(home / "corpus" / "train.jsonl", [{"text": text} for text in texts])
    recipe_folder.write_rows(home / "corpus" / "validation.jsonl", [{"text": text} for text in texts[-200:]])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Workspace, "status", lambda self, stage: "ready" if (self.home / stage).is_dir() else "missing")
        workspace = Workspace(home, profile)
        recipe_folder.write(workspace, home / "recipes", say=lambda _: None)
    return workspace, home / "recipes"


# ---------------------------------------------------------------------------------------------- configuration


@pytest.mark.parametrize("name", ["pretrain", "classify_lora", "chat_lora"])
def test_automodel_takes_every_section(home, name, monkeypatch):
    monkeypatch.chdir(home[1])
    loader = tool("nemo_automodel.components.config.loader")
    typed = importlib.import_module("nemo_automodel.recipes._typed_config")
    names = importlib.import_module("nemo_automodel.cli.utils")
    parallel = importlib.import_module("nemo_automodel.recipes._dist_utils")
    raw = loader.load_yaml_config(home[1] / "automodel" / f"{name}.yaml")
    config = typed.RecipeConfig(raw)
    assert names.resolve_recipe_name(raw.recipe).startswith("nemo_automodel.recipes.llm.")
    for section in ("step_scheduler", "lr_scheduler", "optimizer", "checkpoint", "dataloader"):
        assert dataclasses.is_dataclass(getattr(config, section)), section
    assert list(config.validation_dataloaders) == ["default"]
    if name != "classify_lora":
        assert config.loss_fn.build() is not None
    if name != "pretrain":
        peft = config.peft.instantiate()
        assert peft.dim == home[0].profile.task_model.rank and len(peft.target_modules) == 7 + (name == "classify_lora")
    if name == "classify_lora":
        assert config.freeze_config.unfreeze_modules == []  # not its default, which looks for a "classifier"
    parallel.parse_distributed_section(raw.distributed.to_dict())


def test_automodels_shape_is_the_base_models(home):
    loader = tool("nemo_automodel.components.config.loader")
    from transformers import AutoConfig

    shape = loader.load_yaml_config(home[1] / "automodel" / "pretrain.yaml").model.config.instantiate().to_dict()
    saved = AutoConfig.from_pretrained(home[0].home / "base_model").to_dict()
    assert {key for key in saved if saved[key] != shape.get(key)} <= {"_name_or_path", "dtype", "transformers_version"}


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_the_schedule_is_the_courses(profile):
    """Megatron's scheduler, of which NeMo AutoModel has a copy, is never further away than one step's change."""
    import torch

    optim = tool("nemo_automodel.components.optim.optimizer")
    settings = profile.base_model
    recipe = next(r.content for r in recipes(profile, Places("H", "R")) if r.path == "automodel/pretrain.yaml")
    stepper = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=settings.learning_rate)
    steps = type("Steps", (), {"epoch_len": settings.steps, "num_epochs": 1, "max_steps": settings.steps})
    [scheduler] = optim.LRSchedulerConfig(**recipe["lr_scheduler"]).build(stepper, steps)
    theirs = []
    for _ in range(settings.steps):
        theirs.append(stepper.param_groups[0]["lr"])
        scheduler.step(1)
    ours = [schedule(step, settings) for step in range(settings.steps)]
    change = max(abs(a - b) for a, b in zip(ours, ours[1:]))
    assert max(abs(a - b) for a, b in zip(ours, theirs)) <= 1.01 * change


def test_a_korean_folder_reaches_both_readers(tmp_path, monkeypatch):
    """OmegaConf (Megatron-Bridge, NeMo RL) and NeMo AutoModel's own reader find the folder that the recipes were written with."""
    OmegaConf = tool("omegaconf").OmegaConf

    loader = tool("nemo_automodel.components.config.loader")
    monkeypatch.delenv("WORKSHOP_HOME", raising=False)
    monkeypatch.delenv("WORKSHOP_RECIPES", raising=False)
    home, folder = tmp_path / "홍길동의 산출물", tmp_path / "레시피"
    for recipe in recipes(get_profile("tiny"), Places.of(home, folder)):
        if recipe.path.startswith("serve"):
            continue
        if recipe.path.startswith("automodel"):
            found = loader.resolve_yaml_env_vars(recipe.content)
        else:
            found = OmegaConf.to_container(OmegaConf.create(recipe.content), resolve=True)
        text = json.dumps(found, ensure_ascii=False)
        assert f'"{folder}/' in text and "oc.env" not in text, recipe.path
        assert f'"{home}/' in text or recipe.path.endswith("classify_lora.yaml"), recipe.path


def test_megatron_cores_classes_have_the_fields(home):
    OmegaConf = tool("omegaconf").OmegaConf

    tool("megatron.core")
    recipe = OmegaConf.to_container(OmegaConf.load(home[1] / "megatron" / "pretrain.yaml"), resolve=True)
    places = {"optimizer": ("megatron.core.optimizer", "OptimizerConfig"),
              "ddp": ("megatron.core.distributed", "DistributedDataParallelConfig"),
              "dataset": ("megatron.core.datasets.gpt_dataset", "GPTDatasetConfig")}  # fmt: skip
    bridge = {"seq_length", "dataloader_type", "num_workers"}  # of Megatron-Bridge's own subclass of GPTDatasetConfig
    for section, (module, name) in places.items():
        fields = {field.name for field in dataclasses.fields(getattr(importlib.import_module(module), name))}
        assert set(recipe[section]) - (bridge if section == "dataset" else set()) <= fields, section
    optimizer = importlib.import_module("megatron.core.optimizer").OptimizerConfig(**recipe["optimizer"])
    assert optimizer.lr == home[0].profile.base_model.learning_rate


def test_megatron_bridges_classes_take_every_section(home):
    config = tool("megatron.bridge.training.config")
    launcher = importlib.util.spec_from_file_location("launcher", home[1] / "megatron" / "pretrain.py")
    module = importlib.util.module_from_spec(launcher)
    launcher.loader.exec_module(module)
    assert isinstance(module.read(home[1] / "megatron" / "pretrain.yaml"), config.ConfigContainer)


# ---------------------------------------------------------------------------------------------- data


@pytest.mark.parametrize("module", ["megatron.core.datasets.indexed_dataset",
                                    "nemo_automodel.components.datasets.llm.megatron.indexed_dataset"])  # fmt: skip
def test_the_token_files_open(home, module):
    from transformers import AutoTokenizer

    indexed = tool(module)
    workspace, folder = home
    data = indexed.IndexedDataset(str(folder / "data" / "tokens_validation"))
    tokenizer = AutoTokenizer.from_pretrained(workspace.home / "tokenizer")
    texts = {json.loads(line)["text"] for line in (workspace.home / "corpus" / "validation.jsonl").read_text("utf-8").splitlines()}
    assert {tokenizer.decode(data[n][1:-1]) for n in range(len(data))} == texts


# ---------------------------------------------------------------------------------------------- runs


def run(home, name):
    """The training log of a recipe, run by torchrun in two processes on the CPU; its folder of checkpoints."""
    workspace, folder = home
    places = {"WORKSHOP_HOME": str(workspace.home), "WORKSHOP_RECIPES": str(folder)}
    environment = os.environ | places | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(SHIM),
               str(folder / "automodel" / f"{name}.yaml"), "--dist_env.backend", "gloo"]  # fmt: skip
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4_000:]
    out = folder / "checkpoints" / name
    return [json.loads(line) for line in (out / "training.jsonl").read_text("utf-8").splitlines()], out


@pytest.mark.slow
def test_pretraining_runs_and_leaves_a_hugging_face_folder(home):
    tool("nemo_automodel")
    import torch
    from transformers import AutoModelForCausalLM

    log, out = run(home, "pretrain")
    assert len(log) == home[0].profile.base_model.steps
    assert log[-1]["loss"] < log[0]["loss"] - 1
    [*_, check] = [json.loads(line) for line in (out / "validation.jsonl").read_text("utf-8").splitlines()]
    assert check["num_label_tokens"] > 0 and check["val_loss"] < log[0]["loss"] - 1
    [saved] = {path.parent for path in out.rglob("*.safetensors") if "consolidated" in path.parts}
    model = AutoModelForCausalLM.from_pretrained(saved)
    assert torch.isfinite(model(torch.tensor([[1, 20, 30]])).logits).all()


@pytest.mark.slow
def test_the_classifiers_lora_runs_and_its_head_learns(home):
    tool("nemo_automodel")
    from safetensors import safe_open

    log, out = run(home, "classify_lora")
    assert len(log) == home[0].profile.task_model.bundled_rows // home[0].profile.task_model.batch_size
    names = [name for path in out.rglob("*.safetensors") for name in safe_open(path, "np").keys()]  # noqa: SIM118
    assert any("q_proj.lora_A" in name for name in names) and any("score.lora_B" in name for name in names)


@pytest.mark.slow
def test_chat_lora_runs(home):
    tool("nemo_automodel")
    log, _ = run(home, "chat_lora")
    assert log[-1]["loss"] < log[0]["loss"]
