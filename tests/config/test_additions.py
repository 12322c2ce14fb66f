"""Additions: an activation, transform, norm or position encoding is one edit in one file; half of it is an error."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest
import torch

from minillm.decoding import sampler
from minillm.decoding.sampler import PIPELINE, SamplingConfig, build_pipeline
from minillm.decoding.transforms import TopK
from minillm.layers import feedforward
from minillm.layers.feedforward import ACTIVATIONS
from minillm.layers.norm import NORMS
from minillm.layers.positions import POSITIONS
from minillm.models.decoder import Decoder, DecoderConfig
from minillm.models.encoder import Encoder, EncoderConfig
from minillm.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from minillm.models.rnn import CELLS, RNN, RNNConfig
from minillm.runs.config import RunConfig
from minillm.training import manual_modules

ROOT = Path(__file__).parents[2]
SHAPE = {"d_model": 12, "n_heads": 2}
MAKERS = {
    "decoder": lambda **how: Decoder(DecoderConfig(**SHAPE, **how), 11),
    "experts": lambda **how: Decoder(DecoderConfig(n_experts=3, **SHAPE, **how), 11),
    "shared experts": lambda **how: Decoder(DecoderConfig(n_experts=3, n_shared_experts=1, **SHAPE, **how), 11),
    "encoder": lambda **how: Encoder(EncoderConfig(**SHAPE, **how), 11),
    "encoder-decoder": lambda **how: EncoderDecoder(EncoderDecoderConfig(**SHAPE, **how), 11),
}
EDITS = {  # file -> edits: (old text, new text)
    "minillm/layers/feedforward.py": [('    "relu": F.relu,\n', '    "relu": F.relu,\n    "swish": F.silu,\n')],
    "minillm/decoding/sampler.py": [
        (
            "    banned_tokens: tuple",
            "    most: Count = 0  # ids from this one on are never drawn; 0: off\n    banned_tokens: tuple",
        ),
        ('    "top_k": TopK,\n', '    "top_k": TopK,\n    "most": OnlyFirst,\n'),
    ],
}
ASK = """
import json, sample
from minillm.config.loading import from_dict, to_toml
from minillm.decoding.sampler import SamplingConfig, build_pipeline, describe
from minillm.models.decoder import Decoder, DecoderConfig
from minillm.runs.config import RunConfig
config = from_dict(RunConfig, {"model": {"feedforward": "swish"}, "sampling": {"most": 7}})
mlp = Decoder(config.model, 11).blocks[0].feedforward
try:
    DecoderConfig(feedforward="swich")
except ValueError as e:
    refused = str(e)
print(json.dumps({
    "activation": mlp.activation.__name__,
    "pipeline": describe(build_pipeline(config.sampling)),
    "help": " ".join(sample.build_parser().format_all().split()),
    "toml": to_toml(config),
    "refused": refused,
}))
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory) -> dict[str, str]:
    """Names, help and errors that a copy of the tree prints after those edits."""
    copy = tmp_path_factory.mktemp("tree")
    shutil.copytree(ROOT / "minillm", copy / "minillm", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "sample.py", copy)
    for name, edits in EDITS.items():
        text = (copy / name).read_text(encoding="utf-8")
        for before, after in edits:
            assert text.count(before) == 1
            text = text.replace(before, after)
        (copy / name).write_text(text, encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(copy)}
    done = subprocess.run([sys.executable, "-c", ASK], cwd=copy, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_one_line_adds_an_activation_to_configs_files_help_and_models(told):
    assert told["activation"] == "silu"
    assert 'feedforward = "swish"' in told["toml"]
    assert told["refused"] == "DecoderConfig.feedforward = 'swich': expected one of 8 names; did you mean swish?"


def test_one_file_adds_a_transform_to_configs_files_help_and_the_pipeline(told):
    assert told["pipeline"] == "ids below 7 -> draw"
    assert "--most X ids from this one on are never drawn; 0: off (int >= 0; default 0)" in told["help"]
    assert "most = 7" in told["toml"]


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_an_activation_is_there_for_every_model(make, monkeypatch):
    with pytest.raises(ValueError, match=r"feedforward = 'swish': expected one of relu2, gelu"):
        make(feedforward="swish")
    monkeypatch.setitem(ACTIVATIONS, "swish", torch.nn.functional.silu)
    model = make(feedforward="swish")
    assert any("activation" in vars(m) and m.activation is torch.nn.functional.silu for m in model.modules())


def test_a_norm_an_encoding_of_positions_and_a_cell_are_one_entry_each(monkeypatch):
    monkeypatch.setitem(NORMS, "nothing", lambda d_model, eps, bias: torch.nn.Identity())
    assert isinstance(MAKERS["decoder"](norm="nothing").norm, torch.nn.Identity)
    monkeypatch.setitem(POSITIONS, "later", POSITIONS["learned"])
    assert MAKERS["decoder"](positions="later").embed_positions.table.weight.shape == (256, 12)
    monkeypatch.setitem(CELLS, "another", CELLS["gru"])
    assert isinstance(RNN(RNNConfig(cell="another", d_hidden=5), 11).layers[0], CELLS["gru"])


def test_a_setting_without_a_transform_is_a_sentence_and_so_is_a_transform_without_a_setting(monkeypatch):
    # subtle: not by delitem: its undoing would put the transform last, and the pipeline depends on their order
    without = {name: transform for name, transform in PIPELINE.items() if name != "min_p"}
    monkeypatch.setattr(sampler, "PIPELINE", without)
    with pytest.raises(
        ValueError, match=r"^sampling\.min_p: expected a transform; add it to PIPELINE in minillm/decoding/sam"
    ):
        build_pipeline(SamplingConfig())
    monkeypatch.undo()
    monkeypatch.setitem(PIPELINE, "most", TopK)
    with pytest.raises(
        ValueError, match=r'^PIPELINE\["most"\]: expected a setting of this name; add it to SamplingConfig in'
    ):
        build_pipeline(SamplingConfig())


@dataclasses.dataclass(frozen=True)
class DiffusionConfig:
    """A new kind of model."""

    kind: Literal["diffusion"] = "diffusion"


def test_a_kind_of_model_that_no_task_trains_is_a_sentence():
    with pytest.raises(
        ValueError, match=r"^model\.kind = diffusion: .*; add it to `models` of a task in minillm/tasks/"
    ):
        dataclasses.replace(RunConfig(), model=DiffusionConfig())


def test_an_activation_without_a_derivative_by_hand_is_refused_before_the_first_step(monkeypatch):
    monkeypatch.setitem(ACTIVATIONS, "swish", torch.nn.functional.silu)
    model = MAKERS["decoder"](feedforward="swish")
    with pytest.raises(ValueError, match=r"no derivative of swish in blocks\.0\.feedforward is written; use autograd"):
        manual_modules.refuse_unknown(model, [type(m) for m in model.modules()])
    model = MAKERS["decoder"]()
    manual_modules.refuse_unknown(model, [type(m) for m in model.modules()])


def test_an_activation_that_is_in_no_dictionary_has_a_name_too():
    model = MAKERS["decoder"]()
    for module in model.modules():
        if isinstance(module, feedforward.MLP):
            module.activation = torch.sin
    with pytest.raises(ValueError, match=r"no derivative of sin in blocks\.0\.feedforward is written"):
        manual_modules.refuse_unknown(model, [type(m) for m in model.modules()])
