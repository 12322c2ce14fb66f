"""Starting a run from the weights or the config of another: what is copied, and what must agree."""

import dataclasses
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import train
from minillm import quantize
from minillm.config.flags import override
from minillm.config.loading import to_toml
from minillm.datasets.pairs import Pairs
from minillm.datasets.tokens import TokenStream
from minillm.models.decoder import ROUTING, SCALING
from minillm.runs import folder, start
from minillm.runs.config import CONFIGS, RunConfig, load_config
from minillm.tasks.task import Data
from minillm.training import checkpoint
from tests.small_runs import SMALL, TEXT, edit, progress, said


def config_without(tmp_path: Path, *sections: str, **flags: str) -> Path:
    """The config of the small runs, as a file without some sections."""
    config = override(
        load_config("gpt-tiny"),
        {k: str(v) for k, v in SMALL.items()} | {k.replace("__", "."): v for k, v in flags.items()},
    )
    kept = [
        part
        for part in to_toml(config).split("\n\n")
        if part.strip() and part.split("]")[0].strip("[\n") not in sections
    ]
    path = tmp_path / "other.toml"
    path.write_text("\n".join(kept))
    return path


def test_a_config_that_names_no_model_takes_that_of_the_run_whatever_it_is(finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "new.txt").write_text(TEXT.replace("dogs", "cats"))
    config = config_without(tmp_path, "model", "tokenizer", data__corpus=str(tmp_path / "new.txt"))
    assert train.main(["--config", str(config), "--init-from", str(finished), "--train.run", "new"]) == 0
    new, old = (folder.read_best(path) for path in (tmp_path / "new", finished))
    assert new["config"].model == old["config"].model
    assert new["tokenizer"].to_dict() == old["tokenizer"].to_dict(), "kept, although the corpus is another"


def test_the_tokenizer_of_the_run_is_kept_on_another_text_and_refuses_what_it_lacks(finished, tmp_path, capsys):
    (tmp_path / "less.txt").write_text("the quick dogs sleeps over 1 fox.\n" * 40)
    words = [
        "--init-from",
        str(finished),
        "--data.corpus",
        str(tmp_path / "less.txt"),
        "--train.run",
        str(tmp_path / "new"),
    ]
    assert train.main(words) == 0
    new, old = (folder.read_best(path)["tokenizer"].to_dict() for path in (tmp_path / "new", finished))
    assert new == old
    (tmp_path / "more.txt").write_text("the Ω fox\n" * 99)
    assert "Ω" in said(
        capsys, "--init-from", finished, "--data.corpus", tmp_path / "more.txt", "--train.run", tmp_path / "none"
    )


def model_keys(section: str) -> list[str]:
    config = override(load_config("gpt-tiny"), {k: str(v) for k, v in SMALL.items()})
    return [f"{section}.{field.name}" for field in dataclasses.fields(getattr(config, section)) if field.name != "kind"]


BESIDE = [  # what a config must also have -> keys that have an effect only then
    ({"model.n_experts": "3"}, ROUTING),
    ({"model.rotary_scaling": "linear"}, SCALING),
    ({"model.window": "5"}, ("global_every", "local_base")),
]


def another_value(value: object) -> str:
    if isinstance(value, bool):
        return str(not value).lower()
    if isinstance(value, int | float):
        return str(value + 1) if value >= 1 else str(value + 0.5 if isinstance(value, float) else 2)
    return {"rotary": "learned", "layernorm": "rmsnorm", "pre": "post", "relu2": "relu", "scaled": "zero"}.get(
        value, "linear"
    )


@pytest.mark.parametrize("key", model_keys("model"))
def test_a_config_whose_model_differs_in_any_key_is_refused_by_its_name(key, finished):
    saved = folder.read_best(finished)
    value = another_value(getattr(saved["config"].model, key.split(".")[1]))
    same = {name: str(value) for name, value in SMALL.items() if name.split(".")[0] in start.TAKEN}
    start.config_from(finished, saved, "gpt-tiny", same)
    more = next((beside for beside, keys in BESIDE if key.removeprefix("model.") in keys), {})
    with pytest.raises(ValueError, match=rf"{key} = .*expected .*{key} = .*as the run of --init-from"):
        start.config_from(finished, saved, "gpt-tiny", same | more | {key: value})


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["--config", "rnn-tiny"], ["model.kind = rnn", "expected", "model.kind = decoder"]),
        (["--config", "encoder-tiny"], ["model.kind = encoder"]),
        (
            ["--config", "gpt-tiny"],
            ["model.d_model = 128", "model.d_model = 6", "tokenizer.kind = unigram", "tokenizer.kind = char"],
        ),
        (["--model.d_model", "8"], ["model.d_model = 8", "model.d_model = 6"]),
        (["--tokenizer.kind", "byte"], ["tokenizer.kind = byte", "tokenizer.kind = char"]),
        (["--model.kind", "rnn"], ["model.kind = rnn", "model.kind = decoder"]),
    ],
)
def test_another_model_than_that_of_the_run_is_refused_by_the_names_of_its_keys(words, names, finished, capsys):
    err = said(capsys, *words, "--init-from", finished)
    assert all(name in err for name in names) and f"--init-from {finished}" in err


