"""The twins of minillm/speed/, each compared with the plain code that it replaces: python -m benchmarks.kernels

Forward and backward of a layer or a function, or one step of an optimizer, on one thread, the two in turns:
milliseconds of each, and the speed-up. Freed memory is kept, as in training. Attention is compared with torch's fused
kernel, and cross-entropy in tiles with all rows at once.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.record import record
from benchmarks.timing import in_turns, ratios
from minillm.cache.kv_cache import NO_CACHE, Positions
from minillm.config.flags import Parser
from minillm.decoding.generate import generate
from minillm.decoding.sampler import Sampler, SamplingConfig, build_pipeline, seeded
from minillm.layers.attention import Attention
from minillm.layers.feedforward import relu2
from minillm.layers.moe import ExpertMLPs, MoE, NoSharedExpert, Router
from minillm.layers.ngram_embedding import NgramEmbedding
from minillm.layers.norm import RMSNorm
from minillm.layers.recurrent import GRU, LSTM
from minillm.models.language_model import LanguageModel
from minillm.runs import wiring
from minillm.runs.config import load_config
from minillm.speed import chunked_cross_entropy
from minillm.speed.accelerate import accelerate, faster
from minillm.speed.allocator import keep_freed_memory
from minillm.speed.written_out_attention import attend_written_out
from minillm.system.processor import has_bfloat16
from minillm.training.fast_step import Fast
from minillm.training.gradients import Gradients
from minillm.training.optim import AdamW, Muon
from minillm.training.precision import WorkingCopy

Ways = dict[str, Callable[[], object]]  # "ours" and "other", the plain code


def attention(B: int, H: int, T: int, K: int) -> Ways:
    """bfloat16 attention on the CPU: weights written out, against torch's fused kernel."""
    q, k, v = (torch.randn(B, H, T, K).bfloat16().requires_grad_() for _ in range(3))
    gradient = torch.randn(B, H, T, K).bfloat16()
    return {
        "ours": lambda: attend_written_out(q, k, v).backward(gradient),
        "other": lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True).backward(gradient),
    }


def tiles(N: int, V: int) -> Ways:
    """Cross-entropy of bfloat16 logits: in tiles of rows, against all rows at once."""
    logits, targets = torch.randn(N, V).bfloat16().requires_grad_(), torch.randint(V, (N,))
    rows = chunked_cross_entropy.ROWS

    def work(n_rows: int) -> None:
        chunked_cross_entropy.ROWS = n_rows
        chunked_cross_entropy.chunked_cross_entropy(logits, targets)[0].backward()
        chunked_cross_entropy.ROWS = rows

    return {"ours": lambda: work(rows), "other": lambda: work(N)}


def layer(plain: nn.Module, *inputs: object) -> Ways:
    """A layer: its twin, against the plain one."""
    return function(accelerate(plain, training=True), plain, *inputs)


def function(fast: Callable, plain: Callable, *inputs: object) -> Ways:
    """A twin against a plain function, forward and backward."""
    refuse_plain(fast, plain)
    with torch.no_grad():
        gradients = [torch.randn_like(out) for out in _tensors(plain(*inputs))]
    run = lambda work: torch.autograd.backward(_tensors(work(*inputs)), gradients)  # noqa: E731
    return {"ours": lambda: run(fast), "other": lambda: run(plain)}


def refuse_plain(fast: object, plain: object) -> None:
    """Exit if no twin is in force, since plain code would then be compared with itself."""
    if fast is plain:
        raise SystemExit(f"{plain}: expected a twin in force, found none; python -m minillm.speed says why")


def _tensors(out: Tensor | tuple[Tensor, ...]) -> list[Tensor]:
    return [out] if isinstance(out, Tensor) else list(out)


def recurrent(cell: type[LSTM | GRU], T: int, B: int, D: int) -> Ways:
    """A recurrent layer of D over B rows of T tokens."""
    return layer(cell(D, D), torch.randn(T, B, D, requires_grad=True), (torch.zeros(B, D),) * cell.n_states)


def ngrams(B: int, T: int) -> Ways:
    """The n-gram embedding of whole texts."""
    positions = Positions(torch.arange(T)[None], dense=True)
    return layer(NgramEmbedding(4096, 128, 1664), torch.randint(1664, (B, T)), positions, NO_CACHE)


