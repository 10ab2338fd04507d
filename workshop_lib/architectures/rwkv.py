"""RWKV-7 "Goose" (Peng et al. 2025, arXiv 2503.14456): a matrix for a memory, which forgets, corrects itself and never grows.

Notable choices
- ``state_step`` is the recurrence, one token at a time; ``chunked`` is the same for a whole text, 16 tokens at a time, as matrix
  products. Training and reading a prompt use the second, writing uses the first.
- The parameters carry the names of the authors' checkpoints (``authors_state_dict``), and the logits agree with their package.
- The output layer shares the embedding's weights unless told otherwise: at this course's size half of a model is vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workshop_lib import WorkshopError
from workshop_lib.architectures.language_model import LanguageModel, check_sizes

CHUNK = 16  # tokens; a share of at least 0.545 a token leaves 6e-5 of 1 after 16, whose reciprocal float32 still holds well
FASTEST_DECAY = math.exp(-0.5)  # −log of the smallest share that a token can keep: exp(−0.607) = 0.545
GROUP_NORM_EPS = 64e-5  # the authors' value


def state_step(r: Tensor, w: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """One token of RWKV-7's recurrence (section 4 of the paper), for all heads at once; the state that came in is left as it was.

    The state S is a table that answers a key with a value: S k ≈ v. A token first lets each key dimension fade (w), then reads what
    the table answers to the key `a` and writes that answer under the key `b` (with a = −κ and b = rate · κ this takes the old
    answer away), then writes v under k, and at last reads with r:

        S ← S · diag(w) + (S a) bᵀ + v kᵀ          y = S r

    r, k, a, b: (batch, heads, key); w: the same, the share that is kept, in (0, 1); v: (batch, heads, value);
    state: (batch, heads, value, key), the S before this token. Both terms of the sum read this old S.
    Returns y: (batch, heads, value), and the S after this token.
    """
    removed = (state @ a.unsqueeze(-1)) @ b.unsqueeze(-2)  # (batch, heads, value, key): the outer product of S a and b
    state = state * w.unsqueeze(-2) + removed + v.unsqueeze(-1) * k.unsqueeze(-2)
    return (state @ r.unsqueeze(-1)).squeeze(-1), state


def chunked(
    r: Tensor, decay: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """What `state_step` gives token after token, as matrix products over chunks of 16 tokens (the WY form of Bischof & Van Loan 1987).

    r, k, a, b, v: (batch, time, heads, head); decay: the same, log w ≤ 0; state: (batch, heads, head, head) or None for zeros.
    Returns y: (batch, time, heads, head), and the state after the last token. With Γ_t = w_1 ⋯ w_t inside a chunk, the state is

        S_t = (S_0 + Σ_{i ≤ t} u_i (b_i / Γ_i)ᵀ + v_i (k_i / Γ_i)ᵀ) diag(Γ_t)      where u_i = S_{i−1} a_i

    so what was read, U, solves the unit-triangular system (I − A_ab) U = A S_0ᵀ + A_ak V with A = a_t Γ_{t−1} and A_ab, A_ak
    its products with the earlier b / Γ and k / Γ. All of it is linear in S_0, which is unknown until the chunk before is done: every
    chunk finds, at the same time as all others, what it does to any S_0 (S_0 M + N) and what it answers (Q S_0ᵀ + Y_0); only
    the small S ← S M + N is left to do in order.
    """
    batch, time, heads, head = r.shape
    r, decay, k, v, a, b = (_chunks(x) for x in (r, decay, k, v, a, b))  # (batch · chunks · heads, 16, head)
    total = decay.cumsum(1)
    growth, shrink = total.exp(), torch.exp(-total)
    last = growth[:, -1:]
    a, r = a * (total - decay).exp(), r * growth  # what reads, at the scale of the chunk's start
    b, k = b * shrink, k * shrink  # what is written
    earlier = torch.ones(CHUNK, CHUNK, dtype=r.dtype, device=r.device).tril(-1)
    so_far = earlier + torch.eye(CHUNK, dtype=r.dtype, device=r.device)  # `r` reads its own token's writes too
    ab, ak = (a @ b.transpose(1, 2)) * earlier, (a @ k.transpose(1, 2)) * earlier  # (…, 16, 16)
    rb, rk = (r @ b.transpose(1, 2)) * so_far, (r @ k.transpose(1, 2)) * so_far
    # U = per_state S_0ᵀ + own; the solver takes the diagonal of −A_ab for ones
    per_state = torch.linalg.solve_triangular(-ab, a, upper=False, unitriangular=True)
    own = torch.linalg.solve_triangular(-ab, ak @ v, upper=False, unitriangular=True)
    q, y = torch.baddbmm(r, rb, per_state), torch.baddbmm(rb @ own, rk, v)  # Q, Y_0
    b, k = b * last, k * last  # at the scale of the chunk's end
    m = torch.baddbmm(torch.diag_embed(last.squeeze(1)), per_state.transpose(1, 2), b)
    n = torch.baddbmm(own.transpose(1, 2) @ b, v.transpose(1, 2), k)
    starts, state = _scan(m, n, state, batch, heads)
    y = torch.baddbmm(y, q, starts.transpose(1, 2))
    return y.view(batch, -1, heads, CHUNK, head).transpose(2, 3).reshape(batch, -1, heads, head)[:, :time], state


def _chunks(x: Tensor) -> Tensor:
    """(batch, time, heads, head) → (batch · chunks · heads, 16, head); filled up with tokens that keep all and write nothing."""
    missing = -x.shape[1] % CHUNK
    if missing:
        x = F.pad(x, (0, 0, 0, 0, 0, missing))
    return x.unflatten(1, (-1, CHUNK)).transpose(2, 3).flatten(0, 2)


def _scan(m: Tensor, n: Tensor, state: Tensor | None, batch: int, heads: int) -> tuple[Tensor, Tensor]:
    """S ← S M + N over the chunks. Returns the S before each chunk (batch · chunks · heads, head, head), and the last one."""
    m, n = (x.view(batch, -1, heads, *x.shape[1:]) for x in (m, n))
    state = torch.zeros_like(n[:, 0]) if state is None else state
    starts = []
    for move, fresh in zip(m.unbind(1), n.unbind(1)):
        starts.append(state)
        state = state @ move + fresh
    return torch.stack(starts, 1).flatten(0, 2), state


@dataclass(frozen=True)
class RwkvConfig:
    """Shape of the model. The ranks are those of the four small networks that make decay, rate, value mix and gate from the token."""

    vocab_size: int
    hidden_size: int = 256
    intermediate_size: int = 896  # the authors: 3.5 to 4 times the width
    num_hidden_layers: int = 4
    head_size: int = 32  # the authors: 64
    decay_rank: int = 16
    rate_rank: int = 16
    value_rank: int = 16
    gate_rank: int = 32
    norm_eps: float = 1e-5
    tie_word_embeddings: bool = True
    initializer_range: float = 0.02  # of the embeddings

    def __post_init__(self) -> None:
        ranks = ("decay_rank", "rate_rank", "value_rank", "gate_rank")
        check_sizes(self, "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "head_size", *ranks)
        if self.hidden_size % self.head_size:
            raise WorkshopError(
                f"hidden_size {self.hidden_size}는 헤드 너비 {self.head_size}로 나누어떨어져야 한다. 둘 중 하나를 바꾼다."
            )

    @property
    def num_heads(self) -> int:
        """Heads of the state."""
        return self.hidden_size // self.head_size


class TimeMix(nn.Module):
    """What attention is to a Transformer: the block that looks back, here into the state and one token to the left."""

    def __init__(self, config: RwkvConfig, layer: int):
        super().__init__()
        width, self.heads = config.hidden_size, config.num_heads
        self.layer = layer
        for name in "rwkvag":  # how much of the token to the left each of the six inputs takes
            self.register_parameter(f"x_{name}", nn.Parameter(torch.empty(width)))
        small = {"w": config.decay_rank, "a": config.rate_rank, "v": config.value_rank, "g": config.gate_rank}
        if layer == 0:
            del small["v"]  # the first layer's values are what the others mix in
        for name, rank in small.items():
            self.register_parameter(f"{name}1", nn.Parameter(torch.empty(width, rank)))
            self.register_parameter(f"{name}2", nn.Parameter(torch.empty(rank, width)))
            if name != "g":
                self.register_parameter(f"{name}0", nn.Parameter(torch.empty(width)))
        self.k_k = nn.Parameter(torch.empty(width))
        self.k_a = nn.Parameter(torch.empty(width))
        self.r_k = nn.Parameter(torch.empty(width))
        self.receptance = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.ln_x = nn.GroupNorm(self.heads, width, eps=GROUP_NORM_EPS)

    def read(self, x: Tensor, left: Tensor, first: Tensor | None) -> tuple[Tensor, ...]:
        """From the tokens x and their left neighbours, (…, width), to r, log w, k, v, a, b, (…, heads, head), and the gate.

        `first`: the first layer's values, which the later layers mix into theirs (Zhou et al. 2024, arXiv 2410.17897).
        """
        shift = left - x
        xr, xw, xk, xv, xa, xg = (torch.addcmul(x, shift, m) for m in (self.x_r, self.x_w, self.x_k, self.x_v, self.x_a, self.x_g))
        r, k, v = self.receptance(xr), self.key(xk), self.value(xv)
        decay = -FASTEST_DECAY * torch.sigmoid(F.linear(torch.tanh(xw @ self.w1), self.w2.t(), self.w0))
        rate = torch.sigmoid(F.linear(xa @ self.a1, self.a2.t(), self.a0))  # the in-context learning rate: how much of the old answer goes
        gate = torch.sigmoid(xg @ self.g1) @ self.g2
        if self.layer > 0:
            v = v.lerp(first.flatten(-2), torch.sigmoid(F.linear(xv @ self.v1, self.v2.t(), self.v0)))
        r, decay, k, v, rate, removal = (y.unflatten(-1, (self.heads, -1)) for y in (r, decay, k, v, rate, k * self.k_k))
        removal = F.normalize(removal, dim=-1)  # κ, of length 1
        k = k * torch.lerp(rate.new_ones(()), rate, self.k_a.view(self.heads, -1).to(rate.dtype))
        return r, decay, k, v, -removal, removal * rate, gate

    @staticmethod
    def recall(table: Tensor | None, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """What the state answers to each token, (batch, time, heads, head), and the state after them; in float32 or better."""
        dtype = inputs[0].dtype
        with torch.autocast(inputs[0].device.type, enabled=False):
            r, decay, k, v, a, b = (x.float() if x.dtype.itemsize < 4 else x for x in inputs)
            if r.shape[1] > 1 or table is None:
                y, table = chunked(r, decay, k, v, a, b, table)
            else:
                y, table = state_step(*(x.squeeze(1) for x in (r, decay.exp(), k, v, a, b)), table)
                y = y.unsqueeze(1)
        return y.to(dtype), table

    def write(self, y: Tensor, r: Tensor, k: Tensor, v: Tensor, gate: Tensor) -> Tensor:
        """From what the state answered to what the block adds: norm of each head, bonus for the token itself, gate, output."""
        normal = self.ln_x(y.reshape(-1, gate.shape[-1])).view(y.shape)
        bonus = (r * k * self.r_k.view(self.heads, -1)).sum(-1, keepdim=True) * v
        return self.output((normal + bonus).flatten(-2) * gate)


class ChannelMix(nn.Module):
    """What the MLP is to a Transformer, with a look at the token to the left and squared ReLU (So et al. 2021, arXiv 2109.08668)."""

    def __init__(self, config: RwkvConfig):
        super().__init__()
        self.x_k = nn.Parameter(torch.empty(config.hidden_size))
        self.key = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.value = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor, left: Tensor) -> Tensor:
        """x, left: (batch, time, width), `left` being x one token earlier, to the like."""
        return self.value(F.relu(self.key(torch.addcmul(x, left - x, self.x_k))).square())


class Block(nn.Module):
    """Normalise, mix over time, add; normalise, mix over width, add."""

    def __init__(self, config: RwkvConfig, layer: int):
        super().__init__()
        self.ln0 = nn.LayerNorm(config.hidden_size, config.norm_eps) if layer == 0 else None
        self.ln1 = nn.LayerNorm(config.hidden_size, config.norm_eps)
        self.att = TimeMix(config, layer)
        self.ln2 = nn.LayerNorm(config.hidden_size, config.norm_eps)
        self.ffn = ChannelMix(config)

    def forward(self, x: Tensor, first: Tensor | None, state) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor, Tensor]]:
        """x: (batch, time, width); state: what this block left behind after the text before, or None. Returns x, `first`, the state."""
        left, table, left_channel = state or (None, None, None)
        x = self.ln0(x) if self.ln0 is not None else x
        inner = self.ln1(x)
        r, decay, k, v, a, b, gate = self.att.read(inner, _shifted(inner, left), first)
        y, table = self.att.recall(table, r, decay, k, v, a, b)
        x = x + self.att.write(y, r, k, v, gate)
        channel = self.ln2(x)
        x = x + self.ffn(channel, _shifted(channel, left_channel))
        return x, v if first is None else first, (inner[:, -1], table, channel[:, -1])


def _shifted(x: Tensor, left: Tensor | None) -> Tensor:
    """Every token's left neighbour; `left`, or zeros, is the first one's. x: (batch, time, width)."""
    if left is None:
        return F.pad(x, (0, 0, 1, -1))
    return torch.cat((left.unsqueeze(1), x[:, :-1]), 1)


class Rwkv(LanguageModel):
    """RWKV-7 causal language model with random weights; reads texts of any length with a state of fixed size."""

    def __init__(self, config: RwkvConfig, seed: int | None = None):
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.num_hidden_layers))
        self.ln_out = nn.LayerNorm(config.hidden_size, config.norm_eps)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        generator = torch.Generator().manual_seed(seed) if seed is not None else None
        for matrix in (self.embed_tokens.weight, self.lm_head.weight):
            nn.init.normal_(matrix, std=config.initializer_range, generator=generator)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.embed_tokens.weight
        for layer, block in enumerate(self.blocks):
            _initialize(block, layer, config, generator)

    def read(self, input_ids: Tensor, state: list | None = None) -> tuple[Tensor, list]:
        """input_ids: (batch, time), after a text that left `state` → (batch, time, width) after the last norm, and the state."""
        x, first, after = self.embed_tokens(input_ids), None, []
        for block, before in zip(self.blocks, state or [None] * len(self.blocks)):
            x, first, kept = block(x, first, before)
            after.append(kept)
        return self.ln_out(x), after

    def hidden(self, input_ids: Tensor) -> Tensor:
        """Ids (batch, time) to (batch, time, width)."""
        return self.read(input_ids)[0]

    def step_hidden(self, token: Tensor, state: list | None) -> tuple[Tensor, list]:
        """Ids (batch,) of one more token to (batch, width), and the state with it read."""
        x, state = self.read(token.unsqueeze(1), state)
        return x.squeeze(1), state

    @torch.no_grad()
    def prefill(self, input_ids: Tensor) -> tuple[Tensor, list]:
        """The whole prompt in chunks: the same as stepping through it. input_ids: (batch, time) → last logits, and the state."""
        self._check(input_ids)
        x, state = self.read(input_ids)
        return self.lm_head(x[:, -1]), state

    def flops_per_token(self, context: int) -> float:
        """Floating-point operations of one training token, forward and backward; they do not depend on the context.

        6 per weight of a matrix product, and 3 · 9 · head for every number of the state's rows: fade (1), S a (2), its outer product
        (2), v kᵀ (2), S r (2). What the chunked form spends beyond the recurrence is not counted.
        """
        config = self.config
        matrices = sum(p.numel() for p in self.blocks.parameters() if p.ndim == 2) + config.vocab_size * config.hidden_size
        return 6.0 * matrices + 27.0 * config.num_hidden_layers * config.hidden_size * config.head_size

    def authors_state_dict(self) -> dict[str, Tensor]:
        """The weights under the names and in the shapes of the authors' checkpoints, which the package `rwkv` on PyPI loads."""
        named = {name: p.detach().clone() for name, p in self.state_dict().items()}
        named["emb.weight"], named["head.weight"] = named.pop("embed_tokens.weight"), named.pop("lm_head.weight")
        return {name: p.view(self.config.num_heads, -1) if name.endswith("r_k") else p for name, p in named.items()}


