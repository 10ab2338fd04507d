"""글자 n-gram의 F2 점수."""

import datasets
import evaluate

from workshop_lib.metrics import scores


class Chrf(evaluate.Metric):
    """`scores.chrf` behind the interface of `evaluate`."""

    def _info(self):
        return evaluate.MetricInfo(
            description="글자 n-gram의 F2 점수.", citation="Popović 2015", inputs_description="predictions, references",
            features=datasets.Features({"predictions": datasets.Value("string"), "references": datasets.Value("string")}),
        )

    def _compute(self, predictions, references, order=6, beta=2.0):
        return {"chrf": scores.chrf(predictions, references, order, beta)}
