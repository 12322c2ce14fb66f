"""The folder of a sentence encoder as a run: its vectors are the library's, and texts beyond its limit are refused."""

import json
from pathlib import Path

import pytest
import torch

from minillm.interop.__main__ import main as bring_in
from minillm.runs import folder
from minillm.serving.embedding import EmbeddingBody, embed
from minillm.serving.errors import ApiError
from tests.interop.foreign import in_float64, randomized
from tests.interop.tokenizer_families import FAMILIES, file_of
from tests.tiny import assert_equal

pytest.importorskip("safetensors")
transformers = pytest.importorskip("transformers")

SHAPE = {"hidden_size": 35, "num_hidden_layers": 2, "num_attention_heads": 5, "intermediate_size": 43}
SHAPE |= {"max_position_embeddings": 29, "attn_implementation": "eager", "layer_norm_eps": 1e-3, "pad_token_id": 0}
LIMIT = 13
TEXTS = ["the hedgehog", "other mothers gather", "a", "the theme of the thesis"]


def written(where: Path, **limits) -> Path:
    """A folder with a random encoder for the vocabulary of a small WordPiece."""
    file = file_of("bert")
    size = {"vocab_size": len(file["model"]["vocab"])}
    randomized(transformers.BertModel(transformers.BertConfig(**SHAPE, **size))).float().save_pretrained(where)
    files = {"tokenizer.json": file, "tokenizer_config.json": FAMILIES["bert"]["config"]}
    files |= {"1_Pooling/config.json": {"pooling_mode_mean_tokens": True}, "sentence_bert_config.json": limits}
    (where / "1_Pooling").mkdir()
    for name, values in files.items():
        (where / name).write_text(json.dumps(values))
    return where


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return written(tmp_path_factory.mktemp("encoder") / "folder", max_seq_length=LIMIT, do_lower_case=False)


@pytest.fixture(scope="module")
def text(source, tmp_path_factory):
    run = tmp_path_factory.mktemp("encoder") / "run"
    assert bring_in([str(source), "--out", str(run)]) == 0
    found = folder.open_run(run).text
    found.model.double()
    return found


def words(text, n: int) -> str:
    """A text of n tokens, the two around it included."""
    found = " ".join(["the"] * (n - 2))
    assert len(text.encode(found)) == n
    return found


def test_vectors_are_those_of_the_library_up_to_the_limit(source, text):
    with in_float64(transformers.BertModel):
        theirs = transformers.BertModel.from_pretrained(source, dtype=torch.float64)
        tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(source / "tokenizer.json"))
        for each in [*TEXTS, words(text, LIMIT)]:
            ids = tokenizer(each, truncation=True, max_length=LIMIT)["input_ids"]
            with torch.no_grad():
                mean = theirs(torch.tensor([ids])).last_hidden_state.mean(1)
            assert_equal(text.vectors([each]), torch.nn.functional.normalize(mean, dim=-1))


def test_a_longer_text_is_refused_with_the_number_by_the_library_and_the_server(text):
    longer = words(text, LIMIT + 1)
    message = f"{LIMIT + 1} tokens: expected at most model.context_length = {LIMIT}"
    assert text.model.context_length == LIMIT
    with pytest.raises(ValueError, match=message):
        text.vectors([TEXTS[0], longer])
    with pytest.raises(ApiError, match=message) as caught:
        embed(text, EmbeddingBody([longer], base64=False), "encoder")
    assert caught.value.status == 400
    assert embed(text, EmbeddingBody([words(text, LIMIT)], base64=False), "encoder")["usage"]["prompt_tokens"] > 0


def test_the_limit_is_told(source, tmp_path, capsys):
    assert bring_in([str(source), "--out", str(tmp_path / "run")]) == 0
    out = capsys.readouterr().out
    assert f"texts of more than {LIMIT} tokens are refused, of 29 that the file has positions for" in out


@pytest.mark.parametrize("limits", [{}, {"max_seq_length": None}, {"max_seq_length": 29}, {"max_seq_length": 512}])
def test_without_a_lower_limit_all_positions_are_used(limits, tmp_path, capsys):
    assert bring_in([str(written(tmp_path / "folder", **limits)), "--out", str(tmp_path / "run")]) == 0
    assert folder.open_run(tmp_path / "run").text.model.context_length == 29
    assert "are refused" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_seq_length": 0}, "sentence_bert_config.json: max_seq_length = 0: expected a whole number above 0"),
        ({"max_seq_length": "9"}, "max_seq_length = '9': expected a whole number above 0"),
        ({"do_lower_case": True}, "sentence_bert_config.json: do_lower_case = True: expected False"),
        ({"max_len": 9}, "sentence_bert_config.json: max_len = 9: a key that minillm does not understand"),
    ],
)
def test_what_is_not_understood_is_refused(limits, message, tmp_path, capsys):
    assert bring_in([str(written(tmp_path / "folder", **limits)), "--out", str(tmp_path / "run")]) == 2
    assert message in capsys.readouterr().err
