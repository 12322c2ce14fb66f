"""The task of distillation: its three ways, what is stored, the thinned corpus, and settings that cannot work."""

from functools import cache

import pytest
import torch

from minillm.config.flags import override
from minillm.datasets.corpus import corpus_of
from minillm.models.decoder import Decoder, DecoderConfig
from minillm.models.rnn import RNN
from minillm.objectives.next_token import next_token
from minillm.runs import wiring
from minillm.runs.config import RunConfig
from minillm.tasks import teacher as of_teacher
from minillm.tasks.distill import Distill
from minillm.training.on_policy import OnPolicyStep
from tests.tiny import assert_equal

TEXTS = [f"the {a} has {n} {b}s." for a in ("cat", "dog", "bee") for b in ("hat", "egg", "nut") for n in range(2, 9)]
SMALL = {
    "task.kind": "distill",
    "model.n_layers": "1",
    "model.d_model": "12",
    "model.n_heads": "2",
    "model.context_length": "37",
    "tokenizer.kind": "char",
    "data.val_fraction": "0.2",
    "data.test_fraction": "0",
    "train.batch_size": "5",
    "train.max_steps": "4",
    "train.precision": "fp32",
    "schedule.warmup_steps": "0",
}


def config_of(**changes: object) -> RunConfig:
    return override(RunConfig(), SMALL | {name.replace("__", "."): str(value) for name, value in changes.items()})


@cache
def data_of(share: float = 1.0, texts: tuple[str, ...] = tuple(TEXTS)):
    tokenizer = data_of().tokenizer if share < 1 else None
    return wiring.build_data(config_of(task__share=share), tokenizer, lambda line: None, corpus_of(texts))


@cache
def teacher(context_length: int = 41) -> Decoder:
    """Two layers, other widths, weights far from zero."""
    torch.manual_seed(1)
    shape = DecoderConfig(n_layers=2, d_model=20, n_heads=2, context_length=context_length, init_std=0.4)
    return Decoder(shape, data_of().tokenizer.vocab_size).eval().requires_grad_(False)


def frozen() -> dict[str, Decoder]:
    return {"teacher": teacher()}


def same(a, b) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def trained(config: RunConfig, n_steps: int = 3, data=None) -> tuple[list[dict], torch.nn.Module]:
    data = data or data_of()
    model = wiring.build_model(config, data.tokenizer.vocab_size)
    step, batch = wiring.build_step(config, model, frozen()), wiring.build_batches(config, data, frozen())
    return [step(batch(i)) for i in range(n_steps)], model


WAYS = {
    "knowledge": {},
    "stored": {"task__stored": "true", "task__top_k": 3},
    "data": {"task__how": "data", "task__n_texts": 200},
    "on_policy": {"task__how": "on_policy", "task__prompt_tokens": 4},
}
each_way = pytest.mark.parametrize("way", WAYS)


@each_way
@pytest.mark.parametrize("model", ["decoder", "rnn"])
def test_each_way_trains_and_leaves_the_teacher_as_it_was(way, model):
    recurrent = {"model__kind": "rnn", "model__context_length": 37, "optim__kind": "adamw"}
    changes = recurrent if model == "rnn" else {}
    flags = {k: v for k, v in SMALL.items() if not (model == "rnn" and k.startswith("model."))}
    flags |= {k.replace("__", "."): str(v) for k, v in (WAYS[way] | changes).items()}
    config, before = override(RunConfig(), flags), [p.clone() for p in teacher().parameters()]
    logs, student = trained(config)
    assert all(log["tokens"] > 0 and log["grad_norm"] > 0 for log in logs)
    assert same(before, [*teacher().parameters()]) and all(p.grad is None for p in teacher().parameters())
    assert isinstance(student, RNN if model == "rnn" else Decoder)


@each_way
def test_a_batch_is_a_function_of_seed_and_step(way):
    def batch(seed: int, step: int):
        return wiring.build_batches(config_of(**WAYS[way], train__seed=seed), data_of(), frozen())(step)

    assert same(batch(0, 1), batch(0, 1))
    assert not same(batch(0, 1), batch(0, 2)) and not same(batch(0, 1), batch(1, 1))


@each_way
def test_validation_is_that_of_next_tokens_on_the_corpus(way):
    validation = wiring.build_validation(config_of(**WAYS[way]), data_of())
    expected = wiring.build_validation(override(config_of(), {"task.kind": "next_token"}), data_of())
    assert validation.objective is expected.objective is next_token
    assert all(same(a, b) for a, b in zip(validation.batches, expected.batches, strict=True))


