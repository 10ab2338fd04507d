"""eval_report.json and eval_report.html: what was measured this week, and how far to believe it."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

import numpy as np

TITLES = {
    "head": "미세조정한 분류기", "tfidf": "TF-IDF + 로지스틱 회귀", "partial": "한쪽 글만 읽은 TF-IDF", "majority": "다수 라벨",
    "zero_shot": "예시 없이 묻기", "calibrated": "예시 없이 묻고 버릇을 뺌", "few_shot": "예시와 함께 묻기",
    "written": "모델이 쓴 답", "random_word": "글에서 아무 낱말",
}
PAIRS = (("head", "tfidf"), ("head", "zero_shot"), ("calibrated", "zero_shot"), ("few_shot", "zero_shot"), ("written", "random_word"))
EXAMPLES = 4  # of each task, from the course's own items only


def contents(results: Sequence, ways: dict, language: dict, pieces: list[dict], model, job) -> dict:
    """The report as eval_report.json holds it. results: `evaluation.TaskResult`s; ways: task → accuracies by wording and order;
    language: the model's bits; pieces: a row a tokenizer."""
    from workshop_lib.evaluation import compare

    tasks = {}
    for result in results:
        task, methods = result.task, result.methods
        gold = [row.get("label") for row in task.test]
        rows = [{"method": name, "title": TITLES[name], "accuracy": m.accuracy, "low": m.interval[0], "high": m.interval[1], "f1": m.f1}
                for name in TITLES if (m := methods.get(name))]
        entry = {
            "title": task.title, "labels": list(task.labels), "items": len(gold), "train_rows": len(task.train), "methods": rows,
            "head": "task_model" if result.finished else "trained" if task.labels else "",
            "slices": _slices(task.test, result.headline), "notes": result.notes | ways.get(task.name, {}),
            "comparisons": [{"first": a, "second": b} | compare(methods[a], methods[b]) for a, b in PAIRS if a in methods and b in methods],
        }
        if task.labels:
            counts = [[0] * len(task.labels) for _ in task.labels]
            for label, prediction in zip(gold, result.headline.predictions.tolist()):
                counts[label][prediction] += 1
            entry["confusion"] = counts
        if job.data is None:  # other people's sentences are not for a report
            entry["examples"] = _examples(result)
        tasks[task.name] = entry
    return {
        "model": {"parameters": int(model.num_parameters()), "context": int(model.config.max_position_embeddings)},
        "data": "real" if job.data else "bundled", "seed": job.seed, "tasks": tasks, "language": language, "tokenizers": pieces,
    }


def _slices(rows: Sequence[dict], method) -> list[dict]:
    """The headline's accuracy on each kind of rows, where there are several."""
    from workshop_lib.belief import wilson_interval

    sources = np.array([row["source"] for row in rows])
    found = []
    for source in sorted(set(sources.tolist())):
        right, total = int(method.correct[sources == source].sum()), int((sources == source).sum())
        low, high = wilson_interval(right, total)
        found.append({"source": source, "items": total, "accuracy": right / total, "low": low, "high": high})
    return found if len(found) > 1 else []


def _examples(result) -> list[dict]:
    """Some wrong answers of the headline method, the first of the rows."""
    task, method = result.task, result.headline
    wrong = np.flatnonzero(~method.correct)[:EXAMPLES]

    def named(value: object) -> str:
        return task.labels[int(value)] if task.labels else str(value)

    return [{"text": task.wordings[0].ask(task.test[i]), "answer": named(method.predictions[i]),
             "right": named(task.test[i]["label"]) if task.labels else " / ".join(task.test[i]["answers"])} for i in wrong]


# --- the page -------------------------------------------------------------------------------------------------------------

STYLE = (
    "body{font-family:sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;line-height:1.6;color:#222}"
    "table{border-collapse:collapse;margin:.5rem 0}th,td{border-bottom:1px solid #ddd;padding:.2rem .9rem .2rem 0;text-align:left}"
    "td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}pre{white-space:pre-wrap;background:#f6f6f6;padding:.5rem;margin:.3rem 0}"
    ".note{color:#555}"
)


