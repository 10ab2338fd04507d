"""A plain recurrent network (Elman 1990): what language models were before attention, and the yardstick of week 4.

Notable choices
- h ← tanh(W x + U h + b), layer on layer, nothing else: no gates, no shortcuts. Text of any length, a state of one vector a layer.
- Each step waits for the one before it. No trick computes tanh of a tanh in parallel: that is why it trains slowly.
- U starts as a rotation, which neither shrinks nor blows up what it carries (Saxe et al. 2014, arXiv 1312.6120).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from workshop_lib.architectures.language_model import LanguageModel, check_sizes


@dataclass(frozen=True)
class RNNConfig:
    """Shape of the model."""

    vocab_size: int
    hidden_size: int = 256
    num_hidden_layers: int = 2
    tie_word_embeddings: bool = True
    initializer_range: float = 0.02

    def __post_init__(self) -> None:
        check_sizes(self, "vocab_size", "hidden_size", "num_hidden_layers")


class RNN(LanguageModel):
    """Recurrent language model with random weights."""

    def __init__(self, config: RNNConfig, seed: int | None = None):
        super().__init__()
        self.config = config
        width = config.hidden_size
        self.embed_tokens = nn.Embedding(config.vocab_size, width)
        self.rnn = nn.RNN(width, width, config.num_hidden_layers, batch_first=True)
        self.lm_head = nn.Linear(width, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.embed_tokens.weight
        generator = torch.Generator().manual_seed(seed) if seed is not None else None
        for name, parameter in self.named_parameters():
            if "weight_hh" in name:
                nn.init.orthogonal_(parameter, generator=generator)
            elif "weight_ih" in name:
                nn.init.xavier_normal_(parameter, generator=generator)
            elif parameter.ndim == 1:
                nn.init.zeros_(parameter)
            else:
                nn.init.normal_(parameter, std=config.initializer_range, generator=generator)

    def hidden(self, input_ids: Tensor) -> Tensor:
        """Ids (batch, time) to (batch, time, width)."""
        return self.rnn(self.embed_tokens(input_ids))[0]

    def step_hidden(self, token: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """State: (layers, batch, width), the same size after one token as after a million."""
        x, state = self.rnn(self.embed_tokens(token.unsqueeze(1)), state)
        return x[:, 0], state

    @torch.no_grad()
    def prefill(self, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Step after step, in one call."""
        self._check(input_ids)
        x, state = self.rnn(self.embed_tokens(input_ids))
        return self.lm_head(x[:, -1]), state

    def flops_per_token(self, context: int) -> float:
        """6 per weight of a matrix product; nothing grows with the context."""
        matrices = sum(p.numel() for p in self.rnn.parameters() if p.ndim == 2)
        return 6.0 * (matrices + self.config.vocab_size * self.config.hidden_size)
