"""Where metrics also go, beside metrics.jsonl: TensorBoard, MLflow, Weights & Biases.

In: a run's recipe, lines of metrics, results and files. Out: one tracked run in each tracker that the recipe names.
"""

from compress.training.trackers.tracked import TRACKED, Trackers, add_artifacts, open_trackers

__all__ = ["TRACKED", "Trackers", "add_artifacts", "open_trackers"]
