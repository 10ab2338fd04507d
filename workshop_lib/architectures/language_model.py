"""What every architecture of week 4 shares: token ids in, logits (or the loss) out, and one decoding step at a time.

An architecture subclasses `LanguageModel`, has a `config` with `vocab_size`, an `lm_head`, and says two things: how a whole
sequence becomes hidden states (`hidden`) and how one more token does, given a state (`step_hidden`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from workshop_lib import WorkshopError
from workshop_lib.architectures import kernels


class LanguageModel(nn.Module):
    """A causal language model: `forward` over a whole sequence, `step` over one token with a state."""

    config: Any
    lm_head: nn.Linear

    def hidden(self, input_ids: Tensor) -> Tensor:
        """What the output layer reads. input_ids: (batch, time) → (batch, time, width)."""
        raise NotImplementedError

    def step_hidden(self, token: Tensor, state: Any) -> tuple[Tensor, Any]:
        """The same for one more token. token: (batch,) → (batch, width) and the new state; state None: nothing read yet."""
        raise NotImplementedError

    def forward(self, input_ids: Tensor, targets: Tensor | None = None) -> Tensor:
        """input_ids: (batch, time). Logits (batch, time, vocabulary); with targets (−100 = skip) the mean loss in nats.

        Raises WorkshopError for an empty sequence or an id outside the vocabulary.
        """
        self._check(input_ids)
        x = self.hidden(input_ids)
        if targets is None:
            return self.lm_head(x)
        return kernels.linear_cross_entropy(x.flatten(0, 1), self.lm_head.weight, targets.flatten())

    def logits_at(self, input_ids: Tensor, where: Tensor) -> Tensor:
        """Logits at some places only. input_ids: (batch, time); where: the like, booleans → (places, vocabulary), row by row."""
        return self.lm_head(self.hidden(input_ids)[where])

    @torch.no_grad()
    def step(self, token: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Read one token of each row. token: (batch,) → logits of the next (batch, vocabulary), and the state after it.

        `state` is what the last call returned; None before the first token. It is consumed: a step may write into it.
        """
        self._check(token.unsqueeze(1))
        x, state = self.step_hidden(token, state)
        return self.lm_head(x), state

    @torch.no_grad()
    def prefill(self, input_ids: Tensor) -> tuple[Tensor, Any]:
        """Read a prompt. input_ids: (batch, time) → logits after its last token (batch, vocabulary), and the state.

        Here one step after another; an architecture that reads a prompt at once says so in its own `prefill`.
        """
        self._check(input_ids)
        state = None
        for token in input_ids.unbind(1):
            x, state = self.step_hidden(token, state)
        return self.lm_head(x), state

    def num_parameters(self) -> int:
        """Numbers that training changes; a shared matrix counts once."""
        return sum(parameter.numel() for parameter in self.parameters())

    def _check(self, input_ids: Tensor) -> None:
        if input_ids.ndim != 2 or input_ids.shape[1] == 0:
            raise WorkshopError(f"입력의 모양이 {tuple(input_ids.shape)}이다. (배치, 길이) 모양이고 길이가 1 이상이어야 한다.")
        if input_ids.device.type != "cpu" or torch.compiler.is_compiling():
            return  # looking at the values would stall a GPU, and breaks a compiled graph
        low, high = int(input_ids.min()), int(input_ids.max())
        if low < 0 or high >= self.config.vocab_size:
            wrong = low if low < 0 else high
            raise WorkshopError(
                f"토큰 번호 {wrong}은(는) 어휘 크기 {self.config.vocab_size} 밖에 있다. 모델과 토크나이저가 한 짝인지 확인한다."
            )


def check_sizes(config: Any, *names: str) -> None:
    """Raises WorkshopError unless the named fields of a config are whole numbers of at least 1."""
    for name in names:
        size = getattr(config, name)
        if not isinstance(size, int) or size < 1:
            raise WorkshopError(f"{type(config).__name__}의 {name}이(가) {size}이다. 1 이상의 정수여야 한다.")


def state_bytes(state: Any) -> int:
    """Bytes of all tensors in a decoding state (nested lists, tuples, dictionaries)."""
    if isinstance(state, Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, dict):
        state = list(state.values())
    if isinstance(state, (list, tuple)):
        return sum(state_bytes(part) for part in state)
    return 0
