"""Checkpoints: written whole or not at all, read without running anything that is inside.

A checkpoint is written beside its place, flushed to the disk and then renamed over the old one, which is atomic: whatever happens
in between, be it a kill, a full disk or a power cut, leaves the previous one whole. It carries weights, optimizer, progress, the
resolved config and the tokenizer, so that a run needs nothing else to go on or to be sampled from; frozen weights alone stay where
they came from, and their fingerprint tells whether they are still the same.
"""

import hashlib
import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minillm.datasets.atomic import write_atomically

FORMAT = 1  # raised when the contents change their meaning


def save(path: Path, contents: dict[str, Any]) -> None:
    """Write tensors, numbers, strings, lists and dicts. Raises OSError, naming the file, where the disk does not take them."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **contents}, buffer)
    try:
        write_atomically(path, buffer.getbuffer())
    except OSError as e:
        raise OSError(f"{path}: could not be written ({e}); the checkpoint before it is whole; free some space and --resume") from e


def load(path: Path) -> dict[str, Any]:
    """Read what `save` wrote, onto the CPU. Raises ValueError where there is none or it is damaged."""
    if not path.is_file():
        raise ValueError(f"{path}: expected a checkpoint, found none; train first, or name another run")
    try:
        contents = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, zipfile.BadZipFile, EOFError, OSError, KeyError, ValueError) as e:
        raise ValueError(f"{path}: damaged, or not a checkpoint ({str(e).splitlines()[0][:120]}); use another run or train again") from e
    if not isinstance(contents, dict) or contents.get("format") != FORMAT:
        found = contents.get("format") if isinstance(contents, dict) else type(contents).__name__
        raise ValueError(f"{path}: format = {found!r}: expected {FORMAT}; it was not written by this version of minillm")
    return contents


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """The state of a model without what is frozen: all of it, or of an adapted model the adapter."""
    frozen = {name for name, parameter in model.named_parameters(remove_duplicate=False) if not parameter.requires_grad}
    return {name: value for name, value in model.state_dict().items() if name not in frozen}


def load_trained_state(model: nn.Module, state: dict[str, Tensor]) -> None:
    """The inverse of `trained_state`; what is frozen stays as it is. Raises ValueError for weights of another model or adapter.

    Tables that are no parameters may have another shape: they grow as they are filled.
    """
    tables = {name for name, _ in model.named_buffers()}
    shapes, found = ({name: None if name in tables else x.shape for name, x in y.items()} for y in (trained_state(model), state))
    wrong = [name for name in {**shapes, **found} if name not in shapes or name not in found or shapes[name] != found[name]]
    if wrong:
        name = wrong[0]
        raise ValueError(f"{name} of shape {found.get(name)}: expected {shapes.get(name)}, as the model has it; load it by its own config")
    model.load_state_dict(state, strict=False)


def fingerprint(state: dict[str, Tensor]) -> str:
    """SHA-256 of names, types, shapes and bits: equal only for the same weights."""
    hashed = hashlib.sha256()
    for name, value in sorted(state.items()):
        hashed.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        hashed.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return hashed.hexdigest()
