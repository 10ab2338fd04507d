"""Weeks 5, 6, 8, 9: the profile's numbers as recipes of NVIDIA's tools, and the data in the forms that they read.

Notable choices
- A recipe holds the profile's numbers and nothing that the profile could say; what a tool cannot do (Muon, replay in DPO) the file
  itself says in its first lines.
- Places are `${oc.env:NAME,default}`, which NeMo AutoModel and OmegaConf (Megatron-Bridge, NeMo RL) both read: the folder moves into a
  container with two variables, WORKSHOP_RECIPES and WORKSHOP_HOME.
- The tools' own classes judge the files (tests/nvidia); here nothing of them is imported.
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path

from workshop_lib import WorkshopError
from workshop_lib.profile import Profile

MICRO_BATCH = 8  # rows that one device computes at once, at most: what the tools accumulate up to the profile's batch
SHARE = 0.3  # of a GPU's memory for a server's cache: the models of the course are small, and a notebook wants some too
TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}  # `tokenization.SPECIAL_TOKENS`
NEMO_RL = "/opt/nemo-rl"  # where NVIDIA's container of NeMo RL has it; WORKSHOP_NEMO_RL says another place


@dataclass(frozen=True)
class Places:
    """How recipes name the two folders: as an environment variable, with the folder of this machine where it is not set."""

    home: str
    recipes: str

    @classmethod
    def of(cls, home: Path, folder: Path) -> Places:
        """The places for a workspace and a folder of recipes. Raises WorkshopError for a path that the tools would misread."""
        for path in (home, folder):
            if set("${},'\\") & set(path.as_posix()):
                raise WorkshopError(f"폴더 이름 {path}에 $ {{ }} , ' \\ 가운데 하나가 있어 레시피에 적을 수 없다. 다른 폴더를 쓴다.")
        return cls(f"${{oc.env:WORKSHOP_HOME,{home.as_posix()}}}", f"${{oc.env:WORKSHOP_RECIPES,{folder.as_posix()}}}")

    def quoted(self) -> Places:
        """The same for OmegaConf, which takes Korean letters and most signs in a default only between quotes (NeMo AutoModel would keep
        the quotes)."""
        return Places(*(re.sub(r"^(\$\{oc\.env:\w+,)(.*)\}$", r"\1'\2'}", name) for name in (self.home, self.recipes)))

    def data(self, name: str) -> str:
        """A file of the recipes' data folder."""
        return f"{self.recipes}/data/{name}"


@dataclass(frozen=True)
class Recipe:
    """One recipe file. `needs`: artefacts of the workspace that it reads; `command`: what starts it, in the folder of recipes;
    `note`: how it differs from what the course itself does."""

    path: str
    week: int
    tool: str
    about: str
    command: str
    content: dict
    needs: tuple[str, ...] = ()
    note: tuple[str, ...] = ()


# ---------------------------------------------------------------------------------------------- NeMo AutoModel


def pretrain(profile: Profile, vocab_size: int, places: Places) -> dict:
    """Week 5 with NeMo AutoModel: the base model from random weights, sharded over all devices by FSDP2."""
    settings = profile.base_model

    def tokens(split: str) -> dict:
        return {
            "_target_": "nemo_automodel.components.datasets.llm.megatron_dataset.MegatronPretraining",
            "paths": {name: [places.data(f"tokens_{name}")] for name in ("train", "validation")},
            "index_mapping_dir": f"{places.recipes}/cache",
            "seq_length": settings.context,
            "seed": profile.seed,
            "trainer_limit_val_batches": 1.0,  # all of it
            "splits_to_build": split,
            "tokenizer": {"_target_": "transformers.AutoTokenizer.from_pretrained",
                          "pretrained_model_name_or_path": f"{places.home}/tokenizer"},
        }  # fmt: skip

    loader = {"collate_fn": "torch.utils.data.default_collate"}
    return {
        "recipe": "TrainFinetuneRecipeForNextTokenPrediction",
        "seed": profile.seed,
        "step_scheduler": _steps(settings.batch_size, settings.accumulation) | {
            "max_steps": settings.steps, "num_epochs": 1,
            "ckpt_every_steps": settings.checkpoint_every, "val_every_steps": settings.evaluate_every,
        },
        "model": {
            "_target_": "nemo_automodel.NeMoAutoModelForCausalLM.from_config",
            "torch_dtype": "float32",  # of the weights; FSDP2 multiplies in bfloat16
            "config": {"_target_": "transformers.LlamaConfig"} | llama(settings, vocab_size),
        },
        **_common(places, "pretrain", settings.clip),
        "loss_fn": {"_target_": "nemo_automodel.components.loss.masked_ce.MaskedCrossEntropy"},
        "dataset": tokens("train"),
        "dataloader": loader,
        "validation_dataset": tokens("validation"),
        "validation_dataloader": loader,
        "optimizer": _adamw(settings.learning_rate, settings.weight_decay, (settings.beta1, settings.beta2)),
        "lr_scheduler": _schedule(settings),
    }  # fmt: skip


