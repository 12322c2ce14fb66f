"""Copy the measured figures into README.md and benchmarks/figures.md: python -m benchmarks.readme

The text between marks in README.md, and all of figures.md, is generated from the .json files beside this one; a test
fails if they differ. Goals, and whether they are reached, are in figures.md only (see `goals`).
"""

import json

from benchmarks import claims, ladder, lessons
from benchmarks.cache_frontier import FORGETFUL
from benchmarks.goals import GOALS
from benchmarks.record import FIGURES, ROOT
from minillm.tokenizers.build_tokenizer import TOKENIZERS

PAGE = ROOT / "benchmarks" / "figures.md"
KERNELS = {  # twins of minillm/speed/ that `benchmarks.kernels` compares with plain code
    "rms-norm": "RMSNorm differentiated by hand",
    "squared-relu": "squared ReLU differentiated by hand",
    "joined-projections": "attention of 8 tokens with joined projections",
    "ngram-lookups": "n-gram embeddings by a shift",
    "experts": "a mixture of experts by gathering",
    "lstm": "an LSTM differentiated by hand",
    "gru": "a GRU differentiated by hand",
    "muon": "a step of Muon with matrices in groups",
    "adamw": "a step of AdamW by the fused kernel",
    "flat-gradient": "gradients cleared and clipped as one tensor",
    "bfloat16-copy": "the bfloat16 copy moved as lists of tensors",
    "writing": "greedy decoding with low overhead and joined projections",
}
STUDENTS = {  # ways of learning that `benchmarks.distillation` compares
    "alone": "that learns from the data alone",
    "data": "that learns from texts of its teacher",
    "knowledge": "that learns from probabilities of its teacher",
    "on_policy": "whose own texts its teacher scores",
}
ADAPTERS = ("LoRA", "QLoRA", "DoRA", "bottleneck", "prefix", "soft_prompt", "IA3", "BitFit")  # of `benchmarks.adapters`
ROWS = {  # name in figures.json -> [(what it is, figure, how it is written)]
    "gpt-tiny": [
        ("`train.py --config gpt-tiny`, from command to prompt", "seconds", "{:.0f} s"),
        ("its regret on held-out stories, in percent of the known entropy", "regret_percent", "{:.1f} %"),
        ("stories sampled with `--top-p 0.9` that are whole and consistent, of 200", "valid_percent", "{:.0f} %"),
    ],
    "gpt-stories": [
        ("`train.py --config gpt-stories`", "seconds", "{:.0f} s"),
        ("its regret", "regret_percent", "{:.1f} %"),
        ("whole and consistent stories, of 200", "valid_percent", "{:.0f} %"),
    ],
    "llama-tiny": [
        ("`train.py --config llama-tiny`", "seconds", "{:.0f} s"),
        ("its regret", "regret_percent", "{:.1f} %"),
    ],
    "worlds-base": [("`train.py --config worlds-base`", "seconds", "{:.0f} s")],
    "tuning-chat": [
        ("training of `chat-tiny` from worlds-base (`benchmarks.tuning`)", "seconds", "{:.0f} s"),
        ("instructions that it follows, with wordings and facts that it never saw", "instructions", "{:.1f} %"),
        ("answers in dialogues that need an earlier turn", "dialogue_earlier", "{:.1f} %"),
    ],
    "tuning-reason": [
        ("training of `reason-tiny` from worlds-base (`benchmarks.tuning`)", "seconds", "{:.0f} s"),
        ("sums and word problems of 2 to 6 steps that it solves", "arithmetic", "{:.1f} %"),
        ("sums and word problems of 8 steps, longer than any in training", "arithmetic_of_8", "{:.1f} %"),
        ("compositions of 2 to 8 operations", "composition", "{:.1f} %"),
        ("compositions of 16 operations, longer than any in training", "composition_of_16", "{:.1f} %"),
        ("questions of logic and common sense", "logic", "{:.1f} %"),
    ],
    "tuning-safe": [
        ("training of `safe-tiny` from worlds-base (`benchmarks.tuning`)", "seconds", "{:.0f} s"),
        ("forbidden requests that it refuses", "refused", "{:.1f} %"),
        ("harmless requests in similar words that it refuses", "refused_near_misses", "{:.1f} %"),
        ("points of instructions lost beside tuning on instructions alone", "instructions_lost", "{:.1f}"),
    ],
    "tuning-data": [
        (f"right answers after tuning on {n:,} examples of each world", f"right_{n}", "{:.1f} %")
        for n in (250, 1_000, 4_000, 16_000)
    ],
    "gpt-docs": [
        ("`train.py --config gpt-docs`", "seconds", "{:.0f} s"),
        ("its bits per byte on held-out manual pages", "bits_per_byte", "{:.2f}"),
    ],
    "gpt-shakespeare": [
        ("`train.py --config gpt-shakespeare`", "seconds", "{:.0f} s"),
        ("its validation loss, nats per character", "val_loss", "{:.3f}"),
    ],
    "gpt-nano": [
        ("`train.py --config gpt-nano`", "seconds", "{:.0f} s"),
        ("its validation loss, nats per character", "val_loss", "{:.3f}"),
    ],
    "ngram-tiny": [
        ("`train.py --config ngram-tiny`", "seconds", "{:.0f} s"),
        ("its regret", "regret_percent", "{:.1f} %"),
    ],
    "translate-tiny": [
        ("`train.py --config translate-tiny`", "seconds", "{:.0f} s"),
        ("held-out sentences translated exactly", "test_exact_match", "{:.1%}"),
    ],
    "encoder-tiny": [
        ("`train.py --config encoder-tiny`", "seconds", "{:.0f} s"),
        ("masked tokens of held-out stories predicted correctly", "test_masked_accuracy", "{:.1%}"),
    ],
    "finetuning": [
        (
            "endings that it tells after fine-tuning on 400 stories (`benchmarks.finetuning`)",
            "fine_tuned_accuracy",
            "{:.1%}",
        ),
        ("the same from nothing, without what it learned from blanks", "from_nothing_accuracy", "{:.1%}"),
    ],
    "moe": [
        ("loss of 8 experts, 2 for each token, after 400 steps (`benchmarks.moe`)", "experts_loss", "{:.3f}"),
        ("loss of the dense model with as many active parameters", "dense_loss", "{:.3f}"),
        ("time of a step with experts over that of the dense model", "time_ratio", "{:.2f} x"),
    ],
    "specialization": [
        (
            "bits that an expert tells about the source of its tokens, of 1.58 (`benchmarks.specialization`)",
            "none_bits",
            "{:.2f}",
        ),
        ("with a balancing loss", "loss_bits", "{:.2f}"),
        ("with a balancing bias", "bias_bits", "{:.2f}"),
    ],
    "data-cleaning": [
        (
            "regret on fresh stories after 500 steps on a spoiled corpus (`benchmarks.data_cleaning`)",
            "raw_regret_percent",
            "{:.1f} %",
        ),
        ("after cleaning it", "cleaned_regret_percent", "{:.1f} %"),
        ("on the stories alone, before they were spoiled", "pure_regret_percent", "{:.1f} %"),
        ("regret on held-out stories that leaked into the spoiled corpus", "raw_leaked_regret_percent", "{:.1f} %"),
        ("on the same stories after cleaning", "cleaned_leaked_regret_percent", "{:.1f} %"),
        ("runs on the spoiled corpus in which the leak alarm rang", "raw_alarm", "{:.0%}"),
        ("runs on the cleaned corpus in which it rang", "cleaned_alarm", "{:.0%}"),
    ],
    "lora": [
        ("loss on a new kind of story after 300 steps of an adapter (`benchmarks.lora`)", "LoRA_diary", "{:.3f}"),
        ("the same with all weights", "full_diary", "{:.3f}"),
        ("parameters that the adapter trains", "LoRA_share", "{:.2f} %"),
    ],
    "adapters": [
        ("loss on a new kind of story with all weights trained (`benchmarks.adapters`)", "full_diary", "{:.3f}"),
        *((f"the same with {way}", f"{way}_diary", "{:.3f}") for way in ADAPTERS),
        ("loss on a new style with all weights trained", "full_style", "{:.3f}"),
        *((f"the same with {way}", f"{way}_style", "{:.3f}") for way in ADAPTERS),
        ("peak memory of a LoRA step at 100 million parameters", "LoRA_large", "{:,.0f} MB"),
        ("of a QLoRA step", "QLoRA_large", "{:,.0f} MB"),
    ],
    "recurrent-lstm": [
        (
            "training throughput of an LSTM, 2 x 256, over `torch.nn.LSTM`'s (`benchmarks.recurrent`)",
            "ratio",
            "{:.2f} x",
        )
    ],
    "recurrent-gru": [("of a GRU over `torch.nn.GRU`'s", "ratio", "{:.2f} x")],
    "recurrent-rnn": [("of a vanilla network over `torch.nn.RNN`'s", "ratio", "{:.2f} x")],
    "ngram-counting": [
        ("10 million tokens counted to order 5 (`benchmarks.ngram`)", "seconds", "{:.0f} s"),
        ("memory of the whole process then", "peak_megabytes", "{:.0f} MB"),
    ],
    "shakespeare-race": [
        (
            "time to 1.886 nats by the classic recipe, over that by `gpt-shakespeare` (`benchmarks.shakespeare`)",
            "ratio",
            "{:.1f} x",
        ),
        ("seconds of `gpt-shakespeare` until there", "seconds", "{:.0f} s"),
    ],
    "throughput": [
        (
            "training throughput of the shape of `gpt-nano` over transformers' in float32 (`benchmarks.throughput`)",
            "over_fp32",
            "{:.2f} x",
        ),
        ("over the faster of theirs, float32 or bfloat16 autocast", "over_faster", "{:.2f} x"),
    ],
    "utilization": [
        (
            "operations of a training step at 10.7 million parameters, of what a large matrix product reaches",
            "share",
            "{:.0%}",
        ),
        ("the products of its linear layers by themselves", "products_share", "{:.0%}"),
    ],
    "decode": [
        (
            "tokens a second of a GPT of 0.8 million parameters, one text (`benchmarks.decode`)",
            "tokens_per_second",
            "{:,.0f}",
        ),
        ("over transformers with the same weights", "over_transformers", "{:.2f} x"),
    ],
    "decode-cache": [("a token at 1,024 without the KV cache, over one with it", "speed_up", "{:.1f} x")],
    "beam-alone": [
        (
            "beam search, four beams, over transformers', one prompt at a time (`benchmarks.beam`)",
            "over_transformers",
            "{:.2f} x",
        ),
    ],
    "beam-together": [("the same, eight prompts in a batch", "over_transformers", "{:.2f} x")],
    "engine": [
        (
            "32 requests in the engine together, over one after the other (`benchmarks.engine`)",
            "over_one_by_one",
            "{:.2f} x",
        ),
        ("over transformers' `generate`, one padded batch", "over_transformers", "{:.2f} x"),
    ],
    "speculative-greedy": [
        ("speed-up by a draft, greedily (`benchmarks.speculative`)", "speed_up", "{:.2f} x"),
        ("drafted tokens that are accepted then", "acceptance", "{:.0%}"),
    ],
    "speculative-sampled": [
        ("speed-up by a draft where the text is sampled", "speed_up", "{:.2f} x"),
        ("drafted tokens that are accepted then", "acceptance", "{:.0%}"),
    ],
    "speculative-distilled-greedy": [
        ("speed-up by a draft that was distilled from its target, greedily", "speed_up", "{:.2f} x"),
        ("drafted tokens that are accepted then", "acceptance", "{:.0%}"),
    ],
    "speculative-distilled-sampled": [
        ("speed-up by the distilled draft where the text is sampled", "speed_up", "{:.2f} x"),
        ("drafted tokens that are accepted then", "acceptance", "{:.0%}"),
    ],
    "distillation": [
        (
            f"{told} of a student {way} on {percent} % of the data, for equal {budget}",
            f"{key}_{percent}_{budget}_{figure}",
            form,
        )
        for figure, told, form in (("regret", "regret", "{:.1f} %"), ("valid", "whole stories", "{:.0f} %"))
        for percent in (5, 10, 100)
        for budget in ("steps", "tokens", "seconds")
        for key, way in STUDENTS.items()
    ],
    "weights": [
        (
            "tokens a second of a 124M GPT-2 in bfloat16, over transformers' (`benchmarks.weights`)",
            "bf16_ratio",
            "{:.2f} x",
        ),
        ("in int8, over transformers' bfloat16", "int8_ratio", "{:.2f} x"),
        ("in int4, over transformers' bfloat16", "int4_ratio", "{:.2f} x"),
    ],
    "chat-model": [
        (
            "tokens a second of SmolLM2-135M in bfloat16, over transformers' (`benchmarks.chat_model`)",
            "bf16_over_transformers",
            "{:.2f} x",
        ),
        ("in int8, over transformers' bfloat16", "int8_over_transformers", "{:.2f} x"),
        ("in the four bits of its file, over transformers' bfloat16", "int4_over_transformers", "{:.2f} x"),
        ("in the four bits of its file, over llama.cpp's", "int4_over_llama_cpp", "{:.2f} x"),
        ("repeating a text with a prompt draft, over llama.cpp", "int4_repeating_over_llama_cpp_repeating", "{:.2f} x"),
    ],
    "chat-model-opening": [("seconds to open SmolLM2-135M", "seconds", "{:.1f} s")],
    "chat-model-second-question": [
        ("wait for the second question on 1,500 tokens, over that for the first", "share", "{:.0%}"),
    ],
    "chat-model-server": [("time of 8 clients at the server, over the engine alone", "over_engine", "{:.2f} x")],
    "weights-loss": [
        ("increase of a trained run's loss by int8", "int8_percent", "{:.2f} %"),
        ("increase by int4", "int4_percent", "{:.2f} %"),
    ],
    "cache-frontier": [
        (f"facts that the cache {cache} recalls at a quarter of the bytes, {when}", f"{cache}_25_{figure}", "{:.0%}")
        for cache in FORGETFUL
        for figure, when in {
            "asked": "asked in the prompt",
            "later": "asked later (`benchmarks.cache_frontier`)",
        }.items()
    ],
    "attention": [
        (
            "memory of attention grows with this power of the length, written out (`benchmarks.attention`)",
            "plain_bytes_exponent",
            "{:.2f}",
        ),
        ("in tiles", "tiled_bytes_exponent", "{:.2f}"),
    ],
    "kernel-attention-64": [
        ("attention in bfloat16 written out, 64 tokens, over fused (`benchmarks.kernels`)", "ratio", "{:.2f} x")
    ],
    **{f"kernel-attention-{n}": [(f"the same, {n:,} tokens", "ratio", "{:.2f} x")] for n in (192, 512, 1024, 2048)},
    "kernel-cross-entropy": [("cross-entropy in tiles, times the speed of all rows at once", "ratio", "{:.2f} x")],
    **{
        f"kernel-{name}": [(f"{what}, times the speed of the plain code", "ratio", "{:.2f} x")]
        for name, what in KERNELS.items()
    },
    **{
        f"tokenizer-{kind}": [(f"tokenizer {kind} reads MB a second (`benchmarks.tokenizers`)", "encode", "{:.1f}")]
        for kind in TOKENIZERS
    },
    "tokenizer-default": [("the default tokenizer reads MB a second of the stories of gpt-tiny", "encode", "{:.1f}")],
    "imports": [
        (
            "seconds of `import minillm.runs.wiring` beyond those of `import torch` (`benchmarks.imports`)",
            "more_seconds",
            "{:.2f} s",
        )
    ],
    "allocator": [("time of a training step with freed memory kept, over one without", "time_share", "{:.2f} x")],
    "head": [
        (
            "memory of head and cross-entropy at vocabulary 50,000 over torch's (`benchmarks.head`)",
            "memory_share",
            "{:.2f}",
        )
    ],
    "cold-start": [("`sample.py`, from command to the first character", "first_character_seconds", "{:.1f} s")],
}