@torch.no_grad()
def _initialize(block: Block, layer: int, config: RwkvConfig, generator: torch.Generator | None) -> None:
    """The authors' starting point (RWKV-LM, RWKV-v7/train_temp): what differs between channels and layers is set, not drawn.

    Later layers look less to the left; later channels of a layer forget more quickly, and inside each head the decays fan
    out; each block adds nothing at first.
    """
    width, head, att, ffn = config.hidden_size, config.head_size, block.att, block.ffn
    depth = layer / max(config.num_hidden_layers - 1, 1)  # 0 … 1
    rest = 1 - layer / config.num_hidden_layers  # 1 … almost 0
    channel = torch.arange(width) / width
    line = torch.linspace(0, 1, width)
    fan = torch.linspace(-1, 1, head) if head > 1 else torch.zeros(1)
    fan = (fan * fan.abs()).repeat(width // head)
    for name, power in {"r": 0.2, "w": 0.9, "k": 0.7, "v": 0.7, "a": 0.9, "g": 0.2}.items():
        getattr(att, f"x_{name}").copy_(1 - channel ** (power * rest))
    ffn.x_k.copy_(1 - channel ** rest**4)
    att.w0.copy_(-5.5 + 6 * line ** (1 + depth**0.3) + 2.5 * fan)
    att.a0.copy_(-0.19 + 0.3 * fan + 0.4 * (line - 0.5))
    att.k_k.copy_(0.71 - 0.1 * (line - 0.5))
    att.k_a.fill_(1.02)
    att.r_k.fill_(-0.04)
    for name in "wavg":
        if name == "v" and layer == 0:
            continue
        nn.init.zeros_(getattr(att, f"{name}1"))
        nn.init.orthogonal_(getattr(att, f"{name}2"), gain=0.1, generator=generator)
    if layer > 0:
        att.v0.copy_(0.73 - 0.4 * (line - 0.5))
    for matrix, scale in ((att.receptance, 0.5), (att.key, 0.05), (att.value, 0.5), (ffn.key, 0.5)):
        nn.init.uniform_(matrix.weight, -scale / width**0.5, scale / width**0.5, generator=generator)
    nn.init.zeros_(att.output.weight)
    nn.init.zeros_(ffn.value.weight)