def page(report: dict) -> str:
    """The report as one HTML page: inline SVG, no scripts, nothing from outside."""
    size, language = report["model"], report["language"]
    data = "실제 데이터로" if report["data"] == "real" else "강의 자료에 든 문항으로"
    parts = [
        "<h1>평가 보고서</h1>",
        f"<p>파라미터 {size['parameters']:,}개, 문맥 {size['context']:,}토큰인 모델을 {data} 쟀다. "
        "막대의 가는 선은 95 % 구간이다. 두 구간이 겹친다고 차이가 없다는 뜻은 아니므로, 같은 문항에 답한 두 방법은 짝지어 검정한다.</p>",
        "<h2>한눈에</h2>", _overview(report["tasks"]),
    ]
    parts += [_task(name, entry) for name, entry in report["tasks"].items()]
    parts += [
        "<h2>묻는 방식에 따른 흔들림</h2>", _sensitivity(report["tasks"]), "<h2>언어 모형으로서</h2>",
        f"<p>검증용 글 {language['characters']:,}자: 문자당 비트 <b>{language['bpc']:.3f}</b>, 토큰 퍼플렉서티 {language['perplexity']:.2f}"
        f"(토큰 {language['tokens']:,}개).</p>",
        _pieces(report["tokenizers"]),
    ]
    head = f'<!doctype html><html lang="ko"><head><meta charset="utf-8"><title>평가 보고서</title><style>{STYLE}</style></head><body>'
    return head + "\n".join(parts) + "</body></html>\n"


def _overview(tasks: dict) -> str:
    rows = []
    for entry in tasks.values():
        best = entry["methods"][0]
        rows.append([entry["title"], f"{entry['items']:,}", best["title"], _percent(best["accuracy"]), _interval(best),
                     _percent(entry["notes"].get("contaminated", 0.0))])
    return table(("과제", "문항", "방법", "정확도", "95 % 구간", "학습 글과 겹친 문항"), rows, numbers=(1, 3, 4, 5))


def _task(name: str, entry: dict) -> str:
    labels = entry["labels"]
    chance = 1 / len(labels) if labels else None
    parts = [f"<h2>{html.escape(entry['title'])} <small>({name})</small></h2>", bars(entry["methods"], chance)]
    notes = entry["notes"]
    told = [f"학습 문항 {entry['train_rows']:,}개."]
    if entry["head"] == "task_model":
        told = [f"분류기는 6주차에 미세조정한 모델이고, TF-IDF는 여기서 {entry['train_rows']:,}개로 학습했으므로 둘의 학습량이 다르다."]
    if not labels:
        told = [f"글자 단위 F1 {notes['f1']:.3f} [{notes['f1_ci_low']:.3f}, {notes['f1_ci_high']:.3f}]. "
                f"아무 낱말이나 고르면 {notes['random_word_f1']:.3f}이다."]
    else:
        told.append(f"예시 없이 물을 때 문맥에 다 들어가지 않아 앞을 자른 문항은 {_percent(notes['truncated'])}이다.")
        shots = notes["shots"]
        told.append(f"문맥에 들어가는 예시는 {shots}개이다." if shots else "문맥에 예시를 하나도 넣을 수 없어 예시와 함께 묻지 않았다.")
    if "pearson" in notes:
        low, high = notes["pearson_ci_low"], notes["pearson_ci_high"]
        told.append(f"사람이 매긴 점수와의 상관은 {notes['pearson']:.3f} [{low:.3f}, {high:.3f}]이다.")
    parts.append(f'<p class="note">{" ".join(told)}</p>')
    if entry["comparisons"]:
        rows = [[TITLES[c["first"]], TITLES[c["second"]], f"{c['only_first']} : {c['only_second']}", f"{100 * c['difference']:+.1f} %p",
                 f"[{100 * c['low']:+.1f}, {100 * c['high']:+.1f}]", p_value(c["p_value"])] for c in entry["comparisons"]]
        parts.append(table(("첫째", "둘째", "한쪽만 맞힌 문항", "차이", "95 % 구간", "맥니머 p"), rows, numbers=(2, 3, 4, 5)))
    if entry["slices"]:
        rows = [[s["source"], f"{s['items']:,}", _percent(s["accuracy"]), _interval(s)] for s in entry["slices"]]
        parts.append(table(("문항의 갈래", "문항", "정확도", "95 % 구간"), rows, numbers=(1, 2, 3)))
    if "confusion" in entry:
        rows = [[label, *(f"{count:,}" for count in counts)] for label, counts in zip(labels, entry["confusion"])]
        parts.append("<details><summary>혼동 행렬(행은 정답, 열은 예측)</summary>"
                     + table(("", *labels), rows, numbers=range(1, len(labels) + 1)) + "</details>")
    if entry.get("examples"):
        shown = (f"<pre>{html.escape(e['text'])} <b>{html.escape(e['answer'])}</b>  (정답: {html.escape(e['right'])})</pre>"
                 for e in entry["examples"])
        parts.append("<details><summary>틀린 문항 몇 개</summary>" + "".join(shown) + "</details>")
    return "\n".join(parts)


