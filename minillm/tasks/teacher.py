"""Stored work of a teacher, in the cache folder: texts that it wrote, and its soft targets for a text.

    written texts    sequence-level distillation (Kim and Rush 2016): the student trains on them as on any other text
    table            its k most probable tokens at every place of every training row, and the mass of all others

The name of a file is a hash of everything that determines its content: the teacher's weights, the tokenizer or the
tokens, the seed and the sizes. So a stale file is never read, and a second run finds what the first one has computed.
Read before: `datasets/tokens.py`, `objectives/distill.py`.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from minillm.datasets.tokens import DIGEST, TokenStream, narrowest, stored_stream
from minillm.datasets.windows import Windows
from minillm.decoding.generate import generate
from minillm.decoding.sampler import Sampler, seeded
from minillm.models.language_model import LanguageModel, device_of
from minillm.objectives.distill import Matching, SoftTargetBatch
from minillm.speed.accelerate import accelerate, accelerate_writing
from minillm.system.atomic import write_atomically
from minillm.system.folders import cache_folder, mark_used, prune
from minillm.tokenizers.tokenizer import Tokenizer
from minillm.training.checkpoint import fingerprint

N_ROWS = 64  # texts that are written, or rows that are read, at once
N_FILES, MOST_BYTES = 8, 2**32  # limits of the folder of tables; the least recently used files go first


def written_texts(
    teacher: nn.Module, tokenizer: Tokenizer, n_texts: int, longest: int, seed: int, fast: bool
) -> TokenStream:
    """Texts that a teacher wrote from its own distribution, as a stream of the ids that it drew.

    Text i depends on (seed, i) alone. Of `n_texts` texts, those that do not end within `longest` tokens are left out.
    `fast`: use the fast twins. Raises ValueError if none ends.
    """
    name = _name("texts 1", fingerprint(teacher.state_dict()), tokenizer.to_dict(), n_texts, longest, seed)
    writer = accelerate_writing(teacher) if fast else teacher
    path = cache_folder() / "written" / f"{name}.tokens"

    def write() -> list[list[int]]:
        texts: list[list[int]] = []
        for i in range(0, n_texts, N_ROWS):
            texts += _written(writer, tokenizer, range(i, min(i + N_ROWS, n_texts)), longest, seed)
        if not texts:
            raise ValueError(
                f"task.teacher: expected texts that end within {longest} tokens, found none among {n_texts}; "
                "train it longer, or set task.how = knowledge"
            )
        return texts

    return stored_stream(path, write, tokenizer, n_bytes=0)  # bits per byte are those of held-out text


def _written(teacher: LanguageModel, tokenizer: Tokenizer, numbers: range, longest: int, seed: int) -> list[list[int]]:
    """The texts of these numbers that end, without END."""
    prompt = list(tokenizer.opening or [tokenizer.end_id])
    words = [int(np.random.SeedSequence((seed, i)).generate_state(1)[0]) for i in numbers]
    found = generate(
        teacher,
        [prompt for _ in numbers],
        Sampler(),
        max_new_tokens=longest - len(prompt),
        generators=seeded(words),
        end_id=tokenizer.end_id,
    )
    return [each.tokens for each in found if each.reason == "end" and each.tokens]


def soft_target_batches(
    teacher: nn.Module, windows: Windows, n_ids: int, matching: Matching, fast: bool
) -> Callable[[int], SoftTargetBatch]:
    """The batches of `windows` with soft targets, which are computed once and stored in a table.

    `n_ids`: size of the tokenizer's vocabulary; `fast`: use the fast twins. Raises ValueError for a table of more than
    4 GB.
    """
    starts = windows.row_starts
    table = _table(teacher, windows, n_ids, matching, fast)

    def batch(step: int) -> SoftTargetBatch:
        at = windows.starts(step)
        rows = table[np.searchsorted(starts, at)]
        ids = torch.from_numpy(rows["ids"].astype(np.int64))
        return SoftTargetBatch(*windows.rows_at(at), ids, torch.from_numpy(rows["logprobs"].astype(np.float32)))

    return batch


def _table(teacher: nn.Module, windows: Windows, n_ids: int, matching: Matching, fast: bool) -> np.ndarray:
    """A record for each row: the ids (T, k) and the log-probabilities (T, k + 1)."""
    starts, k, length = windows.row_starts, matching.top_k, windows.context_length
    record = np.dtype([("ids", narrowest(n_ids), (length, k)), ("logprobs", "<f4", (length, k + 1))])
    n_bytes = len(starts) * record.itemsize
    if n_bytes > MOST_BYTES:
        raise ValueError(
            f"task.stored = true: expected a table of at most {MOST_BYTES / 1e9:.0f} GB, found {n_bytes / 1e9:.0f} GB "
            f"for {len(starts):,} rows; lower task.top_k = {k} or task.share, or set task.stored = false"
        )
    text = hashlib.sha256(windows.rows_at(starts).tokens.numpy()).hexdigest()
    name = _name("table 1", fingerprint(teacher.state_dict()), text, n_ids, k, matching.temperature)
    path = cache_folder() / "knowledge" / f"{name}.table"
    table = _read(path, record)
    mark_used(path)
    if table is None:
        table, reader = np.empty(len(starts), record), accelerate(teacher) if fast else teacher
        for i in range(0, len(starts), N_ROWS):
            tokens = windows.rows_at(starts[i : i + N_ROWS]).tokens
            with torch.no_grad():
                logits, _ = reader(tokens.to(device_of(teacher)))
            known = matching.soften(logits[..., :n_ids])
            rows = table[i : i + N_ROWS]
            rows["ids"], rows["logprobs"] = known.ids.cpu().numpy(), known.logprobs.float().cpu().numpy()
        with contextlib.suppress(OSError):
            write_atomically(path, hashlib.sha256(table).digest() + table.tobytes())
            prune(path.parent, "*.table*", N_FILES, MOST_BYTES)
    return table


def _read(path: Path, record: np.dtype) -> np.ndarray | None:
    """The records of a file, memory-mapped; None if the file is missing or damaged."""
    try:
        digest = path.open("rb").read(DIGEST)
        table = np.memmap(path, record, mode="r", offset=DIGEST)
    except (OSError, ValueError):
        return None
    return table if hashlib.sha256(table).digest() == digest else None


def _name(*parts: object) -> str:
    """A file name from everything that determines the content of a file."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]
