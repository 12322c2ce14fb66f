"""Imported runs: a model that other people trained, saved as a run, which every command can open.

Read before: `folder`, `interop/hugging_face.py`, `interop/gguf_model.py`.
"""

from pathlib import Path

import torch

from minillm.config.fields import suggest
from minillm.config.loading import to_toml
from minillm.datasets.corpus import DataConfig
from minillm.decoding.sampler import SamplingConfig
from minillm.interop.gguf_model import read_gguf
from minillm.interop.hugging_face import read_folder
from minillm.interop.imported import Imported
from minillm.models.decoder import DecoderConfig
from minillm.quantization.pack import WEIGHTS, pack, unpack
from minillm.runs.config import RunConfig
from minillm.runs.folder import build_with, write_readable
from minillm.tasks.blanks import Blanks
from minillm.tasks.next_token import NextToken
from minillm.tasks.settings import AboutConfig
from minillm.text.model import TextConfig
from minillm.tokenizers.build_tokenizer import TokenizerConfig
from minillm.training import checkpoint
from minillm.training.loop import Progress

STORED, UNPACKED = "stored", "float32"
UNKNOWN = "unknown"  # the corpus: the training text of an imported model is not at hand


def read(source: Path) -> Imported:
    """Read a folder in the layout of Hugging Face, or a GGUF file. Raises ValueError."""
    try:
        if source.is_dir():
            return read_folder(source)
        if source.suffix == ".gguf":
            return read_gguf(source)
    except (TypeError, KeyError, IndexError, AttributeError, ArithmeticError) as e:
        # subtle: a file may hold any JSON, such as a list where a number belongs
        raise ValueError(f"{source}: malformed ({type(e).__name__}: {e}); take the files as published") from e
    raise ValueError(f"{source}: expected the folder of a model, with config.json, or a .gguf file; check the path")


def save(source: Path, out: Path, weights: str = STORED, group: int = 64, summary: str = "") -> list[str]:
    """Import a model and write its run; return remarks for the user. Raises ValueError.

    `weights`: "stored" keeps matrices of four bits packed as they are, and then all other weights become bfloat16; a
    file without such matrices becomes float32. "float32" unpacks them, and a format of `quantization/pack.py` rounds
    the weights to it, in groups of `group`.
    """
    if out.exists():
        raise ValueError(f"--out {out}: expected a folder that does not exist yet; name another")
    if weights not in (STORED, UNPACKED, *WEIGHTS):
        raise ValueError(f"--weights {weights}: expected {suggest(weights, [STORED, UNPACKED, *WEIGHTS])}")
    found = read(source)
    config, tokenizer = config_of(found, summary or f"imported from {source.name}"), found.tokenizer
    packed = any(name.endswith(".values") for name in found.state)
    dtype = torch.bfloat16 if weights == STORED and packed else torch.float32
    model = build_with(config, tokenizer.vocab_size, found.state, dtype)
    if weights != STORED:
        unpack(model)
    if weights in WEIGHTS:
        pack(model, weights, group)
    contents = {
        "config": to_toml(config),
        "tokenizer": tokenizer.to_dict(),
        "documents": True,
        "corpus": "",
        "progress": vars(Progress()),
        "base": None,
        "step": {"model": model.state_dict()},
    }
    if dtype == torch.bfloat16 or weights in WEIGHTS:
        contents["packed"] = {"weights": weights, "group": group}
    write_readable(out, config, tokenizer)
    place = out / "checkpoint" / "best.pt"
    checkpoint.save(place, contents)
    return [*found.remarks, f"{out}: {place.stat().st_size / 1e6:.1f} MB"]


def config_of(found: Imported, summary: str) -> RunConfig:
    """The config of an imported run: its task is the one that the kind of model learns."""
    generates = isinstance(found.model, DecoderConfig)
    return RunConfig(
        task=NextToken() if generates else Blanks(),
        about=AboutConfig(summary=summary),
        data=DataConfig(corpus=UNKNOWN),
        tokenizer=TokenizerConfig(kind=found.tokenizer.to_dict()["kind"], vocab_size=found.tokenizer.vocab_size),
        model=found.model,
        text=TextConfig(template=found.template),
        sampling=SamplingConfig(**found.sampling) if generates else SamplingConfig(),
    )
