"""Faster ways to write give what the slow way gives; the draft changes the time and nothing else."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from workshop_lib import WorkshopError
from workshop_lib.architectures.attention import causal_mask, scaled_dot_product_attention
from workshop_lib.inference import accept, cached_attention, percentile


def test_cached_attention_in_any_pieces_is_attention_over_the_whole():
    q, k, v = torch.randn(3, 2, 4, 11, 8, generator=torch.Generator().manual_seed(0)).unbind(0)
    whole = scaled_dot_product_attention(q, k, v, causal_mask(11))
    for pieces in ([11], [1] * 11, [4, 1, 6], [1, 9, 1]):
        cache, parts = None, []
        for a, b, c in zip(*(x.split(pieces, dim=2) for x in (q, k, v))):
            y, cache = cached_attention(a, b, c, cache)
            parts.append(y)
        torch.testing.assert_close(torch.cat(parts, dim=2), whole)
        assert torch.equal(cache[0], k) and torch.equal(cache[1], v)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40), st.floats(0.01, 1))
def test_percentile_is_a_value_that_occurred_and_agrees_with_numpy(values, share):
    found = percentile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values) - 1e-6
    assert sum(value < found for value in values) < share * len(values)
    if abs(share * len(values) - round(share * len(values))) > 1e-6:
        assert found == np.quantile(values, share, method="inverted_cdf")


def test_percentile_of_whole_ranks_and_of_nonsense():
    assert percentile(range(1, 101), 0.95) == 95
    assert percentile(range(1, 101), 0.07) == 7
    assert percentile([3.0], 0.01) == 3.0
    for values, share in (([], 0.5), ([1.0], 0), ([1.0], 95)):
        with pytest.raises(WorkshopError):
            percentile(values, share)


def test_accepted_and_replaced_tokens_together_are_drawn_from_the_target():
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        target, draft = (torch.rand(2, 6, generator=generator, dtype=torch.float64) ** 4 + 1e-12).unbind(0)
        target[0], draft[1] = 0, 0
        target, draft = target / target.sum(), draft / draft.sum()
        drawn = torch.zeros(6, dtype=torch.float64)
        for token in range(6):
            chance = min(1.0, float(target[token] / draft[token])) if draft[token] > 0 else 1.0  # of being kept: u is uniform
            if draft[token] > 0 and chance > 0:
                assert accept(target, draft, token, chance * 0.999)[0]
                assert not accept(target, draft, token, chance * 1.001)[0] or chance == 1
            rest = accept(target, draft, token, 0.5)[1]
            torch.testing.assert_close(rest.sum(), torch.ones((), dtype=torch.float64))
            drawn[token] += draft[token] * chance
            drawn += draft[token] * (1 - chance) * rest
        torch.testing.assert_close(drawn, target)


def test_models_that_agree_never_replace():
    same = torch.tensor([0.5, 0.25, 0.25])
    kept, rest = accept(same, same, 1, 0.999)
    assert kept is True and torch.equal(rest, same)