def test_stored_and_live_distributions_give_the_same_updates_and_the_second_run_asks_no_teacher(monkeypatch):
    live, stored = (config_of(task__top_k=3, task__temperature=1.7, task__stored=word) for word in ("false", "true"))
    logs, model = trained(live)
    other_logs, other = trained(stored)
    for a, b in zip(logs, other_logs, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    monkeypatch.setattr(of_teacher, "accelerate", None)
    monkeypatch.setattr(Decoder, "forward", None)
    batch = wiring.build_batches(stored, data_of(), frozen())(2)
    assert batch.logprobs.shape == (5, 37, 4)
    with pytest.raises(TypeError):  # at another temperature, the table is another one
        wiring.build_batches(override(stored, {"task.temperature": "1.6"}), data_of(), frozen())


def test_a_damaged_table_is_computed_again(tmp_path, monkeypatch):
    monkeypatch.setattr(of_teacher, "cache_folder", lambda: tmp_path)
    config = config_of(**WAYS["stored"])
    first = wiring.build_batches(config, data_of(), frozen())(0)
    [path] = (tmp_path / "knowledge").iterdir()
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    assert same(first, wiring.build_batches(config, data_of(), frozen())(0))
    path.write_bytes(data[:-1])
    assert same(first, wiring.build_batches(config, data_of(), frozen())(0))


def test_a_table_that_would_fill_the_disk_is_refused(monkeypatch):
    monkeypatch.setattr(of_teacher, "MOST_BYTES", 1000)
    with pytest.raises(
        ValueError, match=r"^task\.stored = true: expected a table of at most .*; lower task\.top_k = 3"
    ):
        wiring.build_batches(config_of(**WAYS["stored"]), data_of(), frozen())


def test_texts_of_the_teacher_are_its_own_draws_written_once(tmp_path, monkeypatch):
    monkeypatch.setattr(of_teacher, "cache_folder", lambda: tmp_path)
    how = (teacher(), data_of().tokenizer, 70, 41, 5, False)
    stream, end = of_teacher.written_texts(*how), data_of().tokenizer.end_id
    ids = stream.ids.tolist()
    assert ids[0] == ids[-1] == end and 0 < len(stream.starts) <= 70
    with torch.no_grad():
        counts = torch.zeros(teacher().vocab_size).index_add_(0, torch.tensor(ids[1:]), torch.ones(len(ids) - 1))
        first = teacher()(torch.tensor([[end]]))[0][0, 0].softmax(-1)
    firsts = torch.tensor([ids[start + 1] for start in stream.starts])
    assert (first[firsts] > 0).all() and counts.sum() == len(ids) - 1
    monkeypatch.setattr(of_teacher, "generate", None)
    assert of_teacher.written_texts(*how).ids.tolist() == ids
    with pytest.raises(TypeError):  # other seeds and other numbers are other texts
        of_teacher.written_texts(*how[:4], 6, False)


def test_text_i_is_the_same_among_few_and_many():
    few, many = (of_teacher.written_texts(teacher(), data_of().tokenizer, n, 41, 5, True) for n in (66, 70))
    assert few.ids[:-1].tolist() == many.ids[: len(few.ids) - 1].tolist()


def test_a_teacher_whose_texts_never_end_is_refused():
    torch.manual_seed(1)
    endless = Decoder(
        DecoderConfig(n_layers=1, d_model=12, n_heads=2, context_length=5), data_of().tokenizer.vocab_size
    )
    with pytest.raises(
        ValueError, match=r"^task\.teacher: expected texts that end within 2 tokens, found none among 1;"
    ):
        of_teacher.written_texts(endless, data_of().tokenizer, 1, 2, 5, False)


def test_the_share_thins_the_training_part_alone_and_a_smaller_one_is_part_of_a_larger():
    parts = {share: data_of(share) for share in (0.1, 0.5, 1.0)}
    whole = len(parts[1.0].train.starts)
    texts = {}
    for share, data in parts.items():
        assert len(data.train.starts) == -(-whole * share // 1)
        assert data.val.ids.tolist() == parts[1.0].val.ids.tolist()
        pieces = data.tokenizer.decode(data.train.ids[1:-1].tolist()).split(".")
        texts[share] = set(pieces)
    assert texts[0.1] < texts[0.5] < texts[1.0]
    long = data_of(0.5, ("".join(TEXTS),))
    assert not long.documents and long.train.n_bytes == -(-data_of(1.0, ("".join(TEXTS),)).train.n_bytes // 2)


def test_every_key_changes_what_is_learned():
    base = {"task__top_k": 5, "task__divergence": "jensen_shannon"}
    _, usual = trained(config_of(**base))
    for key, value in {
        "task__temperature": 3.0,
        "task__top_k": 2,
        "task__beta": 0.9,
        "task__weight": 0.5,
        "task__order": "random",
    }.items():
        _, other = trained(config_of(**base | {key: value}))
        assert not same([*usual.parameters()], [*other.parameters()]), key
    usual = trained(config_of(**WAYS["on_policy"]))[1]
    for key, value in {"task__prompt_tokens": 9, "task__written_share": 0.2, "task__divergence": "forward"}.items():
        _, other = trained(config_of(**WAYS["on_policy"] | {key: value}))
        assert not same([*usual.parameters()], [*other.parameters()]), key


def test_on_policy_matches_in_reverse_by_itself_and_the_others_forward():
    for way, divergence in {"knowledge": "forward", "on_policy": "reverse"}.items():
        objective = wiring.build_objective(config_of(**WAYS[way]), frozen())
        assert objective.keywords["matching"].divergence == divergence
    step = wiring.build_step(config_of(**WAYS["on_policy"]), wiring.build_model(config_of(), 29), frozen())
    assert type(step) is OnPolicyStep


def test_a_step_in_bfloat16_reads_the_teacher_in_bfloat16_and_changes_none_of_it():
    config = config_of(train__precision="bf16", train__fast="false")
    objective = wiring.build_objective(config, frozen())
    assert next(objective.keywords["teacher"].parameters()).dtype == torch.bfloat16
    assert next(teacher().parameters()).dtype == torch.float32


def test_fast_and_plain_steps_agree():
    (fast, one), (plain, other) = (trained(config_of(train__fast=word)) for word in ("true", "false"))
    assert [log["loss"] for log in fast] == pytest.approx([log["loss"] for log in plain], rel=1e-4)
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


REFUSED = [
    ({"task__temperature": 0}, r"task\.temperature = 0\.0: expected float > 0"),
    ({"task__share": 0}, r"task\.share = 0\.0: expected float > 0"),
    ({"task__beta": 1}, r"task\.beta = 1: expected .* vanishes there; set task\.divergence = reverse"),
    ({"task__beta": 0}, r"task\.beta = 0: .*set task\.divergence = forward"),
    ({"task__beta": 0.3}, r"task\.beta = 0\.3: expected 0\.5, its default, since only task\.divergence"),
    ({"task__stored": "true"}, r"task\.stored = true: expected task\.top_k > 0"),
    ({"task__divergence": "reversed"}, r"task\.divergence = 'reversed': .*did you mean reverse\?"),
    ({"task__how": "data", "task__weight": 0.5}, r"task\.weight = 0\.5: expected 1\.0, its default, since task\.how"),
    ({"task__how": "on_policy", "task__n_texts": 3}, r"task\.n_texts = 3: expected 0, its default"),
    ({"task__how": "on_policy", "train__compile": "true"}, r"train\.compile = true: .*differ in length"),
]


@pytest.mark.parametrize(("changes", "sentence"), REFUSED)
def test_settings_without_a_meaning_are_refused(changes, sentence):
    with pytest.raises(ValueError, match=sentence) as e:
        config_of(**changes)
    assert "\n" not in str(e.value)


def test_settings_that_do_not_fit_tokenizer_or_corpus_are_refused_before_any_work():
    data, n = data_of(), data_of().tokenizer.vocab_size
    config = config_of(task__top_k=1000)
    with pytest.raises(ValueError, match=rf"^task\.top_k = 1000: expected at most {n}, since the"):
        wiring.build_data(config, data.tokenizer, corpus=corpus_of(TEXTS))
    config = config_of(task__top_k=n, task__stored="true")
    with pytest.raises(ValueError, match=rf"^task\.top_k = {n}: expected at most {n - 1}, .*, and a stored table"):
        wiring.build_data(config, data.tokenizer, corpus=corpus_of(TEXTS))
    for changes in (WAYS["stored"], WAYS["data"]):
        with pytest.raises(ValueError, match=r"^task\.(how = data|stored = true): expected many documents, found one"):
            wiring.build_data(config_of(**changes), data.tokenizer, corpus=corpus_of(["".join(TEXTS)]))
    config = config_of(task__how="on_policy", task__prompt_tokens=37)
    with pytest.raises(ValueError, match=r"^task\.prompt_tokens = 37: expected less than model\.context_length = 37"):
        wiring.build_step(config, wiring.build_model(config, 29), frozen())


def test_all_tokens_in_the_top_are_the_whole_distribution():
    n_ids = data_of().tokenizer.vocab_size
    batch = wiring.build_batches(config_of(), data_of(), frozen())(0)
    student = wiring.build_model(config_of(), n_ids)
    losses = [wiring.build_objective(config_of(task__top_k=k), frozen())(student, batch).total for k in (0, n_ids)]
    assert_equal(*losses)


def test_passes_over_the_texts_of_the_teacher():
    n = len(data_of().train.starts)
    usual, fewer = (config_of(task__how="data", task__n_texts=k).task for k in (0, n // 2))
    settings = config_of()
    passes = [task.extent(settings, data_of()).passes for task in (usual, fewer)]
    assert passes[1] == pytest.approx(passes[0] * n / (n // 2))
    assert Distill().companions()["teacher"].run == ""
