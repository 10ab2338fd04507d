"""A thought has its own budget, the answer gets what is really left, and the caller's messages stay as they are."""

import copy

import openai
import pytest
import torch

from workshop_lib import WorkshopError, local_server, thinking
from workshop_lib.architectures.transformer import Transformer, TransformerConfig
from workshop_lib.checkpoints import save_model
from workshop_lib.corpora.stories import stories
from workshop_lib.thinking import budgeted_answer, remaining, with_thinking
from workshop_lib.tokenization import SPECIAL_TOKENS, train_whole_char_bpe, wrap

MESSAGES = [{"role": "system", "content": "친절하다."}, {"role": "user", "content": "하나에 둘을 더하면?"}]
CONTEXT = 96
THOUGHT, ANSWER = 10, 4  # tokens, without </think> and <|end|>


@pytest.fixture(scope="module")
def tokenizer():
    return wrap(train_whole_char_bpe([story["text"] for story in stories(60)], 600, SPECIAL_TOKENS), CONTEXT)


@pytest.fixture(scope="module")
def chain(tokenizer):
    """Tokens in the order in which the model says them: <think> t1 … t10 </think> a1 … a4 <|end|>."""
    words = [number for number in range(270, len(tokenizer)) if "\ufffd" not in tokenizer.decode([number])][: THOUGHT + ANSWER]
    number = tokenizer.convert_tokens_to_ids
    return [number("<think>"), *words[:THOUGHT], number("</think>"), *words[THOUGHT:], number("<|end|>")]


@pytest.fixture(scope="module")
def server(tokenizer, chain, tmp_path_factory):
    """A model that knows one thing: which token follows which. Its blocks add nothing, its output layer is a table."""
    config = TransformerConfig(len(tokenizer), len(tokenizer), 2, 1, 2, 2, max_position_embeddings=CONTEXT, tie_word_embeddings=False)
    model = Transformer(config, seed=0)
    with torch.no_grad():
        for layer in (model.model.layers[0].self_attn.o_proj, model.model.layers[0].mlp.down_proj, model.lm_head):
            layer.weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(len(tokenizer)))
        for token, follower in zip(chain, chain[1:]):
            model.lm_head.weight[follower, token] = 50.0
    folder = tmp_path_factory.mktemp("thinking") / "chain"
    save_model(model, tokenizer, folder)
    with local_server.running(folder, max_batch=2) as running:
        yield running
        assert "Traceback" not in running.said()


class Recorder:
    """The real client; what it was asked is kept."""

    def __init__(self, server):
        self.client, self.asked = server.client(max_retries=0), []
        self.completions = self

    def create(self, **request):
        answer = self.client.completions.create(**request)
        self.asked.append((request, answer.usage))
        return answer


@pytest.fixture
def client(server):
    return Recorder(server)


def text(tokenizer, tokens):
    return tokenizer.decode(tokens)


@pytest.mark.parametrize("arguments, left", [
    ((100, 30), 70), ((100, 0), 100), ((100, 100), 0), ((100, 101), 0), ((100, 30, 128, 60), 68), ((100, 30, 128, 50), 70),
    ((100, 30, 128, 128), 0), ((100, 30, 128, 140), 0), ((100, 30, None, 60), 70),
])  # fmt: skip
def test_what_is_left(arguments, left):
    assert remaining(*arguments) == left


def test_the_switch_is_a_copy_with_one_system_message():
    before = copy.deepcopy(MESSAGES)
    on, off = with_thinking(MESSAGES), with_thinking(with_thinking(MESSAGES), on=False)
    assert on[0] == {"role": "system", "content": "detailed thinking on\n친절하다."} and on[1:] == MESSAGES[1:]
    assert off[0]["content"] == "detailed thinking off\n친절하다."
    assert with_thinking(MESSAGES[1:], on=False)[0] == {"role": "system", "content": "detailed thinking off"}
    assert with_thinking([]) == [{"role": "system", "content": "detailed thinking on"}]
    on[1]["content"] = "바뀌었다"
    assert before == MESSAGES