# The figures of the README; figures.md has all.
FIRST = (
    "gpt-tiny",
    "gpt-stories",
    "gpt-docs",
    "gpt-shakespeare",
    "shakespeare-race",
    "ngram-tiny",
    "translate-tiny",
    "encoder-tiny",
    "cold-start",
)


def table(figures: dict, goals: dict | None = None) -> str:
    """The Markdown table of all figures, with their goals if `goals` is given."""
    heads = ["measured", "mean", "lowest ... highest", "runs", *(["asked for"] if goals is not None else [])]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    machines = sorted({entry["machine"] for entry in figures.values()})
    for name, rows in ROWS.items():
        measured = figures[name]["figures"] if name in figures else {}
        for what, figure, form in rows:
            if figure in measured:
                x = measured[figure]
                mark = f" [{machines.index(figures[name]['machine']) + 1}]" if len(machines) > 1 else ""
                cells = [
                    what + mark,
                    form.format(x["mean"]),
                    f"{form.format(x['low'])} ... {form.format(x['high'])}",
                    str(x["n"]),
                ]
                if goals is not None:
                    cells.append(goals[name, figure].judge(x["median"], form) if (name, figure) in goals else "")
                lines.append(f"| {' | '.join(cells)} |")
    listed = machines if len(machines) == 1 else [f"[{i}] {machine}" for i, machine in enumerate(machines, 1)]
    return "\n".join([*lines, "", f"Measured on {'; '.join(listed)}.", ""])


