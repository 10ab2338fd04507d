"""The maps drawn are those that the models use."""

import pytest
import torch

from workshop_lib import WorkshopError
from workshop_lib.architecture_figures import attention_maps, kept, show_map
from workshop_lib.architectures import attention
from workshop_lib.architectures.mamba import Mamba, MambaConfig, selective_scan_step
from workshop_lib.architectures.transformer import Transformer, TransformerConfig

IDS = torch.randint(0, 50, (1, 12), generator=torch.Generator().manual_seed(0))


def test_attention_maps_are_what_the_transformer_attends_with():
    config = TransformerConfig(50, 32, 48, 2, num_attention_heads=4, num_key_value_heads=2, initializer_range=0.5)
    model = Transformer(config, seed=0)
    maps = attention_maps(model, IDS)
    assert maps.shape == (2, 4, 12, 12)
    torch.testing.assert_close(maps.sum(-1), torch.ones(2, 4, 12))
    assert maps.triu(1).abs().max() == 0
    for layer, block in zip(maps, model.model.layers):  # the layer's own output, rebuilt from the map
        kept_inputs = []
        hook = block.input_layernorm.register_forward_hook(lambda m, x, y, keep=kept_inputs: keep.append(y))
        model(IDS)
        hook.remove()
        v = attention.split_heads(block.self_attn.v_proj(kept_inputs[0]), 2).repeat_interleave(2, dim=1)
        rebuilt = block.self_attn.o_proj(attention.merge_heads(layer.unsqueeze(0) @ v))
        torch.testing.assert_close(rebuilt, block.self_attn(kept_inputs[0], model.model.turn[:12]), atol=1e-4, rtol=1e-4)


def test_kept_is_the_share_of_the_state_that_a_step_carries_over():
    model = Mamba(MambaConfig(50, 16, 2, state_size=4), seed=0)
    shares = kept(model, IDS)
    assert shares.shape == (2, 12) and shares.min() > 0 and shares.max() < 1
    mixer, steps = model.stack.layers[1].mixer, []
    hook = mixer.dt_proj.register_forward_hook(lambda m, x, y: steps.append(torch.nn.functional.softplus(y)))
    model(IDS)
    hook.remove()
    dt, h = steps[0][0, 5:6], torch.ones(1, 32, 4)  # a full state, and nothing that comes in
    nothing = torch.zeros(1, 4)
    _, h = selective_scan_step(torch.zeros_like(dt), dt, -mixer.A_log.exp(), nothing, nothing, mixer.D, h)
    assert h.mean().item() == pytest.approx(shares[1, 5].item(), abs=1e-6)


def test_hooks_are_gone_afterwards():
    model = Transformer(TransformerConfig(50, 32, 48, 1), seed=0)
    attention_maps(model, IDS)
    assert not any(module._forward_hooks for module in model.modules())


def test_the_heat_map_names_every_token():
    figure = show_map(torch.eye(3), ["고양이", " 가", "\n"], "머리 1")
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert labels == ["고양이", "␣가", "⏎"]
    assert figure.axes[0].get_title() == "머리 1"
    with pytest.raises(WorkshopError, match="토큰은 2개"):
        show_map(torch.eye(3), ["고양이", "가"])
