"""Every kind of adapter by the scripts: trained, saved without its base, opened again, merged or refused."""

import pytest
import torch

import sample
import train
from minillm import quantize
from minillm.runs import folder
from minillm.training import checkpoint
from tests.adapters.test_lora_runs import WORDS, logits
from tests.test_cli import flags

KINDS = {
    "lora": ["rank=2", "rows=3,5"],
    "qlora": ["rank=2", "group=16"],
    "dora": ["rank=2"],
    "bottleneck": ["width=3"],
    "prefix": ["length=5"],
    "soft_prompt": ["length=5", "text=One day"],
    "ia3": [],
    "bitfit": [],
}
MERGED = ("lora", "qlora", "dora", "ia3")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("base") / "gpt"
    assert train.main(["--config", "gpt-tiny", *flags(train__run=path, train__max_steps=2)]) == 0
    return path


@pytest.fixture(scope="module")
def runs(base, tmp_path_factory):
    """A trained adapter of each kind."""
    at = tmp_path_factory.mktemp("adapters")
    for kind, keys in KINDS.items():
        words = ["--config", "lora-tiny", "--init-from", str(base), *WORDS, "--adapter.kind", kind]
        words += [f"--adapter.{key}" for key in keys]
        assert train.main([*words, "--train.max_steps", "2", "--train.run", str(at / kind)]) == 0
    return at


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_of_every_kind_is_small_names_its_base_and_writes(kind, runs, base, capsys):
    path = runs / kind
    saved = checkpoint.load(path / "checkpoint" / "best.pt")
    assert saved["base"]["path"] == str(base.resolve())
    assert not {"embed.weight", "embed.base.weight", "base.embed.weight"} & saved["step"]["model"].keys()
    assert f'kind = "{kind}"' in (path / "config.toml").read_text()
    assert torch.equal(logits(path), logits(path, base)) and not torch.equal(logits(path), logits(base))
    assert sample.main(["--adapter", str(path), "--seed", "3", "--prompt", "One day"]) == 0
    assert "(step " in capsys.readouterr().out
    if kind in ("qlora", "soft_prompt"):
        assert train.main(["--resume", str(path), "--train.max_steps", "3"]) == 0


def test_virtual_tokens_leave_the_rest_of_the_context_to_the_text(runs, base):
    whole = folder.open_run(base)
    for kind in ("prefix", "soft_prompt"):
        opened = folder.open_run(runs / kind)
        assert opened.config.model == whole.config.model
        assert opened.text.model.context_length == whole.config.model.context_length - 5
        assert opened.config.of_text.model.context_length == whole.config.model.context_length - 5


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_is_merged_and_packed_or_refused_with_the_reason(kind, runs, tmp_path, capsys):
    words = [str(runs / kind), "--weights", "nf4", "--group", "16", "--out", str(tmp_path / "packed")]
    status = quantize.main(words)
    told = capsys.readouterr()
    if kind in MERGED:
        assert status == 0 and ("again changes them by" in told.out) == (kind == "qlora")
        assert 'kind = "none"' in (tmp_path / "packed" / "config.toml").read_text()
    else:
        assert status == 2 and told.err.count("\n") == 1 and "beside its base" in told.err


BAD = {
    "a prompt as long as the context": (
        ["soft_prompt", "--adapter.length", "99"],
        "adapter.length = 99: expected less",
    ),
    "a prefix as long as the context": (["prefix", "--adapter.length", "99"], "adapter.length = 99: expected less"),
    "a width that no group divides": (["qlora"], "adapter.group = 64: expected an even number that divides"),
    "another kind's key": (["ia3", "--adapter.rank", "3"], "--adapter.rank: unknown key of adapter.kind = ia3"),
}


@pytest.mark.parametrize(("words", "sentence"), BAD.values(), ids=BAD)
def test_a_wrong_adapter_is_one_sentence_before_any_work(words, sentence, base, tmp_path, capsys):
    start = ["--config", "lora-tiny", "--init-from", str(base), *WORDS, "--train.run", str(tmp_path / "run")]
    assert train.main([*start, "--adapter.kind", *words]) == 2
    err = capsys.readouterr().err
    assert sentence in err and err.count("\n") == 1
    assert not (tmp_path / "run" / "checkpoint").exists()
