"""Answers drawn side by side: the same as one after another, the log-probabilities those of the model, masks and ends in their places."""

import pytest
import torch

from workshop_lib import WorkshopError, decoding
from workshop_lib.architectures.transformer import Transformer, TransformerConfig
from workshop_lib.objectives import masked_log_probs
from workshop_lib.rollouts import rollouts

CONFIG = TransformerConfig(vocab_size=20, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
                           num_key_value_heads=2, max_position_embeddings=32, initializer_range=0.3)  # fmt: skip
PROMPTS = [[1, 5, 9], [1, 7], [1, 4, 4, 8, 12, 3, 11], [2, 2, 9]]
STOPS = {6, 2}


@pytest.fixture(scope="module")
def model():
    return Transformer(CONFIG, seed=3).eval()


def test_greedy_answers_are_those_of_one_prompt_at_a_time(model):
    found = rollouts(model, PROMPTS, {6}, max_new_tokens=12, temperature=0, batch=3)
    for prompt, answer, ended in zip(PROMPTS, found.answers, found.ended):
        alone = decoding.sample(model, prompt, 12, stop=6, temperature=0)[0]
        assert tuple(answer) == alone.tokens and bool(ended) == alone.ended


@pytest.mark.parametrize("n, batch", [(1, 128), (5, 128), (5, 7)])
def test_log_probabilities_are_those_of_the_model(model, n, batch):
    found = rollouts(model, PROMPTS, STOPS, n=n, max_new_tokens=12, seed=1, batch=batch, pad=0)
    sums, per_token = masked_log_probs(model(found.ids), found.ids, found.mask)
    torch.testing.assert_close(found.log_probs, per_token, atol=2e-5, rtol=0)
    assert len(found.answers) == len(PROMPTS) * n
    for row, answer in enumerate(found.answers):
        prompt = PROMPTS[row // n]
        said = found.ids[row][found.mask[row].bool()].tolist()
        assert found.ids[row, : len(prompt)].tolist() == prompt and not found.mask[row, : len(prompt)].any()
        assert said[: len(answer)] == answer and not STOPS & set(answer)
        assert said[len(answer) :] == ([said[-1]] if found.ended[row] else []) and (said[-1] in STOPS) == bool(found.ended[row])
        assert found.ended[row] or len(answer) == 12
        assert found.lengths[row] == len(said)
    assert found.ended.any() and not found.ended.all()


def test_rows_do_not_depend_on_how_many_go_together(model):
    together, apart = (rollouts(model, PROMPTS, STOPS, n=4, max_new_tokens=10, seed=5, batch=batch) for batch in (64, 4))
    assert together.answers == apart.answers
    assert rollouts(model, PROMPTS, STOPS, n=4, max_new_tokens=10, seed=6).answers != together.answers


def test_the_shares_are_those_of_the_distribution(model):
    first = rollouts(model, [PROMPTS[0]], STOPS, n=4000, max_new_tokens=1, seed=2, batch=4000)
    drawn = first.ids[:, len(PROMPTS[0])].bincount(minlength=20) / 4000
    expected = model(torch.tensor([PROMPTS[0]]))[0, -1].softmax(-1)
    torch.testing.assert_close(drawn, expected.detach(), atol=0.035, rtol=0)
    sharp = rollouts(model, [PROMPTS[0]], STOPS, n=4000, max_new_tokens=1, seed=2, batch=4000, temperature=0.5)
    torch.testing.assert_close(sharp.ids[:, len(PROMPTS[0])].bincount(minlength=20) / 4000, (expected**2 / (expected**2).sum()).detach(),
                               atol=0.035, rtol=0)  # fmt: skip


@pytest.mark.parametrize(
    "prompts, options, words",
    [
        ([], {}, "프롬프트가 하나도 없다"),
        ([[1], []], {"max_new_tokens": 8}, "2번째 프롬프트가 비어"),
        ([[1], [1] * 25], {"max_new_tokens": 8}, "2번째 프롬프트 25토큰에 답 8토큰"),
        ([[1]], {"n": 0}, "1 이상"),
        ([[1]], {"temperature": -1.0}, "온도는 0 이상"),
    ],
)
def test_what_cannot_be_answered_is_said(model, prompts, options, words):
    with pytest.raises(WorkshopError, match=words):
        rollouts(model, prompts, STOPS, **options)


def test_a_diverged_model_is_an_error():
    broken = Transformer(CONFIG, seed=3).eval()
    with torch.no_grad():
        broken.model.norm.weight.fill_(float("nan"))
    with pytest.raises(WorkshopError, match="유한하지 않"):
        rollouts(broken, PROMPTS, STOPS, max_new_tokens=2)
