"""Speed of each tokenizer: MB of UTF-8 per second, the median of repeats with empty caches.

    python -m benchmarks.tokenizers [--corpus FILE] [--vocab-size 2048] [--repeats 5]

By default it reads Python's manual, in which every fifth word is new. Then the default tokenizer reads train.py's
default stories, in which words recur. One process; all documents in one call.
"""

import statistics
from collections.abc import Sequence
from pathlib import Path
from pydoc_data import topics

from benchmarks.record import record
from benchmarks.timing import rates, span, timed
from minillm.config.flags import Parser
from minillm.datasets.corpus import DataConfig, load_corpus
from minillm.tokenizers.build_tokenizer import TOKENIZERS, TokenizerConfig, tokenizer_from_dict, train_tokenizer
from minillm.tokenizers.tokenizer import Tokenizer


def megabytes_of(texts: Sequence[str]) -> float:
    """Size of documents in MB of UTF-8."""
    return sum(len(text.encode()) for text in texts) / 1e6


def anew(tokenizer: Tokenizer) -> Tokenizer:
    """The same tokenizer with empty caches."""
    return tokenizer_from_dict(tokenizer.to_dict())


def main() -> None:
    """Print and record a row for each tokenizer."""
    parser = Parser(description=__doc__.partition("\n")[0])
    parser.add_argument("--corpus", type=Path, help="a UTF-8 text file (default: the manual of Python)")
    parser.add_argument("--vocab-size", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse()
    texts = [args.corpus.read_text(encoding="utf-8")] if args.corpus else list(topics.topics.values())
    megabytes = megabytes_of(texts)
    print(f"{len(texts)} documents, {megabytes:.2f} MB")
    print(f"{'':22}{'train s':>9}{'encode MB/s':>13}{'decode MB/s':>13}{'vocab':>8}{'bytes/token':>13}")
    found: dict[str, list[dict[str, float]]] = {}
    for kind in TOKENIZERS:
        tokenizer, train = timed(lambda kind=kind: train_tokenizer(TokenizerConfig(kind, args.vocab_size), texts))
        encode, decode = [], []
        for _ in range(args.repeats):
            fresh = anew(tokenizer)
            documents, seconds = timed(lambda fresh=fresh: fresh.encode_many(texts))
            encode.append(seconds)
            decode.append(
                timed(lambda fresh=fresh, documents=documents: [fresh.decode(tokens) for tokens in documents])[1]
            )
        density = 1e6 * megabytes / sum(map(len, documents))
        encoded, decoded = rates(megabytes, encode), rates(megabytes, decode)
        speeds = f"{statistics.median(encoded):13.1f}{statistics.median(decoded):13.1f}"
        print(f"{kind:22}{train:9.2f}{speeds}{tokenizer.vocab_size:8}{density:13.2f}")
        found[kind] = [
            {"encode": a, "decode": b, "train_seconds": train} for a, b in zip(encoded, decoded, strict=True)
        ]
    for kind, rows in found.items():
        record(f"tokenizer-{kind}", rows)
    stories = load_corpus(DataConfig()).documents
    tokenizer = train_tokenizer(TokenizerConfig(), stories)
    seconds = [timed(lambda: anew(tokenizer).encode_many(stories))[1] for _ in range(args.repeats)]
    speeds = rates(megabytes_of(stories), seconds)
    print(f"{megabytes_of(stories):.2f} MB of stories by {TokenizerConfig().kind}: {span(speeds, 1)} MB/s")
    record("tokenizer-default", [{"encode": speed} for speed in speeds])


if __name__ == "__main__":
    main()
