"""정규화한 답이 정답과 같은 비율과, 글자 단위 F1."""

import datasets
import evaluate

from workshop_lib.metrics import scores


class ExactMatch(evaluate.Metric):
    """`scores.exact_match` behind the interface of `evaluate`."""

    def _info(self):
        return evaluate.MetricInfo(
            description="정규화한 답이 정답과 같은 비율과, 글자 단위 F1.", citation="", inputs_description="predictions, references",
            features=[
                datasets.Features({"predictions": datasets.Value("string"), "references": datasets.Sequence(datasets.Value("string"))}),
                datasets.Features({"predictions": datasets.Value("string"), "references": datasets.Value("string")}),
            ],
        )

    def _compute(self, predictions, references):
        return {"exact_match": scores.exact_match(predictions, references), "char_f1": scores.char_f1(predictions, references)}
