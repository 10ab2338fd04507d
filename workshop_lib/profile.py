"""The one dial of the course: how large everything is.

A `Profile` has one section for each stage that reads settings. Code never asks which profile it is in;
it reads a number from its section. `WORKSHOP_PROFILE` picks the profile (default: tiny).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, fields, replace

from workshop_lib import WorkshopError


@dataclass(frozen=True)
class CorpusSettings:
    """Week 2. Pages of the messy crawl, and stories added to it."""

    crawl_pages: int
    stories: int


@dataclass(frozen=True)
class TokenizerSettings:
    """Week 3. Vocabulary size (special tokens included), the characters read for training, and the tokens that the
    model will read at once (the base model's context)."""

    vocab_size: int
    train_chars: int
    max_length: int


@dataclass(frozen=True)
class BaseModelSettings:
    """Week 5. The shape of the Llama-config model and its training run."""

    hidden_size: int
    layers: int
    heads: int
    kv_heads: int
    intermediate_size: int
    context: int
    batch_size: int  # sequences a step
    steps: int
    learning_rate: float


@dataclass(frozen=True)
class Profile:
    """`tiny`: 2 CPU cores, 4 GB. `small`: laptop or small GPU. `gpu`: one data-centre GPU and up."""

    name: str
    seed: int
    corpus: CorpusSettings
    tokenizer: TokenizerSettings
    base_model: BaseModelSettings


PROFILES = {
    "tiny": Profile(
        name="tiny",
        seed=0,
        corpus=CorpusSettings(crawl_pages=3_000, stories=6_000),
        tokenizer=TokenizerSettings(vocab_size=2_048, train_chars=2_000_000, max_length=128),
        base_model=BaseModelSettings(
            hidden_size=192, layers=4, heads=3, kv_heads=3, intermediate_size=512,
            context=128, batch_size=16, steps=600, learning_rate=2e-3,
        ),
    ),
    "small": Profile(
        name="small",
        seed=0,
        corpus=CorpusSettings(crawl_pages=20_000, stories=60_000),
        tokenizer=TokenizerSettings(vocab_size=8_192, train_chars=20_000_000, max_length=256),
        base_model=BaseModelSettings(
            hidden_size=384, layers=8, heads=6, kv_heads=6, intermediate_size=1_024,
            context=256, batch_size=32, steps=4_000, learning_rate=1e-3,
        ),
    ),
    "gpu": Profile(
        name="gpu",
        seed=0,
        corpus=CorpusSettings(crawl_pages=100_000, stories=400_000),
        tokenizer=TokenizerSettings(vocab_size=32_768, train_chars=200_000_000, max_length=1_024),
        base_model=BaseModelSettings(
            hidden_size=768, layers=12, heads=12, kv_heads=12, intermediate_size=2_048,
            context=1_024, batch_size=256, steps=20_000, learning_rate=6e-4,
        ),
    ),
}


def get_profile(name: str | None = None) -> Profile:
    """The named profile, or the one that `WORKSHOP_PROFILE` names, or tiny.

    Raises WorkshopError for a name that does not exist.
    """
    name = name or os.environ.get("WORKSHOP_PROFILE") or "tiny"
    if name not in PROFILES:
        raise WorkshopError(f"프로필 '{name}'은(는) 없다. {', '.join(PROFILES)} 가운데 하나를 쓴다.")
    return PROFILES[name]


def with_settings(profile: Profile, section: str, **values: object) -> Profile:
    """A copy of `profile` in which some numbers of one section differ (for experiments and tests)."""
    known = {f.name for f in fields(getattr(profile, section))}
    if unknown := set(values) - known:
        raise WorkshopError(f"프로필의 {section}에는 {', '.join(sorted(unknown))} 설정이 없다.")
    return replace(profile, **{section: replace(getattr(profile, section), **values)})
