"""How fast each tokenizer reads: MB of UTF-8 per second, the median of some repeats, caches empty at the start of each.

    python -m benchmarks.tokenizers [--corpus FILE] [--vocab-size 2048] [--repeats 5]

Reads the manual that Python carries within itself, unless told otherwise. One process; the documents go in all at once.
"""

import argparse
import statistics
from pathlib import Path
from pydoc_data import topics

from benchmarks.record import record
from benchmarks.timing import rates, timed
from minillm.tokenizers.build import CLASSES, TokenizerConfig, tokenizer_from_dict, train_tokenizer


def main() -> None:
    """Print a row for each and keep them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--corpus", type=Path, help="a UTF-8 text file (default: the manual of Python)")
    parser.add_argument("--vocab-size", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    texts = [args.corpus.read_text(encoding="utf-8")] if args.corpus else list(topics.topics.values())
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    print(f"{len(texts)} documents, {megabytes:.2f} MB")
    print(f"{'':22}{'train s':>9}{'encode MB/s':>13}{'decode MB/s':>13}{'vocab':>8}{'bytes/token':>13}")
    found: dict[str, list[dict[str, float]]] = {}
    for kind in CLASSES:
        tokenizer, train = timed(lambda kind=kind: train_tokenizer(TokenizerConfig(kind, args.vocab_size), texts))
        encode, decode = [], []
        for _ in range(args.repeats):
            fresh = tokenizer_from_dict(tokenizer.to_dict())
            documents, seconds = timed(lambda fresh=fresh: fresh.encode_many(texts))
            encode.append(seconds)
            decode.append(timed(lambda fresh=fresh, documents=documents: [fresh.decode(tokens) for tokens in documents])[1])
        density = 1e6 * megabytes / sum(map(len, documents))
        encoded, decoded = rates(megabytes, encode), rates(megabytes, decode)
        speeds = f"{statistics.median(encoded):13.1f}{statistics.median(decoded):13.1f}"
        print(f"{kind:22}{train:9.2f}{speeds}{tokenizer.vocab_size:8}{density:13.2f}")
        found[kind] = [{"encode": a, "decode": b, "train_seconds": train} for a, b in zip(encoded, decoded, strict=True)]
    for kind, rows in found.items():
        record(f"tokenizer-{kind}", rows)


if __name__ == "__main__":
    main()
