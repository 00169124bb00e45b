"""Compares two systems whose summaries are columns of one file: paired differences with intervals.

python examples/compare_systems.py
"""

import tempfile
from pathlib import Path

from serve_app.core.settings import load_settings
from serve_app.metrics.loss import LossFunction
from serve_app.offline.corpus import ScoreJob
from serve_app.offline.corpus.scorer import LossTerms, SuiteRecipe
from serve_app.offline.report.analysis import Choices, analyse
from serve_app.offline.report.reader import read_systems
from serve_app.offline.report.render import to_markdown

PAIRS = Path(__file__).parent / "pairs.csv"


def main() -> None:
    settings = load_settings()
    loss = LossFunction.of(settings)
    recipe = SuiteRecipe(settings, LossTerms(loss))
    with tempfile.TemporaryDirectory() as folder:
        scored = str(Path(folder) / "scored.parquet")
        job = ScoreJob.prepare(PAIRS, scored, original="original", generated=["model_a", "model_b"])
        job.run(lambda: recipe.engine(False, None, None), recipe.describe())
        print(to_markdown(analyse(read_systems([scored]), Choices(loss, id="id"))))


if __name__ == "__main__":
    main()
