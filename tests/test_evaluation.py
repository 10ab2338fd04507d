"""Week 7's benchmarks: rows, the likelihood of answers (equal to plain scoring and to lm-eval), sensitivity, the stage and its report."""

import json
import random
from dataclasses import replace
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from workshop_lib import WorkshopError, belief, evaluation, finetuning, harness, likelihood, perplexity, pretraining, workspace
from workshop_lib.benchmark_tasks import TASKS, Task, Wording, load_task, majority, read_items
from workshop_lib.checkpoints import save_model
from workshop_lib.corpora import stories
from workshop_lib.profile import PROFILES, with_settings
from workshop_lib.tokenization import train_whole_char_bpe, wrap

CONTEXT = 64
SPECIAL = ["<pad>", "<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
TEXTS = [row["text"] for row in stories.stories(60, seed=5)]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A corpus, a base model and a task model with random weights: what they answer is noise, but always the same noise."""
    home = tmp_path_factory.mktemp("week07")
    (home / "corpus").mkdir()
    for name, texts in (("train", TEXTS[:40]), ("validation", TEXTS[40:])):
        rows = (json.dumps({"id": str(i), "source": "story", "text": text}, ensure_ascii=False) + "\n" for i, text in enumerate(texts))
        (home / "corpus" / f"{name}.jsonl").write_text("".join(rows), encoding="utf-8")
    samples = [text for name in ("nli", "topics", "boolq") for text in TASKS[name].texts(load_task(name, None, 30, 30).train)]
    tokenizer = wrap(train_whole_char_bpe(TEXTS + samples, 700, SPECIAL), CONTEXT)
    settings = replace(PROFILES["tiny"].base_model, hidden_size=32, layers=2, heads=2, kv_heads=2, intermediate_size=64, context=CONTEXT)
    model = pretraining.new_model(settings, len(tokenizer), seed=3)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(parameter.numel()))
    save_model(model, tokenizer, home / "base_model")
    finetuning.save_classifier(finetuning.classifier(home / "base_model", 1), tokenizer, home / "task_model")
    return home


@pytest.fixture(scope="module")
def asked(home):
    return likelihood.load_model(home / "base_model")


def plainly(model, tokenizer, context, answer):
    """Log-likelihood of one answer, in the most direct way."""
    before, after = likelihood.split_tokens(tokenizer, context, f" {answer}")
    ids = (before + after)[-(CONTEXT + 1) :]
    scores = model(torch.tensor([ids[:-1]])).logits[0].double().log_softmax(-1)
    return sum(scores[len(ids) - len(after) - 1 + place, token].item() for place, token in enumerate(after))


# --- rows ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TASKS)
def test_bundled_tasks(name):
    task, again = load_task(name, None, 90, 60, seed=1), load_task(name, None, 90, 60, seed=1)
    assert task == again and len(task.test) == 90 and 50 <= len(task.train) <= 60
    assert not set(task.texts(task.test)) & set(task.texts(task.train))
    for way in task.wordings:
        assert way.choices == () if not task.labels else len(set(way.choices)) == len(task.labels)
        assert all(way.ask(row) and not way.ask(row)[-1].isspace() for row in task.test)
    if task.labels:
        counts = np.bincount([row["label"] for row in task.test], minlength=len(task.labels))
        assert counts.min() > 0 and majority(task) in range(len(task.labels))
        assert [row["label"] for row in task.shots(len(task.labels))] == list(range(len(task.labels)))
    else:
        assert all(answer in row["context"] for row in task.test for answer in row["answers"])
    if name not in ("sentiment",):
        assert {row["source"] for row in task.test} == {"손으로 쓴 문항", "생성한 문항"}


NLI = [{"guid": f"n{i}", "genre": "g", "premise": f"전제 {i}이다.", "hypothesis": f"가설 {i}이다.",
        "gold_label": ("entailment", "neutral", "contradiction")[i % 3]} for i in range(9)]


def klue(folder, rows, name="klue-nli-v1.1_dev.json", text=None):
    path = folder / "klue" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text if text is not None else json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    return path


def test_public_sets_take_the_place_of_the_bundled_ones(tmp_path):
    klue(tmp_path, [{key.replace("genre", "source"): value for key, value in row.items()} for row in NLI])
    klue(tmp_path, NLI[:3] + [dict(row, premise=row["premise"] + " 그렇다.") for row in NLI], "klue-nli-v1.1_train.json")
    titles = "index,title,topic_idx\n" + "".join(f"{i},제목 {i},{i % 7}\n" for i in range(40))
    klue(tmp_path, [], "ynat_train_data.csv", titles)
    task = load_task("nli", tmp_path, 5, 100)
    assert len(task.test) == 5 and {row["id"] for row in task.test} <= {row["guid"] for row in NLI}
    assert not set(task.texts(task.test)) & set(task.texts(task.train))
    topics = load_task("topics", tmp_path, 100, 100)  # one file: divided
    assert len(topics.test) + len(topics.train) == 40 and min(len(topics.test), len(topics.train)) > 8
    assert load_task("boolq", tmp_path, 20, 20) == load_task("boolq", None, 20, 20)


@pytest.mark.parametrize("change, words", [
    ({"gold_label": "참"}, r"klue-nli-v1.1_dev.json 3번째 .*gold_label이 '참'"),
    ({"premise": " "}, "dev.json 3번째 문항: 'premise' 글이 비었다"),
    ({"hypothesis": None}, "dev.json 3번째 문항: 'hypothesis' 글이 비었다"), ("drop", r"dev.json 3번째 .*'hypothesis' 열쇠가 없다"),
    ("cut", r"klue-nli-v1.1_dev.json.*JSON 형식이 아니다.*줄"), ("empty", "dev.json: 행이 하나도 없다"),
])
def test_a_bad_benchmark_file_stops_the_stage_before_it_writes(tmp_path, home, change, words):
    rows = [dict(row, source="s") for row in NLI]
    text = None
    if isinstance(change, dict):
        rows[2] |= change
    elif change == "drop":
        del rows[2]["hypothesis"]
    else:
        text = "[]" if change == "empty" else json.dumps(rows, ensure_ascii=False, indent=1)[:-300]
    klue(tmp_path / "data", rows, text=text)
    out = tmp_path / "out"
    out.mkdir()
    inputs = {name: home / name for name in ("corpus", "base_model", "task_model")}
    with pytest.raises(WorkshopError, match=words):
        evaluation.build(workspace.Job(out, inputs, replace(PROFILES["tiny"].evaluation, tasks=("nli",)), 0, tmp_path / "data"))
    assert not list(out.iterdir())


@pytest.mark.parametrize("line, words", [
    ('{"title": "제목", "label": "날씨"}', r"2번째 줄: 라벨 '날씨'을\(를\) 모른다"), ('{"title": "제목", "label": 7}', "2번째 줄: 라벨 7"),
    ('{"title": " ", "label": "정치"}', "2번째 줄: 'title' 글이 없거나 비어"), ('{"label": "정치"}', "2번째 줄: 'title' 글이 없거나"),
    ('{"title": "제목", "label": 0, "topic": 1}', "2번째 줄: 모르는 열 topic"), ('{"title": "제', "2번째 줄: JSON 형식이 아니다"),
    ('{"title": "제목", "label": true}', "2번째 줄: 라벨 True"),
])
def test_own_items(tmp_path, line, words):
    path = tmp_path / "내 문항.jsonl"
    path.write_text('{"title": "국회, 예산안 처리", "label": "정치"}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(WorkshopError, match=words):
        read_items(path, "topics")
    path.write_text('{"title": "국회, 예산안 처리", "label": "정치"}\n\n{"title": "새 전지", "label": 0}\n', encoding="utf-8")
    assert [(row["title"], row["label"]) for row in read_items(path, "topics")] == [("국회, 예산안 처리", 6), ("새 전지", 0)]


@pytest.mark.parametrize("call, words", [
    (lambda: load_task("mmlu"), "nli, topics, boolq"), (lambda: load_task("nli", None, 0), "1개, 학습 문항은 0개"),
    (lambda: read_items("없다.jsonl", "reading"), "라벨이 있는 과제가 아니다"), (lambda: load_task("nli", "없는 폴더"), "폴더가 없다"),
    (lambda: likelihood.load_model("없는 폴더"), "모델 폴더가 아니다"),
])
def test_refusals(call, words):
    with pytest.raises(WorkshopError, match=words):
        call()


# --- likelihood -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, shots", [("topics", 0), ("topics", 2), ("nli", 1), ("boolq", 0)])
def test_likelihood_equals_plain_scoring(asked, name, shots):
    model, tokenizer = asked
    task = load_task(name, None, 12, 12)
    found = likelihood.classify(model, tokenizer, task, shots=shots, batch=5)
    way = task.wordings[0]
    for place, row in enumerate(task.test):
        prompt = likelihood.make_prompt(way, row, task.shots(shots), "<s>")
        expected = [plainly(model, tokenizer, prompt, answer) for answer in way.choices]
        assert found.scores.log_likelihoods[place] == pytest.approx(expected, abs=2e-4)
        assert found.predictions[place] == int(np.argmax(expected))
    if name == "boolq":
        assert found.scores.truncated > 0  # the context is 64 tokens: the prompts are cut at the left, and counted


def test_normalisation_lets_long_answers_win():
    scores = np.array([[-4.0, -5.0], [-2.0, -9.0]])
    lengths = np.array([[2, 5], [1, 3]])
    assert likelihood.choose(scores).tolist() == [0, 0]
    assert likelihood.choose(scores, lengths).tolist() == [1, 0]
    found = likelihood.Scores(scores, lengths, lengths, 0)
    assert found.choose("chars").tolist() == [1, 0]
    with pytest.raises(WorkshopError, match="none, chars, tokens"):
        found.choose("words")


def test_tokens_of_the_answer_are_those_of_the_whole(asked):
    _, tokenizer = asked
    before, after = likelihood.split_tokens(tokenizer, "제목: 새 전지\n분야: ", "정치")
    assert tokenizer.decode(before + after) == "제목: 새 전지\n분야: 정치" and tokenizer.decode(after) == " 정치"


def test_calibration_takes_the_habit_away(asked, monkeypatch):
    model, tokenizer = asked
    habit = np.array([0.0, -5.0, -5.0])

    def rigged(model, tokenizer, contexts, answers, batch=32):
        evidence = np.array([[0.0, 0.0, 1.0] if "서연" in context else [0.0, 0.0, 0.0] for context in contexts])
        return likelihood.Scores(evidence + habit, np.ones((len(contexts), 3)), np.ones((len(contexts), 3)), 0)

    monkeypatch.setattr(likelihood, "score_answers", rigged)
    rows = [{"premise": "서연이는 갔다.", "hypothesis": "안 갔다.", "label": 2}]
    task = replace(TASKS["nli"], test=tuple(rows))
    assert likelihood.classify(model, tokenizer, task).predictions.tolist() == [0]
    assert likelihood.classify(model, tokenizer, task, calibrate=True).predictions.tolist() == [2]


@pytest.mark.parametrize("by", ["content", "place"])
def test_order_sensitivity_tells_reading_from_habit(asked, monkeypatch, by):
    model, tokenizer = asked
    rows = [{"title": f"{label} 소식", "label": number} for number, label in enumerate(TASKS["topics"].labels)] * 3

    def rigged(model, tokenizer, contexts, answers, batch=32):
        found = np.zeros((len(contexts), len(answers[0])))
        for line, context in enumerate(contexts):
            options = context.split("\n")[0].removeprefix("<s>보기: ")
            label = context.split("제목: ")[1].split(" 소식")[0]
            found[line, place_of(options, label) if by == "content" else 0] = 1
        return likelihood.Scores(found, found, found, 0)

    def place_of(options, label):
        return next(place for place, letter in enumerate(likelihood.LETTERS[:7]) if f"{letter}. {label}" in options)

    monkeypatch.setattr(likelihood, "score_answers", rigged)
    report = likelihood.order_sensitivity(model, tokenizer, replace(TASKS["topics"], test=tuple(rows)))
    assert len(report.accuracies) == 7
    if by == "content":
        assert report.accuracies == [1] * 7 and report.same_label == 1 and report.same_place == 0
        assert report.positions == pytest.approx([1 / 7] * 7)
    else:
        assert report.accuracies == pytest.approx([1 / 7] * 7) and report.same_label == 0 and report.same_place == 1
        assert report.positions.tolist() == [1, 0, 0, 0, 0, 0, 0]


def test_examples_fit_the_context(asked):
    _, tokenizer = asked
    task = load_task("topics", None, 40, 40)
    for context in (40, 64, 300):
        shots = likelihood.fitting_shots(task, tokenizer, context)
        prompts = [likelihood.make_prompt(task.wordings[0], row, task.shots(shots), "<s>") for row in task.test]
        lengths = [len(ids) for ids in tokenizer(prompts, add_special_tokens=False)["input_ids"]]
        assert shots == 0 or np.mean(np.array(lengths) + 3 <= context) >= 0.9
        assert shots <= 5
    assert shots == 5


def test_written_answers_are_the_greedy_ones(asked):
    model, tokenizer = asked
    prompts = ["<s>어느 날", "<s>숲속 마을에 사는 고양이가", "<s>글"]
    one_by_one = []
    for prompt in prompts:
        ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")["input_ids"]
        new = model.generate(ids, max_new_tokens=6, do_sample=False, pad_token_id=0)[0, ids.shape[1] :]
        lines = tokenizer.decode(new, skip_special_tokens=True).strip().splitlines()
        one_by_one.append(lines[0].strip() if lines else "")
    assert likelihood.write_answers(model, tokenizer, prompts, tokens=6) == one_by_one


@pytest.mark.slow
def test_lm_eval_gives_the_same_accuracy(asked, home, tmp_path):
    pytest.importorskip("lm_eval")
    model, tokenizer = asked
    tasks = [load_task(name, None, 30, 20) for name in ("nli", "topics", "boolq")]
    for task in tasks:
        harness.write_task(task, tmp_path, start=likelihood.start_token(tokenizer))
    found = harness.run_lm_eval(home / "base_model", tmp_path, [task.name for task in tasks], shots=1)
    for task in tasks:  # without an example: week 7's notebook asserts the same
        answers = likelihood.classify(model, tokenizer, task, shots=1)
        gold = [row["label"] for row in task.test]
        assert found[task.name]["acc"] == answers.accuracy
        assert found[task.name]["acc_norm"] == float((answers.scores.choose("chars") == gold).mean())
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".jsonl"] * 6 + [".yaml"] * 3  # the run leaves nothing behind


def test_harness_refusals(home, tmp_path):
    with pytest.raises(WorkshopError, match="객관식 과제"):
        harness.write_task(load_task("reading", None, 4, 4), tmp_path)
    if harness.available():
        with pytest.raises(WorkshopError, match="workshop_nli.yaml이 없다"):
            harness.run_lm_eval(home / "base_model", tmp_path, ["nli"])
    assert harness.jinja("{premise}\n답: {x}") == "{{premise}}\n답: {{x}}"


# --- belief and bits ------------------------------------------------------------------------------------------------------


def test_contamination_finds_what_was_planted():
    places = ("솔내", 1987), ("달여울", 2003), ("갈미", 1999)
    items = [f"{name} 마을의 도서관은 {n}년에 문을 열었고 지금은 하루에 {n}명이 찾아온다" for name, n in places]
    items += ["짧은 제목", "여섯 낱말로 된 조금 긴 제목"]
    documents = ["아무 상관이 없는 글이다.", f"어제 읽은 글. {items[1].replace(' ', '  ')}! 그리고 끝."]
    documents += ["앞말 여섯, 낱말로 된 조금 긴 제목 뒷말", "짧은 제목"]
    assert belief.contamination(items, documents).tolist() == [0, 1, 0, 0, 1]
    half = belief.contamination([items[0] + " " + "그 옆에는 오래된 느티나무가 한 그루 서 있어서 여름이면 사람들이 모인다"], [items[0]])[0]
    assert 0 < half < 1


def test_perplexity_turns_round_where_bits_do_not():
    rows = perplexity.compare_tokenizers(perplexity.course_encoders(TEXTS[:40], (600,)), TEXTS[:40], TEXTS[40:])
    assert rows[0]["perplexity"] < rows[1]["perplexity"] and rows[0]["bpc"] > rows[1]["bpc"]
    assert rows[0]["tokens"] == sum(len(text.encode()) + 1 for text in TEXTS[40:])
    for row in rows:
        assert row["nats"] == pytest.approx(row["tokens"] * np.log(row["perplexity"])) and row["nats"] == pytest.approx(
            row["bpc"] * row["characters"] * np.log(2))
    with pytest.raises(WorkshopError, match="토큰이 0개"):
        perplexity.perplexity(1.0, 0)


def test_perplexity_of_a_model_is_week_fives(asked, home):
    model, tokenizer = asked
    size = SimpleNamespace(validation_chars=10**9, context=CONTEXT)
    validation = pretraining.held_out(home / "corpus" / "validation.jsonl", tokenizer, size)
    found = perplexity.of_model(model, tokenizer, TEXTS[40:])
    assert found["bpc"] == pytest.approx(pretraining.evaluate(model, validation)["val_bpc"])
    assert not perplexity.of_validation(model.eval(), validation)["perplexity"] < 1


# --- the stage ------------------------------------------------------------------------------------------------------------


class Balanced(HTMLParser):
    """Fails where a tag is closed that is not open."""

    def __init__(self):
        super().__init__()
        self.open, self.text = [], []

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "rect", "line"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in ("rect", "line"):
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def finished(home, tmp_path_factory):
    settings = replace(PROFILES["tiny"].evaluation, test=16, train=24, min_steps=2, epochs=1, sensitivity_items=6, max_length=48,
                       validation_chars=2_000, ngram_chars=8_000)
    out = tmp_path_factory.mktemp("evaluation")
    inputs = {name: home / name for name in ("corpus", "base_model", "task_model")}
    return out, evaluation.build(workspace.Job(out, inputs, settings, 0, None))


def test_stage_measures_every_task(finished):
    _, metrics = finished
    assert all(isinstance(value, int | float) and not np.isnan(value) for value in metrics.values())
    for name in TASKS:
        assert metrics[f"{name}_items"] == 16
        assert 0 <= metrics[f"{name}_ci_low"] <= metrics[f"{name}_accuracy"] <= metrics[f"{name}_ci_high"] <= 1
        for method in ("zero_shot", "tfidf", "majority") if TASKS[name].labels else ():
            assert 0 <= metrics[f"{name}_{method}_accuracy"] <= 1
    assert {"nli_partial_accuracy", "boolq_partial_accuracy", "sts_partial_accuracy"} <= metrics.keys()
    assert metrics["bpc"] > 0 and metrics["sts_pearson_ci_low"] <= metrics["sts_pearson"] <= metrics["sts_pearson_ci_high"]
    assert {"reading_f1", "sentiment_same_place", "nli_wording_spread", "topics_contaminated"} <= metrics.keys()


def test_stage_writes_a_report_and_every_answer(finished):
    out, metrics = finished
    assert sorted(path.name for path in out.iterdir()) == ["answers.jsonl", "eval_report.html", "eval_report.json", "lm_eval"]
    assert len(list((out / "lm_eval").glob("*.yaml"))) == sum(bool(task.labels) for task in TASKS.values())
    rows = [json.loads(line) for line in (out / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 16 * len(TASKS)
    heads = [row["correct"]["head"] for row in rows if row["task"] == "nli"]
    assert np.mean(heads) == metrics["nli_accuracy"]
    report = json.loads((out / "eval_report.json").read_text(encoding="utf-8"))
    assert list(report["tasks"]) == list(PROFILES["tiny"].evaluation.tasks) and report["data"] == "bundled"
    assert sum(map(sum, report["tasks"]["nli"]["confusion"])) == 16
    page = Balanced()
    text = (out / "eval_report.html").read_text(encoding="utf-8")
    page.feed(text)
    assert not page.open and "http" not in text and str(out) not in text
    words = " ".join(page.text)
    for wanted in ("평가 보고서", "자연어 추론", "맥니머 p", "고르게 찍기", "늘 같은 자리", "문자당 비트", "학습 글과 겹친 문항"):
        assert wanted in words


def test_stage_shows_no_sentence_of_other_people(home, tmp_path):
    rows = [dict(row, source="s", premise=f"비밀스러운 전제 {i}") for i, row in enumerate(NLI * 4)]
    for name in ("dev", "train"):
        klue(tmp_path / "data", [dict(row, hypothesis=f"{name} {i}") for i, row in enumerate(rows)], f"klue-nli-v1.1_{name}.json")
    out = tmp_path / "out"
    out.mkdir()
    settings = replace(PROFILES["tiny"].evaluation, tasks=("nli",), data_test=12, data_train=24, min_steps=2, sensitivity_items=4,
                       validation_chars=1_000, ngram_chars=4_000)
    inputs = {name: home / name for name in ("corpus", "base_model", "task_model")}
    metrics = evaluation.build(workspace.Job(out, inputs, settings, 0, tmp_path / "data"))
    assert metrics["nli_items"] == 12
    for name in ("eval_report.html", "eval_report.json", "answers.jsonl"):
        assert "비밀스러운" not in (out / name).read_text(encoding="utf-8")


def test_compare_and_baselines():
    rng = random.Random(0)
    rows = tuple({"id": str(i), "premise": f"글 {rng.random()}", "hypothesis": ("맞다", "아니다", "글쎄")[i % 3], "label": i % 3,
                  "source": "x"} for i in range(60))
    names = ("가", "나", "다")
    task = Task("nli", "시험", ("premise", "hypothesis"), names, (Wording("{premise}", names),), rows[:30], rows[30:])
    gold = np.array([row["label"] for row in task.test])
    assert (evaluation.tfidf(task, ("hypothesis",)) == gold).all()  # the flaw that a hypothesis-only baseline brings to light
    right, wrong = (evaluation.Method(name, said, said == gold) for name, said in (("a", gold), ("b", (gold + 1) % 3)))
    found = evaluation.compare(right, wrong)
    assert (found["only_first"], found["only_second"], found["difference"], found["low"]) == (30, 0, 1, 1) and found["p_value"] < 1e-8
    assert right.interval == evaluation.wilson_interval(30, 30)


def test_a_larger_model_by_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("WORKSHOP_EVAL_MODEL", raising=False)
    assert evaluation.model_folder(tmp_path) == tmp_path
    monkeypatch.setenv("WORKSHOP_EVAL_MODEL", "/큰 모델")
    assert str(evaluation.model_folder(tmp_path)) == "/큰 모델"


def test_stage_stands_in_the_course():
    stage = workspace.STAGES["evaluation"]
    assert stage.week == 7 and {"base_model", "task_model"} <= set(stage.inputs)
    assert with_settings(PROFILES["tiny"], "evaluation", test=5).evaluation.test == 5
