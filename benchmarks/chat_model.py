"""A published chat model in our code, theirs and llama.cpp: python -m benchmarks.chat_model [--run runs/smollm2-135m]

SmolLM2-135M-Instruct answers greedily, one text at a time. Every round times transformers in bfloat16, llama.cpp (the
package xllamacpp, on the GGUF file that the run comes from) and our formats, one after the other, on the same prompt:
int4 is the run as it was imported, with the levels of the file. It prints tokens per second and the median ratios, and
then the seconds to open the run, the time to the first token of a second question about a long document, and what the
server adds to the engine for 8 clients at once.
"""

import contextlib
import json
import multiprocessing
import statistics
import tempfile
import threading
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from benchmarks.record import record
from benchmarks.timing import in_turns, rates, ratios, timed
from minillm.config.flags import Parser
from minillm.decoding.drafts import PromptLookup
from minillm.decoding.generate import generate
from minillm.decoding.sampler import SamplingConfig
from minillm.decoding.speculative import speculate
from minillm.decoding.stopping import StopText
from minillm.engine.engine import Engine
from minillm.engine.request import Request
from minillm.interop.download import DOWNLOADS, fetch
from minillm.quantization.kernels import arrange_for_kernels
from minillm.quantization.pack import pack, unpack
from minillm.runs import exported, folder, imported
from minillm.serve import serve_run
from minillm.serving.app import LOCAL, build_app
from minillm.serving.guard import Gate
from minillm.serving.limits import Limits
from minillm.serving.listening import bind, build_server
from minillm.speed.accelerate import accelerate
from minillm.text.conversation import Conversation
from minillm.text.model import TextModel

NAME = "smollm2-135m"
GREEDY = SamplingConfig(temperature=0)
QUESTION = [{"role": "user", "content": "Write a long story about a robot and a cat who live in a lighthouse."}]
STORY = (
    "The lighthouse at Gull Point was built in 1874 by three brothers from the village. It has a white tower of 31 "
    "meters and a lamp that can be seen for 20 miles. In the winter of 1911 a storm broke the windows of the lamp "
    "room, and the keeper, Anna Berg, kept the lamp burning for two nights by holding a sail in front of it. "
)
SUMMARIZE = [{"role": "user", "content": f"Repeat the following text word by word.\n\n{STORY * 3}"}]


def opened(run: Path, weights: str) -> TextModel:
    """The run in a format, arranged for its kernels; "stored": as it was imported."""
    text = folder.open_run(run).text
    if weights != "stored":
        unpack(text.model)
        pack(text.model, weights)
    arrange_for_kernels(text.model)
    return text


def writer(text: TextModel, messages: list, n_tokens: int, write: Callable = generate) -> Callable[[], object]:
    """A function that answers with exactly `n_tokens` tokens."""
    sampling = SamplingConfig(temperature=0, min_new_tokens=n_tokens)
    prompt = text.converse(messages)
    return lambda: text.generate([prompt], sampling, max_new_tokens=n_tokens, seeds=[0], write=write)


def transformers_writer(run: Path, prompt: Sequence[int], n_tokens: int) -> Callable[[], object]:
    """The same for transformers in bfloat16, on the exported run."""
    from transformers import AutoModelForCausalLM

    with tempfile.TemporaryDirectory() as place:
        exported.save(run, Path(place) / "model")
        model = AutoModelForCausalLM.from_pretrained(Path(place) / "model", dtype=torch.bfloat16).eval()
    ids = torch.tensor([prompt])
    how = {"max_new_tokens": n_tokens, "min_new_tokens": n_tokens, "do_sample": False, "pad_token_id": 2}
    return lambda: model.generate(ids, attention_mask=torch.ones_like(ids), **how)


def llama_cpp_writer(file: Path, n_threads: int) -> Callable[[list, int], object]:
    """A function (messages, tokens) that answers by llama.cpp.

    It runs in a process of its own: within one process, its threads and torch's slow each other down.
    """
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    spawn.Process(target=serve_llama_cpp, args=(theirs, str(file), n_threads), daemon=True).start()

    def ask(messages: list, n: int) -> object:
        ours.send({"messages": messages, "max_tokens": n})
        return ours.recv()

    return ask


