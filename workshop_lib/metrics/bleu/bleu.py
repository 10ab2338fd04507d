"""n-gram 정밀도의 기하 평균. 글자, 어절, 형태소로 센다."""

import datasets
import evaluate

from workshop_lib.metrics import scores


class Bleu(evaluate.Metric):
    """`scores.bleu` behind the interface of `evaluate`."""

    def _info(self):
        return evaluate.MetricInfo(
            description="n-gram 정밀도의 기하 평균. 글자, 어절, 형태소로 센다.",
            citation="Papineni et al. 2002", inputs_description="predictions, references",
            features=datasets.Features({"predictions": datasets.Value("string"), "references": datasets.Value("string")}),
        )

    def _compute(self, predictions, references, by="char", order=4):
        return {"bleu": scores.bleu(predictions, references, by, order)}
