"""Checkpoints: saved atomically, verified by SHA-256 when loaded, and loaded without running any code in the file.

A checkpoint is written to a temporary file, flushed to the disk and then renamed over the old one, which is atomic: if
the process is killed, the disk is full or the power fails, the previous checkpoint remains intact. It contains weights,
optimizer state, progress, the resolved config and the tokenizer, so a run needs nothing else to resume or to be sampled
from. Only frozen weights are left out: they stay in the run that they came from, and their fingerprint shows whether
they are still the same.

The file is a zip archive as written by torch.save, and torch.load can read it. The comment of the archive, at the end
of the file, is a seal: it names the format and the SHA-256 of all bytes before the digest. With it `load` detects any
changed bit.
"""

import hashlib
import io
import pickletools
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minillm.system.atomic import write_atomically
from minillm.system.os_errors import advice

FORMAT = 4  # increased when the meaning of the contents changes
SEAL = re.compile(rb"minillm checkpoint, format (\d+), sha256 ([0-9a-f]{64})\Z")
N_DIGITS = 64  # of a digest, in hexadecimal


def save(path: Path | str, contents: dict[str, Any]) -> None:
    """Write tensors, numbers, strings, lists and dicts. Raises OSError, naming the file, if writing fails."""
    path, buffer = Path(path), io.BytesIO()
    torch.save(contents, buffer)
    _seal(buffer)
    try:
        write_atomically(path, buffer.getbuffer())
    except OSError as e:
        (what, how), before = advice(e), "the previous one is intact" if path.is_file() else "there is no previous one"
        raise OSError(f"{path}: this checkpoint could not be written, and {before}: {what}; {how}") from e


def load(path: Path | str) -> dict[str, Any]:
    """Read a checkpoint, onto the CPU. Raises ValueError if it is missing, damaged, or not written by `save`."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: expected a checkpoint, found none; train first, or name another run")
    try:
        return _open(path.read_bytes())
    except ValueError as e:
        raise ValueError(f"{path}: {e}; use another run, a copy of this one, or train again") from e


def _seal(archive: io.BytesIO) -> None:
    """Append the seal to a zip archive that has no comment yet."""
    comment = f"minillm checkpoint, format {FORMAT}, sha256 ".encode()
    archive.seek(-2, io.SEEK_END)  # the two bytes for the length of the comment
    archive.write((len(comment) + N_DIGITS).to_bytes(2, "little") + comment)
    digest = hashlib.sha256(archive.getbuffer()).hexdigest()
    archive.write(digest.encode())


def _open(data: bytes) -> dict[str, Any]:
    """Verify and decode a checkpoint. Raises ValueError, which says what is wrong, for any other bytes."""
    seal = SEAL.search(data[-2 * N_DIGITS :])
    contents = None if seal else _unpickle(data)
    found = int(seal[1]) if seal else contents.get("format") if isinstance(contents, dict) else None
    if found != FORMAT:
        raise ValueError(f"format = {found}: expected {FORMAT}, which this version of minillm writes")
    if seal is None or hashlib.sha256(memoryview(data)[:-N_DIGITS]).hexdigest().encode() != seal[2]:
        raise ValueError("damaged: its SHA-256 differs from the one in its seal")
    return _unpickle(data)


def _unpickle(data: bytes) -> Any:
    """The object in a file written by torch.save. Raises ValueError for any other file. Never runs code in the file."""
    if not data:
        raise ValueError("expected a checkpoint, found an empty file")
    archive = data.startswith(b"PK")
    try:
        if not archive:
            raise ValueError("it does not begin like an archive of torch.save")
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as e:  # subtle: torch raises errors of any type for bytes that are not an archive
        if _code_in_archive(data) if archive else _code_in_pickle(data):
            raise ValueError("contains code, which was not run: expected tensors, numbers, texts, lists, dicts") from e
        raise ValueError(f"damaged, or not a checkpoint ({str(e).partition(chr(10))[0][:80]})") from e


def _code_in_archive(data: bytes) -> bool:
    """Whether unpickling an archive of torch.save would call functions or classes other than those of tensors."""
    try:
        return bool(torch.serialization.get_unsafe_globals_in_checkpoint(io.BytesIO(data)))
    except Exception:  # subtle: as in _unpickle
        return False


def _code_in_pickle(data: bytes) -> bool:
    """Whether bytes are a pickle that would import anything."""
    try:
        return any(opcode.name in ("GLOBAL", "STACK_GLOBAL", "INST") for opcode, _, _ in pickletools.genops(data))
    except ValueError:
        return False


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """The state of a model without its frozen weights: the whole state, or only the adapter of an adapted model."""
    frozen = {name for name, parameter in model.named_parameters(remove_duplicate=False) if not parameter.requires_grad}
    return {name: value for name, value in model.state_dict().items() if name not in frozen}


def load_shared_state(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Make the tensors of a state_dict the weights of a model, without a copy; tied weights stay one parameter.

    Raises ValueError for weights of another model.
    """
    tied: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        tied.setdefault(id(parameter), []).append(name)
    refuse_other(model, state)
    model.load_state_dict(state, assign=True)
    for first, *others in tied.values():
        for name in others:
            path, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(path), leaf, model.get_parameter(first))


def load_trained_state(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Load the result of `trained_state`; frozen weights stay as they are.

    Buffers may differ in shape, because tables of n-grams grow as they are filled. Raises ValueError for weights of
    another model or adapter.
    """
    refuse_other(model, state)
    model.load_state_dict(state, strict=False)


def refuse_other(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Raise ValueError if a state has other names or shapes than the trained state of a model."""
    tables = {name for name, _ in model.named_buffers()}
    shapes, found = (
        {name: None if name in tables else x.shape for name, x in y.items()} for y in (trained_state(model), state)
    )
    wrong = [
        name for name in {**shapes, **found} if name not in shapes or name not in found or shapes[name] != found[name]
    ]
    if wrong:
        name = wrong[0]
        raise ValueError(
            f"{name} of shape {found.get(name)}: expected {shapes.get(name)}, as in the model; "
            "load it with its own config"
        )


def fingerprint(state: dict[str, Tensor]) -> str:
    """SHA-256 of names, dtypes, shapes and bytes: equal only for the same weights."""
    hashed = hashlib.sha256()
    for name, value in sorted(state.items()):
        hashed.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        hashed.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return hashed.hexdigest()