def experts(N: int, D: int) -> Ways:
    """Eight experts, two for each of N tokens."""
    plain = MoE(Router(D, 8, 2), ExpertMLPs(8, D, 4 * D, relu2), NoSharedExpert())
    return layer(plain, torch.randn(N, D, requires_grad=True))


def of_parameters(make: Callable[[list[Tensor]], object], work: Callable[[object], object]) -> Ways:
    """Work on the weights of gpt-tiny and their gradients, such as an optimizer's step."""
    parameters = [p for p in wiring.build_model(load_config("gpt-tiny"), 1664).blocks.parameters() if p.ndim == 2]
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    plain = make(parameters)
    fast = Fast().twin(plain)
    refuse_plain(fast, plain)
    return {"ours": lambda: work(fast), "other": lambda: work(plain)}


def writing(n_new: int) -> Ways:
    """A greedy text of gpt-nano's shape: low overhead and joined projections together."""
    plain = wiring.build_model(load_config("gpt-nano"), 65).eval()
    sampler = Sampler(build_pipeline(SamplingConfig(temperature=0)))

    def write(model: LanguageModel) -> None:
        generate(model, [[1, 2, 3]], sampler, max_new_tokens=n_new, generators=seeded([0]))

    refuse_plain(accelerate(plain), plain)
    return {"ours": lambda: write(accelerate(plain)), "other": lambda: write(plain)}


def bfloat16_copy() -> Ways:
    """The bfloat16 copy of gpt-tiny: weights read, and gradients given back."""
    model = wiring.build_model(load_config("gpt-tiny"), 1664)
    plain = WorkingCopy(model)
    fast = Fast().twin(plain)
    refuse_plain(fast, plain)

    def move(moves: WorkingCopy) -> None:
        moves.read()
        for weight, worked in plain.pairs:
            weight.grad, worked.grad = torch.zeros_like(weight), worked.detach()
        moves.give()

    return {"ours": lambda: move(fast), "other": lambda: move(plain)}


KERNELS: dict[str, Callable[[], Ways]] = {
    "attention-64": lambda: attention(48, 2, 64, 64),
    "attention-192": lambda: attention(16, 2, 192, 64),
    "attention-512": lambda: attention(6, 2, 512, 64),
    "attention-1024": lambda: attention(3, 2, 1024, 64),
    "attention-2048": lambda: attention(2, 2, 2048, 64),
    "cross-entropy": lambda: tiles(3072, 3072),
    "rms-norm": lambda: layer(RMSNorm(128), torch.randn(3072, 128, requires_grad=True)),
    "squared-relu": lambda: function(faster(relu2), relu2, torch.randn(3072, 512, requires_grad=True)),
    "joined-projections": lambda: layer(Attention(128, 4, 4, 32), torch.randn(1, 8, 128, requires_grad=True)),
    "ngram-lookups": lambda: ngrams(12, 256),
    "experts": lambda: experts(3072, 128),
    "lstm": lambda: recurrent(LSTM, 128, 16, 256),
    "gru": lambda: recurrent(GRU, 128, 16, 256),
    "muon": lambda: of_parameters(Muon, lambda muon: muon.step()),
    "adamw": lambda: of_parameters(AdamW, lambda adamw: adamw.step()),
    "flat-gradient": lambda: of_parameters(Gradients, lambda gradients: (gradients.zero(), gradients.clip(1.0))),
    "bfloat16-copy": bfloat16_copy,
    "writing": lambda: writing(50),
}


def main() -> None:
    """Measure each and record it."""
    parser = Parser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse()
    torch.set_num_threads(1)
    keep_freed_memory()
    for name, roads in KERNELS.items():
        if name.startswith("attention") and not has_bfloat16(torch.device("cpu")):
            print(f"{name}: left out, since this CPU emulates bfloat16 and the twin is not used")
            continue
        times = in_turns(roads(), args.repeats)
        rows = zip(times["ours"], times["other"], ratios(times["other"], times["ours"]), strict=True)
        record(
            f"kernel-{name}",
            [{"ms": 1000 * ours, "other_ms": 1000 * other, "ratio": ratio} for ours, other, ratio in rows],
        )


if __name__ == "__main__":
    main()