def _sensitivity(tasks: dict) -> str:
    rows = [[entry["title"], " · ".join(map(_percent, notes["wordings"])), _percent(notes["orders"]["same_label"]),
             _percent(notes["orders"]["same_place"])] for entry in tasks.values() if "orders" in (notes := entry["notes"])]
    return ('<p class="note">같은 문항을 세 가지 말로 묻고, 보기의 순서를 돌려 가며 물었다. 내용을 보고 답하는 모델은 '
            "순서가 바뀌어도 같은 라벨을 고르고, 자리를 보고 답하는 모델은 라벨이 바뀌어도 같은 자리를 고른다.</p>"
            + table(("과제", "말을 바꾼 정확도", "늘 같은 라벨", "늘 같은 자리"), rows, numbers=(2, 3)))


def _pieces(rows: list[dict]) -> str:
    cells = [[row["name"], f"{row['tokens']:,}", f"{row['perplexity']:.2f}", f"{row['bpc']:.3f}"] for row in rows]
    return ('<p class="note">같은 글을 다른 조각으로 나누어 같은 n-그램 모형을 학습했다. 퍼플렉서티는 조각의 크기에 달려 있어 '
            "토크나이저가 다르면 견줄 수 없고, 문자당 비트는 견줄 수 있다.</p>"
            + table(("토크나이저", "토큰", "퍼플렉서티", "문자당 비트"), cells, numbers=(1, 2, 3)))


def table(header: Sequence[str], rows: Iterable[Sequence[str]], numbers: Iterable[int] = ()) -> str:
    """An HTML table of texts; the columns in `numbers` are set to the right."""
    right = set(numbers)

    def cells(row: Sequence[str], tag: str) -> str:
        return "".join(f"<{tag}{' class=n' if i in right else ''}>{html.escape(str(cell))}</{tag}>" for i, cell in enumerate(row))

    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    return f"<table><thead><tr>{cells(header, 'th')}</tr></thead><tbody>{body}</tbody></table>"


def bars(methods: Sequence[dict], chance: float | None = None) -> str:
    """Accuracies between 0 and 100 % with their intervals, and a dashed line at chance."""
    width, left, step = 420, 190, 26
    height = step * len(methods) + 24

    def x(share: float) -> float:
        return left + share * width

    parts = [f'<svg viewBox="0 0 {left + width + 70} {height}" width="{left + width + 70}" role="img" aria-label="방법마다의 정확도" '
             'style="max-width:100%;height:auto" font-size="13" fill="#222">']
    for i, method in enumerate(methods):
        y = step * i + 4
        colour = "#4a90c4" if i == 0 else "#b9cfe0"
        parts += [
            f'<text x="{left - 8}" y="{y + 14}" text-anchor="end">{html.escape(method["title"])}</text>',
            f'<rect x="{left}" y="{y}" width="{method["accuracy"] * width:.1f}" height="18" fill="{colour}"/>',
            f'<line x1="{x(method["low"]):.1f}" x2="{x(method["high"]):.1f}" y1="{y + 9}" y2="{y + 9}" stroke="#222" stroke-width="2"/>',
            f'<text x="{left + width + 8}" y="{y + 14}">{_percent(method["accuracy"])}</text>',
        ]
    bottom = step * len(methods) + 2
    if chance is not None:
        parts.append(f'<line x1="{x(chance):.1f}" x2="{x(chance):.1f}" y1="0" y2="{bottom}" stroke="#a33" stroke-dasharray="4 3"/>'
                     f'<text x="{x(chance):.1f}" y="{bottom + 16}" text-anchor="middle" fill="#a33">고르게 찍기</text>')
    parts.append(f'<line x1="{left}" x2="{left}" y1="0" y2="{bottom}" stroke="#222"/></svg>')
    return "".join(parts)


def p_value(p: float) -> str:
    """A p-value as a reader wants it."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _interval(row: dict) -> str:
    return f"[{100 * row['low']:.1f}, {100 * row['high']:.1f}]"
