"""정답과 겹치는 n-gram과 공통 부분열의 F1. 글자, 어절, 형태소로 센다."""

import datasets
import evaluate

from workshop_lib.metrics import scores


class Rouge(evaluate.Metric):
    """`scores.rouge` behind the interface of `evaluate`."""

    def _info(self):
        return evaluate.MetricInfo(
            description="정답과 겹치는 n-gram과 공통 부분열의 F1. 글자, 어절, 형태소로 센다.",
            citation="Lin 2004", inputs_description="predictions, references",
            features=datasets.Features({"predictions": datasets.Value("string"), "references": datasets.Value("string")}),
        )

    def _compute(self, predictions, references, by="char"):
        return scores.rouge(predictions, references, by)