def first(figures: dict) -> str:
    """The table of the figures that the README shows."""
    return table({name: figures[name] for name in FIRST if name in figures})


def with_figures(readme: str) -> str:
    """The README with every measured table in its place."""
    figures, raced = (json.loads(path.read_text(encoding="utf-8")) for path in (FIGURES, ladder.LADDER))
    tables = {
        "figures": first(figures),
        "ladder": ladder.table(raced),
        "claims": claims.table(figures),
        "lessons": lessons.table(figures),
    }
    for name, written in tables.items():
        head, begin, rest = readme.partition(f"<!-- {name} -->\n")
        _, end, rest = rest.partition(f"<!-- /{name} -->")
        assert begin and end, f"README.md has no marks for {name}"
        readme = head + begin + written + end + rest
    return readme


def page(figures: dict) -> str:
    """The text of figures.md."""
    intro = "`python -m benchmarks` measures it all and writes this page."
    return f"# What was measured\n\n{intro}\n\n{table(figures, GOALS)}"


def main() -> None:
    """Rewrite README.md and figures.md."""
    path = ROOT / "README.md"
    path.write_text(with_figures(path.read_text(encoding="utf-8")), encoding="utf-8")
    PAGE.write_text(page(json.loads(FIGURES.read_text(encoding="utf-8"))), encoding="utf-8")


if __name__ == "__main__":
    main()
