"""The metrics of replies against references as a module of Hugging Face `evaluate` that needs no network.

`evaluate.load("…/metrics/as_evaluate.py", "rougeL")` gives ROUGE-L; without a second name it is token F1.
"""

# On two lines: `evaluate` reads these to find what a local module depends on.
import datasets
import evaluate

from hfkit.evaluation.metrics import metric_named
from hfkit.evaluation.rows import Generation, GenerationRow

_DEFAULT = "token_f1"


class ReplyMetric(evaluate.Metric):  # type: ignore[misc]
    """`compute(predictions, references)` gives the metric by its name, and in `rows` what each row has by itself. The
    reference of a row is a text, or a list of texts that are all right. Further arguments are the metric's settings."""

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description="A metric of replies against references, by the name that recipes call it.",
            citation="docs/metrics.md names the source of each.",
            inputs_description="predictions: texts; references: texts, or lists of texts",
            features=[
                datasets.Features({"predictions": text, "references": text}),
                datasets.Features({"predictions": text, "references": datasets.Sequence(text)}),
            ],
        )

    def _compute(
        self, predictions: list[str], references: list[str] | list[list[str]], **settings: object
    ) -> dict[str, float | list[float]]:
        import numpy as np

        name = _DEFAULT if self.config_name == "default" else self.config_name
        metric = metric_named(name, **settings)  # type: ignore[arg-type]
        rows = [
            GenerationRow(
                id=str(place),
                group=str(place),
                messages=(),
                references=(reference,) if isinstance(reference, str) else tuple(reference),
            )
            for place, reference in enumerate(references)
        ]
        answers = [Generation(text=prediction, stopped=True) for prediction in predictions]
        numbers = np.asarray([entry for entry in metric.rows(rows, answers) if entry is not None], np.float64)
        return {name: float(metric.value(numbers.sum(axis=0))), "rows": metric.value(numbers).tolist()}
