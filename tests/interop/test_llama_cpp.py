"""llama.cpp opens what we export, and the real SmolLM2 answers in our code; both need packages or a network."""

import json

import pytest

import minillm
import train
from minillm import download
from minillm.decoding.sampler import SamplingConfig
from minillm.interop.export.__main__ import main as take_out
from minillm.runs import folder
from tests import small_runs

LLAMA_3 = {"scaling": "llama3", "factor": 4.0, "trained_length": 16, "few_turns": 0.5, "many_turns": 2.0}


@pytest.mark.slow
@pytest.mark.parametrize("rotary", [{}, LLAMA_3], ids=["plain", "llama3"])
def test_llama_cpp_writes_the_same_greedy_text_as_the_run_that_was_exported(rotary, tmp_path):
    xllamacpp = pytest.importorskip("xllamacpp")
    (tmp_path / "texts.jsonl").write_text("\n".join(json.dumps({"text": x}) for x in small_runs.TEXT.splitlines()))
    sizes = {"model.d_model": 64, "model.n_layers": 2, "model.context_length": 64, "train.max_steps": 60}
    sizes |= {"train.run": tmp_path / "run", "data.corpus": tmp_path / "texts.jsonl", "tokenizer.vocab_size": 300}
    sizes |= {f"model.rotary_{name}": value for name, value in rotary.items()}
    words = [word for name, value in sizes.items() for word in (f"--{name}", str(value))]
    assert train.main(["--config", "llama-tiny", *words]) == 0
    assert take_out([str(tmp_path / "run"), "--to", str(tmp_path / "model.gguf")]) == 0
    text = folder.open_run(tmp_path / "run").text
    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel, params.cpuparams.n_threads = (
        str(tmp_path / "model.gguf"),
        64,
        1,
        1,
    )
    server = xllamacpp.Server(params)
    for prompt in ("3 the quick", "17 the quick brown fox", "2"):
        [mine] = text.generate([prompt], SamplingConfig(temperature=0), max_new_tokens=20, seeds=[0])
        theirs = server.handle_completions({"prompt": prompt, "temperature": 0, "max_tokens": 20})
        assert theirs["choices"][0]["text"] == mine.text


@pytest.mark.slow
def test_the_real_smollm2_answers(tmp_path, capsys):
    if download.main(["smollm2-135m", "--out", str(tmp_path / "run")]) == 2:
        pytest.skip(capsys.readouterr().err)
    model = minillm.load(tmp_path / "run")
    question = [{"role": "user", "content": "What is the capital of France?"}]
    assert model.chat(question, temperature=0, max_new_tokens=40) == "The capital of France is Paris."
