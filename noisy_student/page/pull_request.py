"""The answer, the chart and the table of the page as Markdown, for a pull request. Pure."""

from typing import Any

import pandas as pd

from noisy_student.core.markdown import escaped, markdown_table
from noisy_student.evaluation import gate, outlook
from noisy_student.evaluation.results import distilled_sentences, table_rows, verdict

CHART = """```mermaid
xychart-beta
    title "Test accuracy, %"
    x-axis [{names}]
    y-axis {low} --> {high}
    line [{accuracies}]
```"""


def pull_request(history: pd.DataFrame, summary: dict[str, Any]) -> str:
    """Markdown that GitHub and GitLab show, of the `history` of iterations and the `summary` of the last one."""
    sentences = [*distilled_sentences(summary), *([gate.sentence(summary["deploy"])] if "deploy" in summary else [])]
    if summary.get("outlook"):
        sentences.append(outlook.sentence(summary["outlook"]))
    rows = table_rows(history, summary)
    cells = [[escaped(cell) for cell in row.values()] for row in rows]
    parts = [f"**{verdict(summary)}**", *map(escaped, sentences), chart(history), markdown_table(list(rows[0]), cells)]
    return "\n\n".join(parts) + "\n"


def chart(history: pd.DataFrame) -> str:
    """The accuracy of each iteration as a Mermaid chart."""
    accuracies = 100 * history["accuracy"]
    return CHART.format(
        names=", ".join(history["iteration"]),
        low=int(accuracies.min()) - 1,
        high=min(100, int(accuracies.max()) + 2),
        accuracies=", ".join(f"{each:.1f}" for each in accuracies),
    )
