"""The measures of specialization, on cases with known results."""

import pytest
import torch

from benchmarks import specialization
from benchmarks.moe import pair
from benchmarks.specialization import choices, mutual_information
from minillm.config.flags import override
from minillm.datasets.corpus import Corpus
from minillm.datasets.split import split
from minillm.datasets.tokens import token_stream
from minillm.runs import wiring
from minillm.runs.config import load_config
from minillm.tasks import documents


@pytest.mark.parametrize(
    ("counts", "bits"),
    [
        ([[3, 0], [0, 9]], 1.0),  # each source its own expert, however much of it there is
        ([[2, 6], [1, 3]], 0.0),  # the same habits
        ([[5, 0], [5, 0]], 0.0),  # all to one
        ([[1, 1, 0, 0], [0, 0, 1, 3]], 1.0),
        ([[1, 0, 0], [0, 1, 0], [0, 0, 1]], 1.584962500721156),
        ([[1, 1, 0], [0, 1, 1]], 0.5),
    ],
)
def test_mutual_information_of_expert_and_source_is_that_of_the_textbook(counts, bits):
    assert mutual_information(torch.tensor(counts)) == pytest.approx(bits, abs=1e-12)


def test_each_choice_of_each_held_out_token_is_counted_once_under_its_source(monkeypatch, tmp_path):
    parts = tuple(Corpus(name, [f"{name * (2 + i)}." for i in range(40)], None) for name in ("a", "b"))
    mixed = Corpus("a,b", [document for part in parts for document in part.documents], None, parts)
    for module in (documents, specialization):
        monkeypatch.setattr(module, "load_corpus", lambda config: mixed)
        monkeypatch.setattr(module, "token_stream", lambda texts, tokenizer: token_stream(texts, tokenizer, tmp_path))
    small = {
        "model.d_model": "16",
        "model.d_ff": "8",
        "model.context_length": "64",
        "tokenizer.kind": "byte",
        "data.val_fraction": "0.2",
    }
    config = override(load_config("moe-tiny"), small)
    data = wiring.build_data(config, say=lambda line: None)
    counts = choices(wiring.build_model(config, data.tokenizer.vocab_size).eval(), config, data)
    assert counts.shape == (config.model.n_layers, 2, 8)
    assert (counts.sum((1, 2)) == 2 * (len(data.val.ids) - 1)).all()
    in_a = sum(len(document) + 1 for document in split(parts[0].documents, 0.2, 0.03).val)
    assert (counts[:, 0].sum(1) == 2 * in_a).all()


def test_the_dense_model_has_as_many_active_parameters():
    experts, dense = (c.model for c in pair(load_config("moe-tiny")).values())
    assert dense.n_experts == 0 and dense.d_ff == experts.d_ff * experts.n_experts_per_token
    sizes = [
        sum(p.numel() for p in wiring.build_model(c, 50).parameters()) for c in pair(load_config("moe-tiny")).values()
    ]
    idle = experts.n_layers * (experts.n_experts - experts.n_experts_per_token) * 2 * experts.d_model * experts.d_ff
    assert sizes[0] - idle - experts.n_layers * experts.n_experts * experts.d_model == sizes[1]
