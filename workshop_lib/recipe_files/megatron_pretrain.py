"""Pretraining with Megatron-Bridge: each section of pretrain.yaml is one of its configuration classes.

    torchrun --nproc-per-node 8 pretrain.py [pretrain.yaml]
"""

import sys
from pathlib import Path

from megatron.bridge import AutoBridge
from megatron.bridge.training.config import (
    CheckpointConfig,
    ConfigContainer,
    DistributedDataParallelConfig,
    GPTDatasetConfig,
    LoggerConfig,
    OptimizerConfig,
    RNGConfig,
    SchedulerConfig,
    TokenizerConfig,
    TrainingConfig,
)
from megatron.bridge.training.gpt_step import forward_step
from megatron.bridge.training.pretrain import pretrain
from omegaconf import OmegaConf
from transformers import LlamaConfig

SECTIONS = {
    "train": TrainingConfig,
    "optimizer": OptimizerConfig,
    "scheduler": SchedulerConfig,
    "ddp": DistributedDataParallelConfig,
    "dataset": GPTDatasetConfig,
    "logger": LoggerConfig,
    "tokenizer": TokenizerConfig,
    "checkpoint": CheckpointConfig,
    "rng": RNGConfig,
}


def read(path: Path) -> ConfigContainer:
    """The configuration that a recipe describes: the shape is a Hugging Face LlamaConfig, the rest Megatron-Bridge's own classes."""
    recipe = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    provider = AutoBridge.from_hf_config(LlamaConfig(**recipe["llama"])).to_megatron_provider(load_weights=False)
    for name, value in recipe["model"].items():
        if not hasattr(provider, name):
            raise SystemExit(f"{path}: model.{name} is no field of {type(provider).__name__}")
        setattr(provider, name, value)
    sections = {name: kind(**recipe[name]) for name, kind in SECTIONS.items()}
    return ConfigContainer(model=provider, mixed_precision=recipe["mixed_precision"], **sections)


if __name__ == "__main__":
    where = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("pretrain.yaml")
    pretrain(read(where), forward_step)