def test_flags_that_say_what_the_run_is_are_no_contradiction(finished, tmp_path):
    words = ["--init-from", str(finished), "--model.d_model", "6", "--train.run", str(tmp_path / "new")]
    assert train.main(words) == 0


def test_the_config_made_for_the_encoder_says_the_model_and_tokenizer_of_that_encoder():
    for section in start.TAKEN:
        assert getattr(load_config("encoder-ending"), section) == getattr(load_config("encoder-tiny"), section)
    assert not {"[model]", "[tokenizer]"} & set((CONFIGS / "lora-tiny.toml").read_text().split())


def test_packed_weights_are_no_start_and_cannot_be_gone_on_with(finished, tmp_path, capsys):
    out = tmp_path / "packed"
    assert quantize.main([str(finished), "--weights", "bf16", "--out", str(out)]) == 0
    assert f"--init-from {out}: expected weights to train, found weights packed as bf16" in said(
        capsys, "--init-from", out
    )
    assert "expected" in said(capsys, "--resume", out)


def test_a_new_run_takes_the_config_of_another_as_it_was_or_edited(mine, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = (mine / "checkpoint" / "latest.pt").read_bytes()
    config = str(mine / "config.toml")
    for name in ("mine", "mine-2"):
        assert train.main(["--config", config]) == 0
        assert torch.equal(embedding(tmp_path / "runs" / name), embedding(mine)), "the same training"
    edit(mine, "max_steps = 6 ", "max_steps = 60 ")
    edit(mine, "max_steps = 60", "max_steps = 2")
    assert train.main(["--config", config, "--train.run", "elsewhere"]) == 0
    assert progress(tmp_path / "elsewhere")["step"] == 2
    monkeypatch.chdir(mine)
    assert train.main(["--config", "config.toml", "--train.run", str(tmp_path / "third")]) == 0
    assert (mine / "checkpoint" / "latest.pt").read_bytes() == before


def test_a_config_of_ones_own_still_says_where_its_run_goes(tmp_path, monkeypatch):
    (tmp_path / "my.txt").write_text(TEXT)
    config = override(
        load_config("gpt-tiny"), {k: str(v) for k, v in SMALL.items()} | {"data.corpus": str(tmp_path / "my.txt")}
    )
    (tmp_path / "config.toml").write_text(to_toml(override(config, {"train.run": str(tmp_path / "there")})))
    assert train.main(["--config", str(tmp_path / "config.toml")]) == 0
    assert progress(tmp_path / "there")["step"] == 6
    assert train.main(["--config", str(tmp_path / "config.toml")]) == 2


def embedding(path: Path) -> torch.Tensor:
    return checkpoint.load(path / "checkpoint" / "latest.pt")["step"]["model"]["embed.weight"]


def test_a_corpus_is_known_by_each_of_its_parts():
    def stream(*ids):
        array = torch.tensor(ids, dtype=torch.uint8).numpy()
        return TokenStream(array, array[:1], len(ids))

    a, b, c = stream(1, 2, 3), stream(4, 5), stream(6)
    datas = [
        *(
            Data(None, True, *parts)
            for parts in [(a, b, c), (b, a, c), (a, c, b), (a, b, None), (a, stream(4), stream(5, 6))]
        ),
        *(Data(None, True, Pairs(*pair), Pairs(b, c), None) for pair in [(a, b), (b, a)]),
    ]
    assert len({start.corpus_hash(data) for data in datas}) == len(datas)
    assert start.corpus_hash(datas[0]) == start.corpus_hash(Data(None, False, stream(1, 2, 3), b, c))


@given(max_steps=st.integers(1, 60), warmup=st.none() | st.integers(0, 60))
def test_a_run_made_shorter_by_a_flag_warms_up_throughout_unless_a_flag_says_how_long(max_steps, warmup):
    flags = {"train.max_steps": str(max_steps)} | ({} if warmup is None else {"schedule.warmup_steps": str(warmup)})
    if warmup is not None and warmup > max_steps:
        with pytest.raises(ValueError, match=r"schedule\.warmup_steps"):
            start.under(RunConfig(), flags)
        return
    asked = RunConfig().schedule.warmup_steps if warmup is None else warmup
    assert start.under(RunConfig(), flags).schedule.warmup_steps == min(asked, max_steps)
