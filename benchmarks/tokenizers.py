"""How fast each tokenizer reads: MB of UTF-8 per second, the median of some repeats, caches empty at the start of each.

    python -m benchmarks.tokenizers [--corpus FILE] [--vocab-size 2048] [--repeats 5]

Reads the manual that Python carries within itself, unless told otherwise. One process; the documents go in all at once.
"""

import argparse
import statistics
import time
from pathlib import Path
from pydoc_data import topics

from minillm.tokenizers.build import CLASSES, TokenizerConfig, tokenizer_from_dict, train_tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--corpus", type=Path, help="a UTF-8 text file (default: the manual of Python)")
    parser.add_argument("--vocab-size", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    texts = [args.corpus.read_text(encoding="utf-8")] if args.corpus else list(topics.topics.values())
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    print(f"{len(texts)} documents, {megabytes:.2f} MB")
    print(f"{'':22}{'train s':>9}{'encode MB/s':>13}{'decode MB/s':>13}{'vocab':>8}{'bytes/token':>13}")
    for kind in CLASSES:
        begin = time.perf_counter()
        tokenizer = train_tokenizer(TokenizerConfig(kind, args.vocab_size), texts)
        train = time.perf_counter() - begin
        encode, decode = [], []
        for _ in range(args.repeats):
            fresh = tokenizer_from_dict(tokenizer.to_dict())
            begin = time.perf_counter()
            documents = fresh.encode_many(texts)
            encode.append(time.perf_counter() - begin)
            begin = time.perf_counter()
            for tokens in documents:
                fresh.decode(tokens)
            decode.append(time.perf_counter() - begin)
        speeds = f"{megabytes / statistics.median(encode):13.1f}{megabytes / statistics.median(decode):13.1f}"
        density = 1e6 * megabytes / sum(map(len, documents))
        print(f"{kind:22}{train:9.2f}{speeds}{tokenizer.vocab_size:8}{density:13.2f}")


if __name__ == "__main__":
    main()
