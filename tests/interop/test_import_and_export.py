"""Whole models go out to other libraries and come in again: files, commands, refusals."""

import json
from pathlib import Path

import pytest
import torch

import train
from minillm.interop.__main__ import main as bring_in
from minillm.interop.export.__main__ import main as take_out
from minillm.interop.families import FAMILIES
from minillm.interop.foreign_config import ForeignConfig
from minillm.models.decoder import DecoderConfig
from minillm.runs import folder
from minillm.runs.imported import read
from tests import small_runs
from tests.tiny import assert_equal

pytest.importorskip("safetensors")
transformers = pytest.importorskip("transformers")

LLAMA = {"model.d_head": 6, "model.n_heads": 4, "model.n_kv_heads": 2, "model.d_model": 12, "model.norm": "rmsnorm"}
LLAMA |= {"model.feedforward": "swiglu", "model.context_length": 41, "model.init_embed": 0.5}
LLAMA |= {"tokenizer.kind": "bpe", "tokenizer.vocab_size": 300, "train.max_steps": 2, "schedule.warmup_steps": 0}
KEYS = {name.replace(".", "__"): value for name, value in LLAMA.items()}
WIDE = {"model__d_model": 32, "model__d_head": 8, "model__d_ff": 64}  # rows of whole blocks
TEXTS = ["the quick brown fox 7 jumps", "Ünïcödé 🦔  <|end|> \n\n 12", "", " a"]


def trained(where: Path, **changes) -> Path:
    """A Llama that has learned from documents, so that a text begins with END, which other libraries can put there."""
    lines = [json.dumps({"text": line}) for line in small_runs.TEXT.splitlines()]
    (where / "texts.jsonl").write_text("\n".join(lines))
    words = small_runs.flags(**{"train__run": where / "run", "data__corpus": where / "texts.jsonl"} | KEYS | changes)
    assert train.main(["--config", "gpt-tiny", *words]) == 0
    return where / "run"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return trained(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory) -> Path:
    to = tmp_path_factory.mktemp("exported") / "llama"
    assert take_out([str(run), "--to", str(to)]) == 0
    return to


def test_an_exported_run_has_equal_logits_and_ids_in_transformers(run, exported):
    theirs = transformers.AutoModelForCausalLM.from_pretrained(exported, dtype=torch.float64)
    tokenizer = transformers.AutoTokenizer.from_pretrained(exported)
    text = folder.open_run(run).text
    ours = text.model.double()
    assert type(theirs).__name__ == "LlamaForCausalLM" and theirs.lm_head.weight is theirs.model.embed_tokens.weight
    for written in TEXTS:
        ids = tokenizer(written)["input_ids"]
        assert ids == text.encode(written) and tokenizer.decode(ids, skip_special_tokens=True) == written
        with torch.no_grad():
            a, b = ours(torch.tensor([ids]))[0], theirs(torch.tensor([ids])).logits
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)  # the library computes norms and angles in float32


def test_a_tuned_run_goes_out_with_its_template(tmp_path):
    pytest.importorskip("jinja2")
    said = [{"role": "user", "content": "Say it."}, {"role": "assistant", "content": "So", "think": "Hm"}]
    lines = [json.dumps({"messages": [*said[:1], {"role": "assistant", "content": str(i)}]}) for i in range(30)]
    (tmp_path / "said.jsonl").write_text("\n".join(lines))
    run = trained(tmp_path, task__kind="sft", data__corpus=tmp_path / "said.jsonl", data__val_fraction=0.2)
    assert take_out([str(run), "--to", str(tmp_path / "out")]) == 0
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    ours = folder.open_run(run).text.template
    for messages in (said[:1], [{"role": "system", "content": "é"}, *said, {"role": "user", "content": " b"}]):
        wanted = ours.render(messages)
        assert theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False) == wanted
    eos = json.loads((tmp_path / "out" / "generation_config.json").read_text())["eos_token_id"]
    assert set(eos) == {ours.tokenizer.end_id, ours.turn}


def test_greedy_text_is_the_same_in_transformers(run, exported):
    theirs = transformers.AutoModelForCausalLM.from_pretrained(exported)
    text = folder.open_run(run).text
    prompt = text.encode("the quick")
    found = theirs.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False)[0].tolist()[len(prompt) :]
    from minillm.decoding.sampler import SamplingConfig

    [mine] = text.generate(["the quick"], SamplingConfig(temperature=0), max_new_tokens=12, seeds=[0])
    assert mine.text == text.tokenizer.decode([token for token in found if token != text.tokenizer.end_id])