def classify_lora(profile: Profile, places: Places) -> dict:
    """Week 6 with NeMo AutoModel: the sentiment classifier by LoRA on the base model."""
    settings = profile.task_model

    def rows(split: str) -> dict:
        # A target cannot name a variable: it is found from the folder of recipes, where the command is given.
        return {"_target_": "automodel/reviews.py:reviews", "path": places.data(f"reviews_{split}.jsonl"),
                "max_length": settings.max_length}  # fmt: skip

    return {
        "recipe": "TrainFinetuneRecipeForSequenceClassification",
        "seed": profile.seed,
        "step_scheduler": _steps(settings.batch_size) | {"num_epochs": settings.epochs},
        "model": {
            "_target_": "nemo_automodel.NeMoAutoModelForSequenceClassification.from_pretrained",
            # The base model with a new head: NeMo AutoModel 0.7 cannot put one on a folder that has none when several devices load it.
            "pretrained_model_name_or_path": places.data("classifier"),
            "num_labels": 2,
            "torch_dtype": "float32",
        },
        **_common(places, "classify_lora", settings.clip),
        # The head learns by LoRA too (its rank is above the two rows that the head has): a head that is only set free is trained, but
        # its checkpoints leave it out. With nothing to free, freeze_config is empty; without the key, a "classifier" is looked for.
        "peft": _lora(profile, "score"),
        "freeze_config": {"unfreeze_modules": []},
        "dataset": rows("train"),
        "dataloader": _loader(shuffle=True),
        "validation_dataset": rows("validation"),
        "validation_dataloader": _loader(),
        "optimizer": _adamw(settings.lora_rate, settings.weight_decay, (0.9, 0.98)),
        "lr_scheduler": {"lr_decay_style": "cosine", "init_lr": 0.0, "min_lr": 0.0},  # the warm-up is its default: a tenth
    }


def chat_lora(profile: Profile, places: Places) -> dict:
    """Week 9's supervised fine-tuning with NeMo AutoModel, by LoRA: only what the assistant says is learnt."""
    settings, task = profile.alignment, profile.task_model

    def chats(split: str) -> dict:
        return {
            "_target_": "nemo_automodel.components.datasets.llm.chat_dataset.ChatDataset",
            "path_or_dataset_id": places.data(f"chats_{split}.jsonl"),
            "seq_length": profile.base_model.context,
            "truncation": True,
        }

    return {
        "recipe": "TrainFinetuneRecipeForNextTokenPrediction",
        "seed": profile.seed,
        "step_scheduler": _steps(settings.sft_batch) | {"max_steps": settings.sft_steps, "num_epochs": _epochs(settings)},
        "model": {
            "_target_": "nemo_automodel.NeMoAutoModelForCausalLM.from_pretrained",
            "pretrained_model_name_or_path": f"{places.home}/base_model",
            "torch_dtype": "float32",
        },
        **_common(places, "chat_lora", 1.0),
        "peft": _lora(profile),
        "loss_fn": {"_target_": "nemo_automodel.components.loss.masked_ce.MaskedCrossEntropy"},
        "dataset": chats("train"),
        "dataloader": _loader(shuffle=True),
        "validation_dataset": chats("validation"),
        "validation_dataloader": _loader(),
        "optimizer": _adamw(task.lora_rate, task.weight_decay, (0.9, 0.95)),
        "lr_scheduler": {"lr_decay_style": "cosine", "init_lr": 0.0, "lr_warmup_steps": 10, "min_lr": 0.0},
    }