def test_a_thought_within_the_budget_is_kept_whole(client, tokenizer, chain):
    before = copy.deepcopy(MESSAGES)
    result = budgeted_answer(client, "chain", MESSAGES, budget=30, max_tokens=40, temperature=0)
    assert result.thought == text(tokenizer, chain[1 : 1 + THOUGHT]) and result.answer == text(tokenizer, chain[2 + THOUGHT : -1])
    assert (result.thought_tokens, result.answer_tokens) == (THOUGHT + 1, ANSWER + 1)  # </think> and <|end|> were written as well
    assert not result.cut and result.finish == "stop" and before == MESSAGES
    (first, used), (second, _) = client.asked
    assert first["max_tokens"] == 30 and first["stop"] == ["</think>"] and "stop" not in second
    assert second["max_tokens"] == 40 - used.completion_tokens == 40 - 11  # what is left, not 40 and not 40 − 30
    assert second["prompt"] == first["prompt"] + result.thought + "</think>"


@pytest.mark.parametrize("budget", [1, 4, THOUGHT])
def test_a_thought_beyond_the_budget_is_closed_and_answered(client, tokenizer, chain, budget):
    result = budgeted_answer(client, "chain", MESSAGES, budget, max_tokens=20, temperature=0)
    assert result.cut and result.thought_tokens == budget and result.thought == text(tokenizer, chain[1 : 1 + budget])
    assert result.answer == text(tokenizer, chain[2 + THOUGHT : -1]) and result.finish == "stop"
    assert client.asked[1][0]["max_tokens"] == 20 - budget


@pytest.mark.parametrize("budget, max_tokens", [(4, 6), (30, 13), (3, 4)])
def test_both_phases_together_keep_to_max_tokens(client, budget, max_tokens):
    result = budgeted_answer(client, "chain", MESSAGES, budget, max_tokens, temperature=0)
    assert result.thought_tokens + result.answer_tokens == max_tokens and result.finish == "length"


@pytest.mark.parametrize("budget, max_tokens", [(5, 5), (9, 5), (30, 11)])
def test_nothing_left_is_said_and_not_asked_for(client, budget, max_tokens):
    result = budgeted_answer(client, "chain", MESSAGES, budget, max_tokens, temperature=0)
    assert result.answer == "" and result.finish == "length" and result.thought_tokens == max_tokens and len(client.asked) == 1


def test_without_a_budget_there_is_no_thought(client, tokenizer, chain):
    result = budgeted_answer(client, "chain", MESSAGES, 0, 20, temperature=0)
    assert result == thinking.Budgeted("", text(tokenizer, chain[2 + THOUGHT : -1]), 0, ANSWER + 1, False, "stop")
    assert len(client.asked) == 1 and client.asked[0][0]["prompt"].endswith("<|assistant|><think></think>")


def test_a_known_context_bounds_the_answer(client):
    free = CONTEXT - budgeted_tokens(client)
    with pytest.raises(openai.BadRequestError, match="96"):
        budgeted_answer(client, "chain", MESSAGES, 4, 1_000, temperature=0)
    for budget in (0, 4, 30):
        client.asked.clear()
        result = budgeted_answer(client, "chain", MESSAGES, budget, 1_000, context=CONTEXT, temperature=0)
        last, usage = client.asked[-1]
        assert result.finish == "stop" and usage.prompt_tokens + last["max_tokens"] <= CONTEXT
        assert last["max_tokens"] >= free - result.thought_tokens - 4  # nor less than fits, but for the marks


def budgeted_tokens(client):
    prompt = thinking.render_chat(MESSAGES, add_generation_prompt=True)
    return client.create(model="chain", prompt=prompt, max_tokens=1).usage.prompt_tokens


def test_the_callers_stop_ends_the_answer_only(client, tokenizer, chain):
    words = [text(tokenizer, [token]) for token in chain]
    result = budgeted_answer(client, "chain", MESSAGES, 30, 40, stop=[words[3], words[-3]], temperature=0)
    assert result.thought == "".join(words[1 : 1 + THOUGHT])  # the first stop string lies in the thought
    assert result.answer == "".join(words[2 + THOUGHT : -3]) and result.finish == "stop"


@pytest.mark.parametrize("budget, max_tokens", [(-1, 10), (5, 0)])
def test_a_budget_that_makes_no_sense(client, budget, max_tokens):
    with pytest.raises(WorkshopError, match="예산"):
        budgeted_answer(client, "chain", MESSAGES, budget, max_tokens)
    assert not client.asked


def test_an_unknown_model_is_the_servers_refusal(client):
    with pytest.raises(openai.NotFoundError):
        budgeted_answer(client, "other", MESSAGES, 5, 10)
