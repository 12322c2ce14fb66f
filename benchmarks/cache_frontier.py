"""Recall of a KV cache at equal bytes: python -m benchmarks.cache_frontier

A decoder of two layers learns texts of filler (every token mostly follows from the two before it) that contain facts (a
token for each key and value) and questions (the question of a key, sometimes twice, then its value). Then every cache
reads long prompts, and the rest of each text token by token. For each cache and its share of the exact one's bytes the
table has
    asked      facts recalled if the prompt ended with the question
    later      facts recalled if the question came after the prompt had been read
    loss       nats per token of the filler that follows
    bytes      memory of a text at its end; tokens/s: of reading single tokens, all texts at once
All of them are recorded, one repeat per seed.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmarks.record import record
from benchmarks.timing import timed
from minillm.cache.contiguous import ContiguousCache
from minillm.cache.h2o import H2OCache
from minillm.cache.kv_cache import KVCache
from minillm.cache.quantized import QuantizedCache
from minillm.cache.snapkv import SnapKVCache
from minillm.cache.streaming import StreamingCache
from minillm.config.flags import Parser
from minillm.models.decoder import Decoder, DecoderConfig
from minillm.training.optim import OptimConfig, build_optimizer

N_FILLER, N_KEYS, N_VALUES = 32, 8, 8
FACT, QUESTION = N_FILLER, N_FILLER + N_KEYS * N_VALUES  # the first token of each kind
VALUE = QUESTION + N_KEYS
VOCAB = VALUE + N_VALUES
N_FACTS, N_PROMPT, N_REST = 4, 232, 16
FORGETFUL = ("streaming", "h2o", "snapkv")
LEAST_RECALL = 0.5
CONFIG = DecoderConfig(n_layers=2, d_model=64, n_heads=2, context_length=N_PROMPT + N_REST + 2, value_embeddings=True)


class Row(NamedTuple):
    """The measurements of one cache."""

    cache: str
    share: float  # of the exact cache's bytes
    asked: float
    later: float
    loss: float
    bytes: float
    speed: float


def filler(n_rows: int, n_tokens: int, g: torch.Generator) -> Tensor:
    """Random texts in which the most probable successor of two tokens has a probability of 80 percent."""
    table = torch.randint(N_FILLER, (N_FILLER, N_FILLER), generator=torch.Generator().manual_seed(1))
    text = torch.randint(N_FILLER, (n_rows, n_tokens), generator=g)
    usual = torch.rand(n_rows, n_tokens, generator=g) < 0.8
    for t in range(2, n_tokens):
        text[:, t] = table[text[:, t - 2], text[:, t - 1]].where(usual[:, t], text[:, t])
    return text


def plant(text: Tensor, first: int, last: int, g: torch.Generator) -> Tensor:
    """Overwrite places in [first, last) with facts; return the facts of each row, keys and values, (B, 2, N_FACTS)."""
    facts = torch.rand(len(text), 2, max(N_KEYS, N_VALUES), generator=g).argsort(-1)[..., :N_FACTS]
    places = first + torch.rand(len(text), last - first, generator=g).argsort(-1)[:, :N_FACTS]
    text.scatter_(1, places, FACT + N_VALUES * facts[:, 0] + facts[:, 1])
    return facts


def training_text(n_rows: int, n_tokens: int, g: torch.Generator) -> Tensor:
    """Texts with facts in the first half, and twice as many questions and answers in the second."""
    text, half = filler(n_rows, n_tokens, g), n_tokens // 2
    facts = plant(text, 0, half, g)
    places = half + 3 * torch.rand(n_rows, (n_tokens - half) // 3, generator=g).argsort(-1)[:, : 2 * N_FACTS]
    chosen = torch.randint(N_FACTS, places.shape, generator=g)
    question, answer = QUESTION + facts[:, 0].gather(1, chosen), VALUE + facts[:, 1].gather(1, chosen)
    twice = torch.rand(places.shape, generator=g) < 0.5
    text.scatter_(1, places, question.where(twice, text.gather(1, places)))
    return text.scatter_(1, places + 1, question).scatter_(1, places + 2, answer)


def facts_alone(n_rows: int, g: torch.Generator) -> Tensor:
    """Texts of facts, followed by the question and the answer of each, in another order."""
    text = torch.zeros(n_rows, 3 * N_FACTS, dtype=torch.long)
    facts = plant(text, 0, N_FACTS, g).gather(
        2, torch.rand(n_rows, 1, N_FACTS, generator=g).argsort(-1).expand(-1, 2, -1)
    )
    text[:, N_FACTS::2], text[:, N_FACTS + 1 :: 2] = QUESTION + facts[:, 0], VALUE + facts[:, 1]
    return text


def train(n_steps: int, seed: int = 0) -> Decoder:
    """Train a model that recalls. It learns from facts alone first, because filler hides them (see NOTES.md)."""
    torch.manual_seed(seed)
    model, g = Decoder(CONFIG, VOCAB), torch.Generator().manual_seed(seed)
    optimizer = build_optimizer(model, OptimConfig())
    for step in range(n_steps):
        done = step / n_steps
        n_tokens = 64 if done < 0.6 else CONFIG.context_length
        text = facts_alone(96, g) if done < 0.1 else training_text(2048 // n_tokens, n_tokens, g)
        loss = cross_entropy(model(text[:, :-1])[0].flatten(0, 1), text[:, 1:].flatten())
        model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step(min(1.0, (1 - done) / 0.4))  # the rate falls over the long texts
        if step % max(1, n_steps // 10) == 0:
            print(f"step {step:5}  loss {loss.item():.3f}", flush=True)
    return model.eval()


def caches(budgets: dict[type, int]) -> dict[str, Callable[[], KVCache]]:
    """The caches that forget, each with the number of tokens that its bytes allow."""
    return {
        "streaming": partial(StreamingCache, budgets[StreamingCache]),
        "h2o": partial(H2OCache, budgets[H2OCache]),
        "snapkv": partial(SnapKVCache, budgets[SnapKVCache]),
    }


@torch.inference_mode()
def measure(name: str, model: Decoder, cache: Callable[[], KVCache], share: float, n_texts: int) -> Row:
    """Read the same prompts with and without the question at their end, and ask after each."""
    g = torch.Generator().manual_seed(7)
    text = filler(n_texts, N_PROMPT + N_REST, g)
    facts = plant(text, 8, N_PROMPT // 2, g)
    question, answer = QUESTION + facts[:, 0, :1], facts[:, 1, 0]

    def recall(reads: list[Tensor]) -> float:
        state = model.start(n_texts, cache=cache)
        for read in reads:
            logits = model(read, state)[0]
        return (logits[:, -1, VALUE:].argmax(-1) == answer).float().mean().item()

    prompt, rest = text[:, :N_PROMPT], text[:, N_PROMPT:]
    asked = recall([torch.cat([prompt, question], 1), question])
    later = recall([prompt, *rest[:, :8].split(1, 1), question])
    state, losses = model.start(n_texts, cache=cache), []
    model(prompt, state)
    seconds = 0.0
    for t in range(N_REST - 1):
        (logits, _), taken = timed(lambda t=t: model(rest[:, t : t + 1], state))
        losses.append(cross_entropy(logits[:, 0], rest[:, t + 1]).item())
        seconds += taken
    held = sum(layer.nbytes() for layer in state.caches) / n_texts
    return Row(name, share, asked, later, sum(losses) / len(losses), held, n_texts * (N_REST - 1) / seconds)


def frontier(model: Decoder, n_texts: int) -> list[Row]:
    """Measure every cache at a half, a quarter and an eighth of the exact one's bytes."""
    n_read, d_head = N_PROMPT + N_REST - 1, CONFIG.d_model // CONFIG.n_heads
    exact = partial(ContiguousCache, capacity=n_read)
    rows = [measure("contiguous", model, exact, 1.0, n_texts)]
    for bits in (8, 4):
        row = measure(f"int{bits}", model, partial(QuantizedCache, bits, 16, 16), 0.0, n_texts)
        rows.append(row._replace(share=row.bytes / rows[0].bytes))
    slot = CONFIG.n_heads * (2 * 4 * d_head + 8)  # bytes of a token in a layer: keys, values and positions
    for share in (1 / 2, 1 / 4, 1 / 8):
        n_bytes = share * rows[0].bytes / CONFIG.n_layers
        budgets = {StreamingCache: int(n_bytes / slot), H2OCache: int(n_bytes / (slot + 4 * CONFIG.n_heads))}
        budgets[SnapKVCache] = budgets[StreamingCache] - N_REST + 1  # what is written later is kept too
        for name, cache in caches(budgets).items():
            try:
                rows.append(measure(name, model, cache, share, n_texts))
            except ValueError as e:
                print(f"{name} at {share:.3f} of the bytes: {e}")
    return rows


