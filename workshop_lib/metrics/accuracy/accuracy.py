"""맞은 예측의 비율."""

import datasets
import evaluate

from workshop_lib.metrics import scores


class Accuracy(evaluate.Metric):
    """`scores.accuracy` behind the interface of `evaluate`."""

    def _info(self):
        return evaluate.MetricInfo(
            description="맞은 예측의 비율.", citation="", inputs_description="predictions, references",
            features=datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}),
        )

    def _compute(self, predictions, references):
        return {"accuracy": scores.accuracy(predictions, references)}
