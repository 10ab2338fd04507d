"""Each metric against an independent implementation: scikit-learn, sacrebleu, rouge-score; and through `evaluate`, offline."""

import os
import random
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score import rouge_scorer
from sacrebleu.metrics import BLEU, CHRF
from sklearn.metrics import accuracy_score, f1_score

from workshop_lib import WorkshopError, metrics
from workshop_lib.metrics import load_metric, scores

LABELS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=60).map(lambda pairs: tuple(zip(*pairs)))
KOREAN = ["고양이가", "생선을", "먹었다", "강아지는", "물고기를", "잡고", "아이들이", "공원에서", "놀았다", "그리고", "집으로", "돌아갔다"]
TEXTS = st.lists(st.lists(st.sampled_from(KOREAN), min_size=1, max_size=12).map(" ".join), min_size=1, max_size=6)


def pairs(seed=0, n=30):
    rng = random.Random(seed)
    texts = [" ".join(rng.choices(KOREAN, k=rng.randint(4, 12))) for _ in range(n)]
    return [" ".join(rng.sample(t.split(), len(t.split()) - 1) + rng.choices(KOREAN, k=2)) for t in texts], texts


class Split:
    """A tokenizer for rouge-score, which by itself drops every letter that is not a-z."""

    def __init__(self, by):
        self.tokenize = lambda text: scores.units(text, by)


@settings(deadline=None)
@given(LABELS)
def test_labels_are_scikit_learns(lists):
    said, true = lists
    assert scores.accuracy(said, true) == pytest.approx(accuracy_score(true, said))
    for average in ("macro", "micro"):
        assert scores.f1(said, true, average) == pytest.approx(f1_score(true, said, average=average, zero_division=0))
    said, true = [int(x > 2) for x in said], [int(x > 2) for x in true]
    assert scores.f1(said, true, "binary") == pytest.approx(f1_score(true, said, zero_division=0))


@settings(deadline=None)
@given(TEXTS, st.randoms(use_true_random=False))
def test_chrf_is_sacrebleus(references, rng):
    predictions = [" ".join(rng.choices(KOREAN, k=rng.randint(1, 9))) for _ in references]
    assert scores.chrf(predictions, references) == pytest.approx(CHRF().corpus_score(predictions, [references]).score / 100)


@settings(deadline=None)
@given(TEXTS, st.randoms(use_true_random=False))
def test_bleu_is_sacrebleus(references, rng):
    predictions = [" ".join(rng.choices(KOREAN, k=rng.randint(1, 9))) for _ in references]
    for by, tokenize in (("char", "char"), ("word", "none")):
        expected = BLEU(tokenize=tokenize, force=True).corpus_score(predictions, [references]).score / 100
        assert scores.bleu(predictions, references, by) == pytest.approx(expected)


def test_bleu_by_morpheme_is_sacrebleus_on_text_cut_by_morpheme():
    predictions, references = pairs()
    cut = [[" ".join(scores.units(text, "morpheme")) for text in texts] for texts in (predictions, references)]
    expected = BLEU(tokenize="none", force=True).corpus_score(cut[0], [cut[1]]).score / 100
    assert 0.1 < scores.bleu(predictions, references, "morpheme") == pytest.approx(expected)


@pytest.mark.parametrize("by", scores.UNITS)
def test_rouge_is_rouge_scores(by):
    predictions, references = pairs()
    kinds = ["rouge1", "rouge2", "rougeL"]
    scorer = rouge_scorer.RougeScorer(kinds, tokenizer=Split(by))
    each = [scorer.score(reference, prediction) for prediction, reference in zip(predictions, references)]
    expected = {kind: sum(score[kind].fmeasure for score in each) / len(each) for kind in kinds}
    assert scores.rouge(predictions, references, by) == pytest.approx(expected)


