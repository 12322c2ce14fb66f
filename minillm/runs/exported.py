"""Exported runs: a run written in the formats of other libraries. Read before: `folder`, `interop/export/`."""

from pathlib import Path

from minillm.adapters.merge import merge
from minillm.interop.export import gguf
from minillm.interop.export.hugging_face import Exported, write_folder
from minillm.models.decoder import DecoderConfig
from minillm.models.encoder import EncoderConfig
from minillm.quantization.pack import unpack
from minillm.runs.folder import open_run, read_best
from minillm.text.model import opening
from minillm.tokenizers.role_template import JINJA, own_template


def save(path: Path, to: Path, q8_0: bool = False) -> str:
    """Write a run as a folder, or as a file if `to` ends in .gguf; return a line for the user. Raises ValueError."""
    if to.exists():
        raise ValueError(f"--to {to}: expected a path that does not exist yet; name another")
    if q8_0 and to.suffix != ".gguf":
        raise ValueError(f"--q8_0 would be ignored: expected a path that ends in .gguf, not {to}; leave it out")
    exported = read(path)
    if to.suffix == ".gguf":
        gguf.write_file(exported, to, q8_0)
        return f"{to}: {to.stat().st_size / 1e6:.3f} MB"
    write_folder(exported, to)
    return f"{to}: {', '.join(sorted(file.name for file in to.iterdir()))}"


def read(path: Path) -> Exported:
    """A run with whole float32 weights. Raises ValueError for a kind of model that no other library has."""
    opened, documents = open_run(path), read_best(path)["documents"]
    model, config = opened.text.model, opened.config
    if not isinstance(config.model, DecoderConfig | EncoderConfig):
        raise ValueError(
            f"model.kind = {config.model.kind}: expected decoder or encoder to be exported; name another run"
        )
    merge(model)
    unpack(model)
    tokenizer = opened.text.tokenizer
    before = opening(tokenizer, documents)
    # subtle: a newline is no special token, so other libraries cannot put it before every text
    before = before if before == [tokenizer.end_id] or tokenizer.opening is not None else []
    template = config.text.template or (JINJA if own_template(tokenizer) else "")
    return Exported(config.model, model.state_dict(), tokenizer, before, template, config.sampling)