def test_an_exported_run_comes_in_again_with_the_same_weights(run, exported, tmp_path, capsys):
    assert bring_in([str(exported), "--out", str(tmp_path / "again")]) == 0
    first, again = folder.open_run(run).text, folder.open_run(tmp_path / "again").text
    assert again.model.head.weight is again.model.embed.weight
    assert all(torch.equal(x, again.model.state_dict()[name]) for name, x in first.model.state_dict().items())
    for text in TEXTS:
        assert again.encode(text) == first.encode(text)


def test_a_sharded_folder_and_rounded_weights(run, exported, tmp_path):
    sharded = tmp_path / "sharded"
    model = transformers.AutoModelForCausalLM.from_pretrained(exported)
    model.save_pretrained(sharded, max_shard_size="4KB")
    assert len(list(sharded.glob("*.safetensors"))) > 1
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (sharded / name).write_bytes((exported / name).read_bytes())
    assert bring_in([str(sharded), "--out", str(tmp_path / "whole")]) == 0
    first = folder.open_run(run).text.model.state_dict()
    again = folder.open_run(tmp_path / "whole").text.model
    assert all(torch.equal(x, first[name]) for name, x in again.state_dict().items())
    assert bring_in([str(sharded), "--out", str(tmp_path / "int8"), "--weights", "int8"]) == 0
    rounded = folder.open_run(tmp_path / "int8").text.model
    assert rounded.head.packed.values.dtype == torch.int8
    assert_equal(rounded.embed(torch.arange(7)).float(), rounded.head.packed.rows(torch.arange(7)).bfloat16().float())


@pytest.mark.parametrize("eight_bits", [False, True])
def test_a_gguf_file_goes_out_and_comes_in_again(run, tmp_path, eight_bits):
    pytest.importorskip("gguf")
    wide = trained(tmp_path, **WIDE)
    file = tmp_path / "model.gguf"
    assert take_out([str(wide), "--to", str(file), *(["--q8_0"] if eight_bits else [])]) == 0
    assert bring_in([str(file), "--out", str(tmp_path / "again")]) == 0
    first, again = folder.open_run(wide).text, folder.open_run(tmp_path / "again").text
    for name, x in first.model.state_dict().items():
        close = {"rtol": 0, "atol": float(x.abs().max()) / 127} if eight_bits else {"rtol": 0, "atol": 0}
        torch.testing.assert_close(again.model.state_dict()[name], x, **close)
    for text in TEXTS:
        assert again.encode(text) == first.encode(text)


