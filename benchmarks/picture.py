"""The README's picture: python -m benchmarks.picture RUN

Three views of one run, in benchmarks/picture.png: its losses above the entropy of the text's source, a generated story,
and the choice of one of its tokens, the one at which the model was least certain. Needs matplotlib.
"""

import textwrap
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.record import ROOT
from minillm.config.flags import Parser
from minillm.decoding.explain import Choice, ExplainingSampler
from minillm.decoding.generate import generate
from minillm.decoding.sampler import SamplingConfig
from minillm.runs.folder import OpenRun, open_run
from minillm.training.curves import curves_of
from minillm.training.metrics import read_metrics, read_summary

PICTURE = ROOT / "benchmarks" / "picture.png"
COLUMNS = 62  # width of the story
COLORS = {"training loss": "#9db7d5", "validation loss": "#1f4e79"}
KEPT, DROPPED, DRAWN = "#1f4e79", "#c9c9c9", "#c8553d"


def main() -> None:
    """Generate a story, explain it, and draw."""
    parser = Parser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a run")
    parser.add_argument("--seed", type=int, default=1, help="seed of the story")
    args = parser.parse()
    opened = open_run(args.run)
    story, choices = write(opened, args.seed)
    figure = Figure(figsize=(13, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, middle, right = figure.subplots(1, 3, width_ratios=(1, 1.15, 0.9))
    draw_losses(left, args.run)
    draw_story(middle, f"python sample.py --top-p 0.9 --seed {args.seed}", story)
    shown = [choice for choice in choices if choice.token in dict(choice.stages[0].best)]
    draw_choice(right, max(shown, key=lambda choice: choice.stages[0].entropy), opened.text.tokenizer.decode)
    figure.savefig(PICTURE, dpi=100)
    print(f"picture in {PICTURE}")


def write(opened: OpenRun, seed: int) -> tuple[str, list[Choice]]:
    """A generated story, and the explanation of each of its tokens."""
    choices: list[Choice] = []

    def explained(model, prompts, sampler, **how):
        return generate(model, prompts, ExplainingSampler(sampler.pipeline, choices=choices), **how)

    limit, sampling = opened.config.text.max_new_tokens, SamplingConfig(top_p=0.9)
    [found] = opened.text.generate([""], sampling, max_new_tokens=limit, seeds=[seed], write=explained)
    return found.text, choices


def draw_losses(axes: Axes, run: Path) -> None:
    """Training and validation loss, and the known floor."""
    rows = read_metrics(run / "metrics.jsonl")
    for name, curve in curves_of(rows).items():
        axes.plot(*zip(*curve, strict=True), label=name, color=COLORS[name], marker="o" if len(curve) <= 40 else "")
    floor = read_summary(run)["source_loss"]
    axes.axhline(floor, color=DRAWN, linestyle="--", label=f"entropy of the source, {floor:.3f}")
    axes.set(title="It learns", xlabel="step", ylabel="nats per token", yscale="log")
    axes.grid(alpha=0.3, which="both")
    axes.legend()


def draw_story(axes: Axes, command: str, story: str) -> None:
    """The story as text."""
    axes.set_axis_off()
    axes.set_title("It writes")
    told = "\n".join([f"$ {command}".replace("$", r"\$"), "", *textwrap.wrap(story, COLUMNS)])
    axes.text(0, 1, told, va="top", family="monospace", fontsize=8, transform=axes.transAxes)


def draw_choice(axes: Axes, choice: Choice, decode) -> None:
    """The most probable tokens: probabilities of the model, and those after the sampling pipeline."""
    before, after = choice.stages[0], choice.stages[-1]
    best = before.best[::-1]
    names = [repr(decode([token])) for token, _ in best]
    kept = dict(after.best)
    colors = [DRAWN if token == choice.token else KEPT if token in kept else DROPPED for token, _ in best]
    axes.barh(names, [p for _, p in best], color=colors)
    drawn = repr(decode([choice.token]))
    told = (
        f"{after.n_possible} of {before.n_possible:,} tokens are left by top-p;\nu = {choice.uniform:.3f} draws {drawn}"
    )
    axes.set(title="It chooses", xlabel=f"probability of the next token\n{told}")


if __name__ == "__main__":
    main()
