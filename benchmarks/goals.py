"""Goals of figures: the number that a figure's median over the repeats should reach."""

from typing import Literal, NamedTuple


class Goal(NamedTuple):
    """A lower or an upper limit of a figure."""

    comparison: Literal[">=", "<="]
    number: float

    def reached(self, value: float) -> bool:
        return value >= self.number if self.comparison == ">=" else value <= self.number

    def judge(self, value: float, form: str) -> str:
        """A cell of the table: the goal, and whether it is reached."""
        said = "reached" if self.reached(value) else "not reached"
        return f"{self.comparison} {form.format(self.number)}: {said}, median {form.format(value)}"


GOALS = {  # (name in figures.json, figure) -> goal
    ("gpt-tiny", "seconds"): Goal("<=", 120),
    ("gpt-tiny", "regret_percent"): Goal("<=", 8),
    ("gpt-tiny", "valid_percent"): Goal(">=", 60),
    ("gpt-stories", "seconds"): Goal("<=", 600),
    ("gpt-stories", "regret_percent"): Goal("<=", 3),
    ("gpt-stories", "valid_percent"): Goal(">=", 90),
    ("translate-tiny", "seconds"): Goal("<=", 180),
    ("translate-tiny", "test_exact_match"): Goal(">=", 0.95),
    ("worlds-base", "seconds"): Goal("<=", 1200),
    ("tuning-chat", "seconds"): Goal("<=", 600),
    ("tuning-chat", "instructions"): Goal(">=", 90),
    ("tuning-chat", "dialogue_earlier"): Goal(">=", 85),
    ("tuning-reason", "arithmetic"): Goal(">=", 95),
    ("tuning-reason", "composition"): Goal(">=", 95),
    ("tuning-reason", "logic"): Goal(">=", 95),
    ("tuning-safe", "refused"): Goal(">=", 95),
    ("tuning-safe", "refused_near_misses"): Goal("<=", 5),
    ("tuning-safe", "instructions_lost"): Goal("<=", 2),
    ("moe", "time_ratio"): Goal("<=", 1.6),
    ("lora", "LoRA_share"): Goal("<=", 2),
    ("recurrent-lstm", "ratio"): Goal(">=", 1),
    ("recurrent-gru", "ratio"): Goal(">=", 1),
    ("ngram-counting", "seconds"): Goal("<=", 30),
    ("ngram-counting", "peak_megabytes"): Goal("<=", 1000),
    ("shakespeare-race", "ratio"): Goal(">=", 15),
    ("throughput", "over_fp32"): Goal(">=", 3),
    ("utilization", "share"): Goal(">=", 0.75),
    ("head", "memory_share"): Goal("<=", 0.25),
    ("decode", "over_transformers"): Goal(">=", 3),
    ("decode-cache", "speed_up"): Goal(">=", 8),
    ("beam-alone", "over_transformers"): Goal(">=", 3),
    ("beam-together", "over_transformers"): Goal(">=", 3),
    ("engine", "over_one_by_one"): Goal(">=", 5),
    ("engine", "over_transformers"): Goal(">=", 3),
    ("speculative-greedy", "speed_up"): Goal(">=", 2),
    ("speculative-sampled", "speed_up"): Goal(">=", 2),
    ("speculative-distilled-greedy", "speed_up"): Goal(">=", 2),
    ("weights", "bf16_ratio"): Goal(">=", 1.4),
    ("weights", "int8_ratio"): Goal(">=", 2.5),
    ("weights", "int4_ratio"): Goal(">=", 3.5),
    ("weights-loss", "int8_percent"): Goal("<=", 0.5),
    ("weights-loss", "int4_percent"): Goal("<=", 3),
    ("tokenizer-sentencepiece-bpe", "encode"): Goal(">=", 5),
    ("tokenizer-default", "encode"): Goal(">=", 5),
    ("tokenizer-bpe", "encode"): Goal(">=", 1),
    ("imports", "more_seconds"): Goal("<=", 0.3),
    ("cold-start", "first_character_seconds"): Goal("<=", 3),
    ("chat-model", "bf16_over_transformers"): Goal(">=", 1.2),
    ("chat-model", "int8_over_transformers"): Goal(">=", 2.5),
    ("chat-model", "int4_over_transformers"): Goal(">=", 3.2),
    ("chat-model", "int4_over_llama_cpp"): Goal(">=", 0.9),
    ("chat-model", "int4_repeating_over_llama_cpp_repeating"): Goal(">=", 1.2),
    ("chat-model-opening", "seconds"): Goal("<=", 3),
    ("chat-model-second-question", "share"): Goal("<=", 0.15),
    ("chat-model-server", "over_engine"): Goal("<=", 1.1),
}
