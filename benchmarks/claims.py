"""The ledger of claims: statements of textbooks and papers, and what was measured of them here.

A claim compares one figure of figures.json with a limit, a number or another figure. The lowest and the highest of the
repeats decide:

    held           the whole spread is on the claimed side of the limit
    did not hold   the whole spread is on the other side
    needs scale    the limit is inside the spread: more repeats, or a larger model, must decide

`python -m benchmarks.readme` writes the table into the README; a claim whose benchmark has not run yet is left out.
"""

from typing import Literal, NamedTuple

Verdict = Literal["held", "did not hold", "needs scale"]


class Figure(NamedTuple):
    """A figure of figures.json, times `factor`, as a limit."""

    name: str
    figure: str
    factor: float = 1.0


class Claim(NamedTuple):
    """A statement about one measured figure."""

    lesson: str  # the lesson of the idea
    sentence: str
    source: str
    name: str  # in figures.json
    figure: str
    comparison: Literal[">=", "<="]
    limit: float | Figure
    form: str = "{:.2f}"

    def is_measured(self, figures: dict) -> bool:
        """Whether figures.json has all figures that the claim compares."""
        needed = [(self.name, self.figure)] + ([self.limit[:2]] if isinstance(self.limit, Figure) else [])
        return all(name in figures and figure in figures[name]["figures"] for name, figure in needed)

    def verdict(self, figures: dict) -> Verdict:
        """The verdict that follows from the spread."""
        x = figures[self.name]["figures"][self.figure]
        low, high = self._limits(figures)
        if self.comparison == ">=":
            always, ever = x["low"] >= high, x["high"] >= low
        else:
            always, ever = x["high"] <= low, x["low"] <= high
        return "held" if always else "needs scale" if ever else "did not hold"

    def measured(self, figures: dict) -> str:
        """The mean of the figure with its spread, and that of its limit."""
        told = [_formatted(figures[self.name]["figures"][self.figure], self.form)]
        if isinstance(self.limit, Figure):
            told.append(_formatted(figures[self.limit.name]["figures"][self.limit.figure], self.form))
        return " against ".join(told)

    def _limits(self, figures: dict) -> tuple[float, float]:
        """The lowest and the highest value of the limit."""
        if not isinstance(self.limit, Figure):
            return self.limit, self.limit
        x = figures[self.limit.name]["figures"][self.limit.figure]
        return x["low"] * self.limit.factor, x["high"] * self.limit.factor


