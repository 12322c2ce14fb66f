"""The lessons in order, with the full file, a command and the measured claims of each, as a table for the README.

Its sources are the docstrings in minillm/lessons/ and the ledger of claims; `python -m benchmarks.readme` writes it.
"""

from benchmarks.claims import CLAIMS
from minillm.lessons.__main__ import ORDER, docstring, field


def table(figures: dict) -> str:
    """One Markdown row per lesson."""
    lines = ["| topic | lesson | full file | try | measured claim |", "|---|---|---|---|---|"]
    return "\n".join([*lines, *(row(name, figures) for name in ORDER), ""])


def row(name: str, figures: dict) -> str:
    """The row of one lesson."""
    topic = docstring(name).partition(":")[0]
    files = ", ".join(f"[`{file.removeprefix('minillm/')}`]({file})" for file in field(name, "Then read:").split(", "))
    claims = [claim for claim in CLAIMS if claim.lesson == name and claim.is_measured(figures)]
    told = "<br>".join(f"{claim.sentence}: {claim.verdict(figures)}" for claim in claims)
    lesson = f"[`{name}`](minillm/lessons/{name}.py)"
    return f"| {topic} | {lesson} | {files} | `{field(name, 'Try:')}` | {told} |"