def figures(rows: list[Row]) -> dict[str, float]:
    """Figures under their recorded names; a name has the percent of the exact cache's bytes, if the cache forgets."""
    names = [row.cache + (f"_{100 * row.share:.0f}" if row.cache in FORGETFUL else "") for row in rows]
    measured = zip(names, rows, strict=True)
    return {f"{name}_{what}": getattr(row, what) for name, row in measured for what in Row._fields if what != "cache"}


def check_recall(exact: Row) -> None:
    """Exit if the model recalls too little with the exact cache for a comparison."""
    if min(exact.asked, exact.later) < LEAST_RECALL:
        told = f"the exact cache recalls {exact.asked:.0%} and {exact.later:.0%} of the facts"
        raise SystemExit(
            f"{told}: expected {LEAST_RECALL:.0%} at least, or nothing can be forgotten; train longer, with --steps"
        )


def plot(rows: list[Row], path: Path) -> bool:
    """Draw recall against bytes; False without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(9, 4), layout="constrained")
    for axes, which in zip(figure.subplots(1, 2, sharey=True), ("asked", "later"), strict=True):
        for name in dict.fromkeys(row.cache for row in rows):
            points = [(row.bytes / 1024, getattr(row, which)) for row in rows if row.cache == name]
            axes.plot(*zip(*points, strict=True), marker="o", label=name)
        title = {"asked": "the prompt ended with the question", "later": "the question came later"}[which]
        axes.set(xlabel="KiB held for a text", ylabel="facts recalled", title=title)
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return True


def main() -> None:
    """Train, measure, print, and draw."""
    parser = Parser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1500, help="training steps")
    parser.add_argument("--texts", type=int, default=128, help="number of prompts")
    parser.add_argument("--seeds", type=int, default=1, help="repeats, each with its own model")
    parser.add_argument(
        "--plot",
        type=Path,
        default=Path("runs/cache_frontier.png"),
        help="file of the picture (needs matplotlib)",
    )
    args = parser.parse()
    torch.set_num_threads(1)
    kept = []
    for seed in range(args.seeds):
        rows = frontier(train(args.steps, seed), args.texts)
        check_recall(rows[0])
        kept.append(figures(rows))
        print(f"{'cache':>12}{'share':>8}{'asked':>8}{'later':>8}{'loss':>8}{'bytes':>10}{'tokens/s':>10}")
        for row in rows:
            print(
                f"{row.cache:>12}{row.share:>8.3f}{row.asked:>8.2f}{row.later:>8.2f}{row.loss:>8.3f}"
                f"{row.bytes:>10.0f}{row.speed:>10.0f}"
            )
    record("cache-frontier", kept)
    if plot(rows, args.plot):
        print(f"drawn in {args.plot}, of the last seed")


if __name__ == "__main__":
    main()