def serve_llama_cpp(connection: Connection, file: str, n_threads: int) -> None:
    """Answer the questions that come through a connection, until it is closed."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel = file, 4096, 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = n_threads
    server = xllamacpp.Server(params)
    how = {"temperature": 0, "ignore_eos": True, "cache_prompt": False}
    with contextlib.suppress(EOFError):
        while True:
            connection.send(server.handle_chat_completions(connection.recv() | how))


def speed(run: Path, n_tokens: int, n_rounds: int, threads: int) -> None:
    """Print and record tokens per second of each, and the ratios."""
    stored = opened(run, "stored")
    cpp = llama_cpp_writer(fetch(NAME), threads)
    lookup = PromptLookup(stored.model.vocab_size)
    ways = {
        "transformers": transformers_writer(run, stored.converse(QUESTION), n_tokens),
        "llama_cpp": lambda: cpp(QUESTION, n_tokens),
        "bf16": writer(opened(run, "bf16"), QUESTION, n_tokens),
        "int8": writer(opened(run, "int8"), QUESTION, n_tokens),
        "int4": writer(stored, QUESTION, n_tokens),
        "llama_cpp_repeating": lambda: cpp(SUMMARIZE, n_tokens),
        "int4_repeating": writer(
            stored, SUMMARIZE, n_tokens, lambda *args, **how: speculate(*args, drafter=lookup, **how)
        ),
    }
    seconds = in_turns(ways, n_rounds)
    over = dict.fromkeys(("bf16", "int8", "int4"), "transformers")
    rows: list[dict[str, float]] = [{} for _ in range(n_rounds)]
    for name in ways:
        for row, pace in zip(rows, rates(n_tokens, seconds[name]), strict=True):
            row[f"{name}_tokens_per_second"] = pace
    pairs = [*over.items(), ("int4", "llama_cpp"), ("int4_repeating", "llama_cpp_repeating")]
    for ours, theirs in pairs:
        gains = ratios(seconds[theirs], seconds[ours])
        for row, gain in zip(rows, gains, strict=True):
            row[f"{ours}_over_{theirs}"] = gain
        print(f"{ours:<15} over {theirs:<20} {statistics.median(gains):5.2f} x", flush=True)
    record("chat-model", rows)


def opening(run: Path, n_rounds: int) -> None:
    """Print and record the seconds to open the run."""
    record("chat-model-opening", [{"seconds": timed(lambda: folder.open_run(run))[1]} for _ in range(n_rounds)])


def second_question(run: Path, n_rounds: int) -> None:
    """Print and record the share of the first question's time to its first token that the second one takes."""
    text = opened(run, "stored")
    document = STORY * (1 + 1500 // len(text.tokenizer.encode(STORY)))
    shares = []
    for _ in range(n_rounds):
        conversation = Conversation(text)
        first = conversation.ask(f"{document}\n\nWho kept the lamp?", GREEDY, max_new_tokens=8, seed=0)
        second = conversation.ask("When was it built?", GREEDY, max_new_tokens=8, seed=0)
        both = first.work.first, second.work.first
        shares.append({"first_seconds": both[0], "second_seconds": both[1], "share": both[1] / both[0]})
    record("chat-model-second-question", shares)


def serving(run: Path, n_rounds: int, n_tokens: int) -> None:
    """Print and record the time of 8 clients at the server over that of the same requests to the engine alone."""
    limits, gate, text = Limits(), Gate(), opened(run, "stored")
    questions = [[{"role": "user", "content": f"Tell me {n} facts about lighthouses."}] for n in range(2, 10)]
    served = serve_run(folder.open_run(run), limits)
    held = bind("127.0.0.1", 0)
    address = f"http://127.0.0.1:{held.getsockname()[1]}/v1/chat/completions"
    app = build_app(served, key="", hosts=LOCAL, origins=[], limits=limits, gate=gate)
    server = build_server(app, limits, gate)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [held]}, daemon=True)
    thread.start()

    def ask(messages: list) -> None:
        body = {"model": run.name, "max_tokens": n_tokens, "temperature": 0, "messages": messages}
        request = urllib.request.Request(address, json.dumps(body).encode(), {"Content-Type": "application/json"})
        urllib.request.urlopen(request, timeout=600).read()

    def by_server() -> None:
        with ThreadPoolExecutor(len(questions)) as clients:
            list(clients.map(ask, questions))

    def by_engine() -> None:
        engine = Engine(accelerate(text.model), n_pages=1024, end_id=text.tokenizer.end_id)
        prompts = [text.converse(messages) for messages in questions]
        engine.run([Request(prompt, n_tokens, GREEDY, stop=StopText(text.tokenizer)) for prompt in prompts])

    seconds = in_turns({"engine": by_engine, "server": by_server}, n_rounds)
    server.should_exit = True
    thread.join(30)
    shares = ratios(seconds["server"], seconds["engine"])
    record("chat-model-server", [{"over_engine": share} for share in shares])


def main() -> None:
    """Measure and print."""
    parser = Parser(description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs") / NAME, help="the run; downloaded if it is missing")
    parser.add_argument("--tokens", type=int, default=64, help="new tokens a text")
    parser.add_argument("--rounds", type=int, default=7, help="repeats")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads that each may use")
    args = parser.parse()
    torch.set_num_threads(args.threads)
    if not args.run.exists():
        imported.save(fetch(NAME), args.run, summary=DOWNLOADS[NAME].summary)
    opening(args.run, args.rounds)
    second_question(args.run, args.rounds)
    serving(args.run, args.rounds, args.tokens)
    speed(args.run, args.tokens, args.rounds, args.threads)


if __name__ == "__main__":
    main()