def test_the_rotary_scaling_of_llama_3_goes_out_as_factors_and_is_found_again(tmp_path, capsys):
    scaling = {"scaling": "llama3", "factor": 3.0, "trained_length": 17, "few_turns": 1.0, "many_turns": 4.0}
    flags = {f"model__rotary_{name}": value for name, value in scaling.items()}
    scaled = trained(tmp_path, **WIDE, **flags)
    assert take_out([str(scaled), "--to", str(tmp_path / "model.gguf")]) == 0
    assert bring_in([str(tmp_path / "model.gguf"), "--out", str(tmp_path / "again")]) == 0
    first, again = folder.open_run(scaled), folder.open_run(tmp_path / "again")
    assert {name: getattr(again.config.model, f"rotary_{name}") for name in scaling} == scaling
    text = torch.randint(256, (2, 41), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert_equal(again.text.model.double()(text)[0], first.text.model.double()(text)[0])
    assert take_out([str(tmp_path / "again"), "--to", str(tmp_path / "twice.gguf")]) == 2
    assert "expected tokenizer.kind = bpe" in capsys.readouterr().err


def test_blocks_of_four_bits_become_packed_layers_without_rounding_again(tmp_path):
    gguf = pytest.importorskip("gguf")
    wide = trained(tmp_path, **WIDE)
    assert take_out([str(wide), "--to", str(tmp_path / "whole.gguf")]) == 0
    read_file, file = gguf.GGUFReader(tmp_path / "whole.gguf"), tmp_path / "packed.gguf"
    writer = gguf.GGUFWriter(file, "llama")
    for name, field in read_file.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            of = field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(name, field.contents(), field.types[0], sub_type=of)
    expected = {}
    for tensor in read_file.tensors:
        kind = gguf.GGMLQuantizationType.Q4_1 if ".weight" in tensor.name and "blk" in tensor.name else None
        if kind is None or "norm" in tensor.name:
            writer.add_tensor(tensor.name, tensor.data)
            continue
        blocks = gguf.quants.quantize(tensor.data, kind)
        expected[tensor.name] = torch.tensor(gguf.quants.dequantize(blocks, kind))
        writer.add_tensor(tensor.name, blocks, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert bring_in([str(file), "--out", str(tmp_path / "packed")]) == 0
    model = folder.open_run(tmp_path / "packed").text.model
    exact = {"rtol": 2e-7, "atol": 1e-8}  # the same levels; sums in float32 may end in another last digit
    attention, feedforward = model.blocks[0].attention, model.blocks[0].feedforward
    torch.testing.assert_close(attention.to_v.packed.dequantize(), expected["blk.0.attn_v.weight"], **exact)
    torch.testing.assert_close(feedforward.down.packed.dequantize(), expected["blk.0.ffn_down.weight"], **exact)
    q = expected["blk.0.attn_q.weight"].view(4, 4, 2, 32).transpose(1, 2).reshape(32, 32)  # pairs beside each other
    torch.testing.assert_close(attention.to_q.packed.dequantize(), q, **exact)
    assert bring_in([str(file), "--out", str(tmp_path / "unpacked"), "--weights", "float32"]) == 0
    whole = folder.open_run(tmp_path / "unpacked").text.model
    assert torch.equal(whole.blocks[0].attention.to_q.weight, attention.to_q.packed.dequantize())


def test_a_run_that_nobody_else_can_express_is_refused_with_its_keys(tmp_path, capsys):
    run = small_runs.started(tmp_path, model__value_embeddings="true")
    capsys.readouterr()
    assert take_out([str(run), "--to", str(tmp_path / "new")]) == 2
    err = capsys.readouterr().err
    assert "model.value_embeddings = True" in err and "model.feedforward = relu2" in err and err.count("\n") == 1
    assert not (tmp_path / "new").exists()


def change(exported: Path, to: Path, file: str = "config.json", **values) -> Path:
    """A copy of an exported folder with other values in one of its files."""
    to.mkdir()
    for each in exported.iterdir():
        (to / each.name).write_bytes(each.read_bytes())
    (to / file).write_text(json.dumps(json.loads((to / file).read_text()) | values))
    return to


WRONG = {
    "an unknown key": ({"new_trick": 3}, "new_trick = 3: a key that minillm does not understand"),
    "another kind": ({"model_type": "lama"}, "did you mean llama"),
    "an activation": ({"hidden_act": "gelu"}, "hidden_act = 'gelu': expected"),
    "a scaling": (
        {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
        "rope_type = 'dynamic'",
    ),
    "half of the rotation": (
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
        "partial_rotary_factor = 0.5",
    ),
    "too many blocks": ({"num_hidden_layers": 2}, "model.layers.1.input_layernorm.weight = missing"),
    "too few blocks for the weights": ({"tie_word_embeddings": False}, "lm_head.weight = missing"),
    "a huge model": ({"hidden_size": 2**40}, "expected"),
}


@pytest.mark.parametrize(("values", "message"), WRONG.values(), ids=WRONG)
def test_what_minillm_would_not_compute_exactly_is_refused_by_name(values, message, exported, tmp_path, capsys):
    wrong = change(exported, tmp_path / "wrong", **values)
    assert bring_in([str(wrong), "--out", str(tmp_path / "new")]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1, err
    assert not (tmp_path / "new").exists()


def test_missing_files_and_folders_are_refused(exported, tmp_path, capsys):
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        part = change(exported, tmp_path / name)
        (part / name).unlink()
        assert bring_in([str(part), "--out", str(tmp_path / "new")]) == 2
        assert name in capsys.readouterr().err
    assert bring_in([str(tmp_path / "none"), "--out", str(tmp_path / "new")]) == 2
    assert "expected the folder of a model" in capsys.readouterr().err


def test_settings_of_generation_come_in(exported, tmp_path):
    settings = {"do_sample": True, "temperature": 0.6, "top_p": 0.8, "eos_token_id": [299, 5]}
    settings |= {"top_k": 20, "repetition_penalty": 1.1}
    found = read(change(exported, tmp_path / "new", "generation_config.json", **settings))
    assert found.sampling == {"temperature": 0.6, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.1}
    assert 5 in found.tokenizer.stop_ids


def test_an_imported_run_is_tuned_further_and_its_training_text_is_not_invented(run, exported, tmp_path, capsys):
    assert bring_in([str(exported), "--out", str(tmp_path / "base")]) == 0
    (tmp_path / "my.txt").write_text(small_runs.TEXT)
    words = ["--init-from", str(tmp_path / "base"), "--train.run", str(tmp_path / "tuned"), "--train.max_steps", "2"]
    assert train.main([*words, "--schedule.warmup_steps", "0", "--data.corpus", str(tmp_path / "my.txt")]) == 0
    base, tuned = folder.open_run(tmp_path / "base").text, folder.open_run(tmp_path / "tuned").text
    assert tuned.tokenizer.to_dict() == base.tokenizer.to_dict()
    moved = (tuned.model.embed.weight - base.model.embed.weight).abs().max()
    assert 0 < moved < 0.1
    capsys.readouterr()
    assert train.main([*words[:2], "--train.run", str(tmp_path / "other")]) == 2
    assert "data.corpus = 'unknown': expected" in capsys.readouterr().err


def test_a_text_of_no_tokens_begins_with_end(exported, tmp_path):
    bare = change(exported, tmp_path / "bare", "tokenizer.json", post_processor=None)
    assert bring_in([str(bare), "--out", str(tmp_path / "run")]) == 0
    text = folder.open_run(tmp_path / "run").text
    assert text.tokenizer.opening == () and text.encode("") == [text.tokenizer.end_id]
    assert len(text.logprobs(["the quick"])[0]) == len(text.tokenizer.encode("the quick"))


def test_harmless_keys_of_published_files_are_read():
    written = FAMILIES["llama"].write(DecoderConfig(feedforward="swiglu"))
    del written["rope_parameters"]  # as files were written before 2025
    written |= {"is_llama_config": True, "rope_interleaved": False, "rope_theta": 97.0, "rope_scaling": None}
    f = ForeignConfig(written | {"use_mrope": False, "pretraining_tp": 1}, "config.json")
    assert FAMILIES["llama"].read(f).rotary_base == 97.0
    f.finish()
    f = ForeignConfig({"n_positions": 53, "n_ctx": 53, "n_special": 0, "predict_special_tokens": True}, "config.json")
    assert FAMILIES["gpt2"].read(f).context_length == 53
    f.finish()
    with pytest.raises(ValueError, match="rope_interleaved = True: expected False"):
        FAMILIES["llama"].read(ForeignConfig(written | {"rope_interleaved": True}, "config.json"))


def test_a_tokenizer_config_without_roles_takes_the_end_from_the_config(exported, tmp_path):
    bare = change(exported, tmp_path / "bare", "tokenizer_config.json")
    (bare / "tokenizer_config.json").write_text('{"model_max_length": 41}')
    (bare / "tokenizer.json").write_text(
        json.dumps(json.loads((bare / "tokenizer.json").read_text()) | {"post_processor": None})
    )
    assert read(bare).tokenizer.end_id == json.loads((bare / "config.json").read_text())["eos_token_id"]


@pytest.mark.parametrize(
    "values",
    [{"rope_parameters": [1]}, {"hidden_act": ["silu"]}, {"rope_scaling": {"rope_type": "linear", "factor": None}}],
)
def test_a_malformed_config_is_refused_in_a_sentence(values, exported, tmp_path, capsys):
    wrong = change(exported, tmp_path / "wrong", **values)
    if "rope_scaling" in values:
        config = json.loads((wrong / "config.json").read_text())
        del config["rope_parameters"]
        (wrong / "config.json").write_text(json.dumps(config))
    assert bring_in([str(wrong), "--out", str(tmp_path / "new")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_names_of_tokens_that_a_template_uses_come_with_it(exported, tmp_path):
    source = "{{ bos_token }}{% for m in messages %}{{ m['content'] }}{{ eos_token }}{% endfor %}"
    found = read(change(exported, tmp_path / "new", "tokenizer_config.json", chat_template=source))
    assert found.template.startswith(
        '{% set bos_token = "<|end|>" %}\n{% set eos_token = "<|end|>" %}\n{{ bos_token }}'
    )


def test_settings_that_are_not_taken_over_are_named(exported, tmp_path):
    more = {"do_sample": False, "repetition_penalty": 1.2, "no_repeat_ngram_size": 3}
    found = read(change(exported, tmp_path / "new", "generation_config.json", **more))
    assert found.sampling == {"temperature": 0.0, "repetition_penalty": 1.2}
    assert any("no_repeat_ngram_size" in remark for remark in found.remarks)


def test_a_folder_with_a_token_for_images_becomes_a_run_without_it(run, exported, tmp_path, capsys):
    whole = json.loads((exported / "tokenizer.json").read_text())
    n = folder.open_run(run).text.tokenizer.vocab_size
    image = {"id": n, "content": "<image>", "special": True, "single_word": False, "normalized": False}
    added = [*whole["added_tokens"], image | {"lstrip": False, "rstrip": False}]
    wider = change(exported, tmp_path / "wider", "tokenizer.json", added_tokens=added)
    assert bring_in([str(wider), "--out", str(tmp_path / "again")]) == 0
    assert f"added tokens '<image>' ({n}): beyond the {n} rows" in capsys.readouterr().out
    first, again = folder.open_run(run).text, folder.open_run(tmp_path / "again").text
    for text in [*TEXTS, "a<image>b"]:
        assert again.encode(text) == first.encode(text)
    theirs = transformers.AutoTokenizer.from_pretrained(wider)
    assert theirs("the quick")["input_ids"] == again.encode("the quick") and len(theirs) == n + 1
