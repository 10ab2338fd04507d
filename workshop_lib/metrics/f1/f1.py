"""정밀도와 재현율의 조화 평균."""

import datasets
import evaluate

from workshop_lib.metrics import scores


class F1(evaluate.Metric):
    """`scores.f1` behind the interface of `evaluate`."""

    def _info(self):
        return evaluate.MetricInfo(
            description="정밀도와 재현율의 조화 평균.", citation="", inputs_description="predictions, references",
            features=datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}),
        )

    def _compute(self, predictions, references, average="macro", positive=1):
        return {"f1": scores.f1(predictions, references, average, positive)}