def test_words_hide_what_the_particle_leaves_alone():
    reference, right, wrong = "고양이가 생선을 먹었다", "고양이는 생선을 먹었어", "강아지가 생선을 던졌다"

    def rouge1(text, by):
        return scores.rouge([text], [reference], by)["rouge1"]

    assert rouge1(right, "word") == rouge1(wrong, "word") == pytest.approx(1 / 3)
    assert rouge1(right, "morpheme") == rouge1(wrong, "morpheme")  # the endings alike are worth as much as the things
    assert rouge1(right, "content") == 1 > rouge1(wrong, "content")
    assert rouge1(right, "char") > rouge1(wrong, "char")


def test_answers():
    assert scores.exact_match(["《구들장》.", "온돌", ""], [["구들장"], ["아궁이", " 온돌"], []]) == 1
    assert scores.char_f1(["구들장을"], ["구들장"]) == pytest.approx(2 * 3 / 7)
    assert scores.char_f1(["구들"], [["없음", "구들장"]]) == pytest.approx(0.8)
    assert scores.char_f1([""], [[]]) == 1 and scores.char_f1(["답"], [[]]) == 0
    assert scores.exact_match(["가"], ["나"]) == 0


@settings(deadline=None)
@given(TEXTS)
def test_bounds(texts):
    for score in (scores.chrf, scores.char_f1, scores.exact_match):
        assert score(texts, texts) == pytest.approx(1)
    assert scores.rouge(texts, texts)["rougeL"] == pytest.approx(1)
    nothing = ["…"] * len(texts)
    assert scores.chrf(nothing, texts) == scores.bleu(nothing, texts) == 0
    assert scores.longest_common_subsequence([], ["가"]) == 0


@pytest.mark.parametrize("call, words", [
    (lambda: scores.accuracy([1], [1, 2]), "예측은 1개, 정답은 2개"), (lambda: scores.chrf([], []), "하나도 없다"),
    (lambda: scores.units("글", "syllable"), "char, word, morpheme"), (lambda: scores.f1([1], [1], "mean"), "macro, micro, binary"),
    (lambda: load_metric("meteor"), "accuracy, bleu, chrf, exact_match, f1, rouge"),
])
def test_refusals(call, words):
    with pytest.raises(WorkshopError, match=words):
        call()


def test_modules_of_evaluate():
    predictions, references = pairs(3)
    labels = [0, 1, 2, 1], [0, 2, 2, 1]
    assert metrics.names() == ["accuracy", "bleu", "chrf", "exact_match", "f1", "rouge"]
    for name, arguments, options, expected in (
        ("accuracy", labels, {}, {"accuracy": 0.75}),
        ("f1", labels, {"average": "micro"}, {"f1": 0.75}),
        ("exact_match", (["온돌", "솥"], ["온돌", "솥뚜껑"]), {}, {"exact_match": 0.5, "char_f1": 0.75}),
        ("exact_match", (["온돌"], [["구들", "온돌"]]), {}, {"exact_match": 1, "char_f1": 1}),
        ("chrf", (predictions, references), {}, {"chrf": CHRF().corpus_score(predictions, [references]).score / 100}),
        ("bleu", (predictions, references), {"by": "word"}, {"bleu": scores.bleu(predictions, references, "word")}),
        ("rouge", (predictions, references), {"by": "char"}, scores.rouge(predictions, references)),
    ):
        assert load_metric(name).compute(predictions=arguments[0], references=arguments[1], **options) == pytest.approx(expected)


def test_loads_in_a_fresh_process_with_an_empty_cache(tmp_path):
    """As on a student's machine: no cache, no network, and `evaluate` imported first."""
    code = ("import evaluate; from workshop_lib.metrics import load_metric; "
            "print(load_metric('accuracy').compute(predictions=[1, 0], references=[1, 1]))")
    environment = {k: v for k, v in os.environ.items() if k != "HF_EVALUATE_OFFLINE"} | {"HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)
    assert done.stdout.strip() == "{'accuracy': 0.5}", done.stderr[-2000:]