CLAIMS = (
    Claim(
        "cleaning",
        "a corpus cleaned of duplicates, noise and boilerplate trains a better model in as many steps",
        "Lee et al. 2022",
        *("data-cleaning", "cleaned_regret_percent", "<=", Figure("data-cleaning", "raw_regret_percent"), "{:.1f} %"),
    ),
    Claim(
        "cleaning",
        "leaked test documents make a model look better than the source of its text",
        "Carlini et al. 2021",
        *("data-cleaning", "raw_leaked_regret_percent", "<=", 0, "{:.1f} %"),
    ),
    Claim(
        "gpt",
        "a transformer predicts text better than a table of n-grams",
        "Radford et al. 2019",
        *("gpt-tiny", "regret_percent", "<=", Figure("ngram-tiny", "regret_percent"), "{:.1f} %"),
    ),
    Claim(
        "attention",
        "the memory of attention grows with the square of the length",
        "Vaswani et al. 2017",
        *("attention", "plain_bytes_exponent", ">=", 1.8, "length^{:.2f}"),
    ),
    Claim(
        "flash_attention",
        "in tiles the memory of attention grows linearly with the length",
        "Dao et al. 2022",
        *("attention", "tiled_bytes_exponent", "<=", 1.2, "length^{:.2f}"),
    ),
    Claim(
        "bert",
        "an encoder pre-trained on masked tokens learns a classification from few texts",
        "Devlin et al. 2019",
        "finetuning",
        *("fine_tuned_accuracy", ">=", Figure("finetuning", "from_nothing_accuracy"), "{:.1%}"),
    ),
    Claim(
        "mixture_of_experts",
        "experts reach a lower loss than a dense model of as many active parameters",
        "Shazeer et al. 2017",
        *("moe", "experts_loss", "<=", Figure("moe", "dense_loss"), "{:.3f}"),
    ),
    Claim(
        "mixture_of_experts",
        "a balancing loss makes experts specialize more",
        "Fedus et al. 2021",
        *("specialization", "loss_bits", ">=", Figure("specialization", "none_bits"), "{:.2f} bits"),
    ),
    Claim(
        "kv_cache",
        "with a KV cache the 1,024th token is ten times as fast",
        "Pope et al. 2022",
        *("decode-cache", "speed_up", ">=", 10, "{:.1f} x"),
    ),
    Claim(
        "cache_quantization",
        "a KV cache of 4 bits recalls facts as well as an exact one",
        "Liu et al. 2024",
        *("cache-frontier", "int4_later", ">=", 0.99, "{:.0%}"),
    ),
    Claim(
        "cache_eviction",
        "SnapKV recalls facts asked for in the prompt in a quarter of the bytes",
        "Li et al. 2024",
        *("cache-frontier", "snapkv_25_asked", ">=", 0.9, "{:.0%}"),
    ),
    Claim(
        "cache_eviction",
        "H2O recalls facts asked for later in a quarter of the bytes",
        "Zhang et al. 2023",
        *("cache-frontier", "h2o_25_later", ">=", 0.9, "{:.0%}"),
    ),
    Claim(
        "speculative_decoding",
        "a draft makes sampling twice as fast",
        "Leviathan et al. 2023",
        *("speculative-sampled", "speed_up", ">=", 2, "{:.2f} x"),
    ),
    Claim(
        "speculative_decoding",
        "a draft makes greedy decoding twice as fast",
        "Leviathan et al. 2023",
        *("speculative-greedy", "speed_up", ">=", 2, "{:.2f} x"),
    ),
    Claim(
        "continuous_batching",
        "32 requests served together finish at least twice as fast as one after the other",
        "Yu et al. 2022",
        *("engine", "over_one_by_one", ">=", 2, "{:.2f} x"),
    ),
    Claim(
        "lora",
        "an adapter of 1.5 % of the parameters comes within 5 % of the loss of training all of them",
        "Hu et al. 2021",
        *("lora", "LoRA_diary", "<=", Figure("lora", "full_diary", 1.05), "{:.3f}"),
    ),
    Claim(
        "weight_quantization",
        "weights of 8 bits cost at most half a percent of the loss",
        "Dettmers et al. 2022",
        *("weights-loss", "int8_percent", "<=", 0.5, "{:.2f} %"),
    ),
    Claim(
        "weight_quantization",
        "weights of 4 bits make decoding twice as fast as bfloat16",
        "Frantar et al. 2022",
        *("weights", "int4_ratio", ">=", 2, "{:.2f} x"),
    ),
    Claim(
        "distillation",
        "a student learns more from texts of its teacher than from a tenth of the data alone",
        "Kim and Rush 2016",
        "distillation",
        *("data_10_steps_regret", "<=", Figure("distillation", "alone_10_steps_regret"), "{:.1f} %"),
    ),
    Claim(
        "distillation",
        "a student learns more from probabilities of its teacher than from a tenth of the data alone",
        "Hinton et al. 2015",
        "distillation",
        *("knowledge_10_steps_regret", "<=", Figure("distillation", "alone_10_steps_regret"), "{:.1f} %"),
    ),
    Claim(
        "distillation",
        "a student learns more on-policy than from a tenth of the data alone",
        "Agarwal et al. 2024",
        "distillation",
        *("on_policy_10_steps_regret", "<=", Figure("distillation", "alone_10_steps_regret"), "{:.1f} %"),
    ),
    Claim(
        "distillation",
        "a student learns more from probabilities of its teacher than from all the data alone",
        "Hinton et al. 2015",
        "distillation",
        *("knowledge_100_steps_regret", "<=", Figure("distillation", "alone_100_steps_regret"), "{:.1f} %"),
    ),
    Claim(
        "distillation",
        "a draft that was distilled from its target makes greedy decoding twice as fast",
        "Zhou et al. 2024",
        *("speculative-distilled-greedy", "speed_up", ">=", 2, "{:.2f} x"),
    ),
    Claim(
        "distillation",
        "a target accepts more tokens of a draft that was distilled from it",
        "Zhou et al. 2024",
        "speculative-distilled-greedy",
        *("acceptance", ">=", Figure("speculative-greedy", "acceptance"), "{:.0%}"),
    ),
)


def table(figures: dict) -> str:
    """The measured claims as a Markdown table."""
    lines = ["| claim | source | measured | verdict |", "|---|---|---|---|"]
    for claim in CLAIMS:
        if claim.is_measured(figures):
            cells = (claim.sentence, claim.source, claim.measured(figures), f"**{claim.verdict(figures)}**")
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _formatted(x: dict, form: str) -> str:
    """A mean, with its spread if there are several runs."""
    mean = form.format(x["mean"])
    return mean if x["n"] == 1 else f"{mean} ({form.format(x['low'])} ... {form.format(x['high'])})"