def llama(settings, vocab_size: int) -> dict:
    """The base model's shape as `transformers.LlamaConfig` takes it."""
    return {
        "vocab_size": vocab_size,
        "hidden_size": settings.hidden_size,
        "intermediate_size": settings.intermediate_size,
        "num_hidden_layers": settings.layers,
        "num_attention_heads": settings.heads,
        "num_key_value_heads": settings.kv_heads,
        "max_position_embeddings": settings.context,
        "rope_parameters": {"rope_type": "default", "rope_theta": settings.rope_theta},
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": settings.tie_embeddings,
        "initializer_range": settings.init_std,
        "architectures": ["LlamaForCausalLM"],
    } | TOKENS


def _steps(batch: int, accumulation: int = 1) -> dict:
    return {"global_batch_size": batch, "local_batch_size": _micro(batch // accumulation)}


def _micro(batch: int) -> int:
    return math.gcd(batch // 2, MICRO_BATCH)  # two devices share a batch evenly, and mostly eight


def _common(places: Places, name: str, clip: float) -> dict:
    return {
        "dist_env": {"backend": "nccl", "timeout_minutes": 10},
        "distributed": {"strategy": "fsdp2", "tp_size": 1, "cp_size": 1},
        "checkpoint": {"enabled": True, "checkpoint_dir": f"{places.recipes}/checkpoints/{name}",
                       "model_save_format": "safetensors", "save_consolidated": True},
        "clip_grad_norm": {"max_norm": clip},
    }  # fmt: skip


def _lora(profile: Profile, *more: str) -> dict:
    settings = profile.task_model
    return {
        "_target_": "nemo_automodel.components._peft.lora.PeftConfig",
        "target_modules": [f"*{name}" for name in (*settings.targets, *more)],
        "dim": settings.rank,
        "alpha": settings.alpha,
    }


def _loader(shuffle: bool = False) -> dict:
    return {"collate_fn": "nemo_automodel.components.datasets.utils.default_collater", "shuffle": shuffle}


def _adamw(rate: float, weight_decay: float, betas: tuple[float, float]) -> dict:
    return {"_target_": "torch.optim.AdamW", "lr": rate, "weight_decay": weight_decay, "betas": list(betas)}


def _schedule(settings) -> dict:
    found = {"init_lr": 0.0, "lr_warmup_steps": settings.warmup_steps, "lr_decay_steps": settings.steps,
             "min_lr": settings.learning_rate * settings.final_fraction}  # fmt: skip
    if settings.schedule == "cosine":
        return found | {"lr_decay_style": "cosine"}
    decay = min(round(settings.decay_fraction * settings.steps), settings.steps - settings.warmup_steps)
    return found | {"lr_decay_style": "WSD", "lr_wsd_decay_style": "linear", "wsd_decay_steps": decay}


def _epochs(settings) -> int:
    return math.ceil(settings.sft_steps * settings.sft_batch / settings.conversations)


# ---------------------------------------------------------------------------------------------- Megatron


def megatron(profile: Profile, vocab_size: int, places: Places) -> dict:
    """Week 5 with Megatron-Bridge: one section for each of its configuration classes (recipe_files/megatron_pretrain.py reads it)."""
    settings, found, places = profile.base_model, _schedule(profile.base_model), places.quoted()
    batch = _steps(settings.batch_size, settings.accumulation)
    checkpoints = f"{places.recipes}/checkpoints/megatron"
    scheduler = {"lr_decay_style": found["lr_decay_style"], "lr_decay_iters": settings.steps, "lr_warmup_iters": settings.warmup_steps}
    if "wsd_decay_steps" in found:
        scheduler |= {"lr_wsd_decay_style": "linear", "lr_wsd_decay_iters": found["wsd_decay_steps"]}
    shape = llama(settings, vocab_size) | {"rope_theta": settings.rope_theta}  # what transformers 4 calls it, which the bridge wants
    del shape["rope_parameters"]
    return {
        "llama": shape,
        "model": {"seq_length": settings.context, "tensor_model_parallel_size": 1, "pipeline_model_parallel_size": 1,
                  "context_parallel_size": 1},
        "mixed_precision": "bf16_mixed",
        "train": {"train_iters": settings.steps, "global_batch_size": batch["global_batch_size"],
                  "micro_batch_size": batch["local_batch_size"], "eval_interval": settings.evaluate_every, "eval_iters": 10},
        "optimizer": {"optimizer": "adam", "lr": settings.learning_rate, "min_lr": found["min_lr"], "weight_decay": settings.weight_decay,
                      "adam_beta1": settings.beta1, "adam_beta2": settings.beta2, "clip_grad": settings.clip, "bf16": True,
                      "use_distributed_optimizer": True},
        "scheduler": scheduler,
        "ddp": {"use_distributed_optimizer": True, "overlap_grad_reduce": True, "overlap_param_gather": True,
                "grad_reduce_in_fp32": True, "check_for_nan_in_grad": True},
        "dataset": {"seq_length": settings.context, "random_seed": profile.seed, "path_to_cache": f"{places.recipes}/cache",
                    "blend_per_split": [[[places.data("tokens_train")], None], [[places.data("tokens_validation")], None], None],
                    "reset_position_ids": False, "reset_attention_mask": False, "eod_mask_loss": False,
                    "dataloader_type": "single", "num_workers": 2},
        "logger": {"log_interval": 10, "tensorboard_dir": f"{checkpoints}/tensorboard"},
        "tokenizer": {"tokenizer_type": "HuggingFaceTokenizer", "tokenizer_model": f"{places.home}/tokenizer"},
        "checkpoint": {"save": checkpoints, "load": checkpoints, "save_interval": settings.checkpoint_every, "ckpt_format": "torch_dist"},
        "rng": {"seed": profile.seed},
    }  # fmt: skip


# ---------------------------------------------------------------------------------------------- NeMo RL


def nemo_rl(profile: Profile, places: Places, base: str) -> dict[str, dict]:
    """Week 9 with NeMo RL: what differs from its own examples/configs/{sft,dpo,rm}.yaml, which lie under `base`."""
    settings, places = profile.alignment, places.quoted()
    pairs = {"dataset_name": "BinaryPreferenceDataset", "prompt_key": "prompt", "chosen_key": "chosen", "rejected_key": "rejected",
             "split": "train"}  # fmt: skip
    chats = {"dataset_name": "openai_format", "chat_key": "messages"}
    aligned = f"{places.home}/alignment/sft"
    return {
        "sft": _rl(profile, places, base, "sft", f"{places.home}/base_model", settings.sft_batch, settings.sft_rate,
                   settings.sft_weight_decay, {"max_num_steps": settings.sft_steps, "max_num_epochs": _epochs(settings)},
                   chats, "chats"),
        "dpo": _rl(profile, places, base, "dpo", aligned, settings.dpo_batch, settings.dpo_rate, 0.0,
                   {"max_num_steps": settings.dpo_steps,
                    "max_num_epochs": math.ceil(settings.dpo_steps * settings.dpo_batch / settings.pairs),
                    "reference_policy_kl_penalty": settings.dpo_beta, "preference_loss_weight": 1,
                    "sft_loss_weight": settings.dpo_sft_weight, "sft_average_log_probs": True}, pairs, "pairs"),
        "rm": _rl(profile, places, base, "rm", aligned, settings.reward_batch, settings.reward_rate, 0.0,
                  {"max_num_steps": settings.reward_steps,
                   "max_num_epochs": math.ceil(settings.reward_steps * settings.reward_batch / settings.pairs)}, pairs, "pairs"),
    }  # fmt: skip


def _rl(profile: Profile, places: Places, base: str, kind: str, model: str, batch: int, rate: float, decay: float, steps: dict,
        reads: dict, rows: str) -> dict:  # fmt: skip
    return {
        "defaults": f"{base}/examples/configs/{kind}.yaml",
        kind: steps | {"seed": profile.seed},
        "checkpointing": {"checkpoint_dir": f"{places.recipes}/checkpoints/rl_{kind}"},
        "policy": {
            "model_name": model,
            "tokenizer": {"name": model, "chat_template": "default"},  # the tokenizer's own
            "max_total_sequence_length": profile.base_model.context,
            "train_global_batch_size": batch,
            "train_micro_batch_size": _micro(batch),
            "optimizer": {"kwargs": {"lr": rate, "weight_decay": decay}},
        },
        "data": {"train": reads | {"data_path": places.data(f"{rows}_train.jsonl")},
                 "validation": reads | {"data_path": places.data(f"{rows}_validation.jsonl")}},
        "logger": {"wandb_enabled": False, "tensorboard_enabled": False, "log_dir": f"{places.recipes}/logs/{kind}"},
    }  # fmt: skip


# ---------------------------------------------------------------------------------------------- serving


def serving(profile: Profile) -> dict[str, dict]:
    """Week 8: the settings of `vllm serve --config` and of `trtllm-serve --config` for the base model's context."""
    context = profile.base_model.context
    return {
        "vllm": {"served-model-name": "korean_llm", "dtype": "bfloat16", "max-model-len": context, "gpu-memory-utilization": SHARE,
                 "host": "127.0.0.1", "port": 8000},
        "tensorrt_llm": {"max_seq_len": context, "max_batch_size": 8, "kv_cache_config": {"free_gpu_memory_fraction": SHARE}},
    }  # fmt: skip


# ---------------------------------------------------------------------------------------------- all of them


def recipes(profile: Profile, places: Places, vocab_size: int | None = None) -> list[Recipe]:
    """Every recipe for a profile, in course order. vocab_size: of the tokenizer at hand; None: the profile's."""
    vocab_size = vocab_size or profile.tokenizer.vocab_size
    base = os.environ.get("WORKSHOP_NEMO_RL") or NEMO_RL
    muon = "이 프로필의 최적화기는 Muon이지만 여기서는 같은 학습률의 AdamW를 쓴다. 손실이 튀면 lr을 낮춘다."
    five = (muon,) * (profile.base_model.optimizer == "muon")
    nine = (muon,) * (profile.alignment.optimizer == "muon")
    rl, served = nemo_rl(profile, places, base), serving(profile)
    exported = ("먼저 exporting.to_serving(바탕 모델, 산출물 폴더/serving)으로 내보낸다(docker/serve/README.md).",)
    launch = f"cd {base} && uv run examples/run_{{kind}}.py --config $WORKSHOP_RECIPES/nemo_rl/{{kind}}.yaml"
    return [
        Recipe("automodel/pretrain.yaml", 5, "NeMo AutoModel", "사전학습 (FSDP2)", "automodel automodel/pretrain.yaml",
               pretrain(profile, vocab_size, places), ("tokenizer", "corpus"),
               (*five, "블록의 출력을 0에서 시작하는 초기화(zero_residual)는 이 도구에 없다.")),
        Recipe("megatron/pretrain.yaml", 5, "Megatron-Bridge", "사전학습 (텐서·파이프라인 병렬)",
               "torchrun --nproc-per-node 8 megatron/pretrain.py", megatron(profile, vocab_size, places), ("tokenizer", "corpus"),
               (*five, "tensor_model_parallel_size와 pipeline_model_parallel_size를 올리면 행렬과 층을 나눈다.")),
        Recipe("automodel/classify_lora.yaml", 6, "NeMo AutoModel", "감성 분류기의 LoRA", "automodel automodel/classify_lora.yaml",
               classify_lora(profile, places), ("base_model",)),
        Recipe("serve/vllm.yaml", 8, "vLLM", "OpenAI 형식 서버", "vllm serve $WORKSHOP_HOME/serving --config serve/vllm.yaml",
               served["vllm"], (), exported),
        Recipe("serve/tensorrt_llm.yaml", 8, "TensorRT-LLM", "OpenAI 형식 서버",
               "trtllm-serve $WORKSHOP_HOME/serving --config serve/tensorrt_llm.yaml", served["tensorrt_llm"], (), exported),
        Recipe("automodel/chat_lora.yaml", 9, "NeMo AutoModel", "대화 SFT의 LoRA", "automodel automodel/chat_lora.yaml",
               chat_lora(profile, places), ("base_model",), ("9주차의 SFT는 전체 미세조정이다. peft 칸을 지우면 그렇게 된다.",)),
        Recipe("nemo_rl/sft.yaml", 9, "NeMo RL", "SFT", launch.format(kind="sft"), rl["sft"], ("base_model",), nine),
        Recipe("nemo_rl/rm.yaml", 9, "NeMo RL", "보상 모델", launch.format(kind="rm"), rl["rm"], ("alignment",), nine),
        Recipe("nemo_rl/dpo.yaml", 9, "NeMo RL", "DPO", launch.format(kind="dpo"), rl["dpo"], ("alignment",),
               (*nine, "이미 맞던 대화를 다시 보이는 항(replay)은 이 도구에 없으므로 산출물과 똑같은 학습은 아니다.")),
    ]  # fmt: skip
