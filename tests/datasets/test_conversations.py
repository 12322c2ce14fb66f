"""Conversations as batches: what is counted, truncation, padding, and the forms of files."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minillm.constants import IGNORE
from minillm.datasets.buckets import BucketedBatches, Buckets, each_row_once
from minillm.datasets.conversation_files import read_conversations
from minillm.datasets.conversations import (
    Conversations,
    cut_to,
    everything_learned,
)
from minillm.datasets.corpus import DataConfig
from minillm.datasets.examples import load_examples
from minillm.runs.config import load_config
from minillm.tokenizers.byte import ByteTokenizer
from minillm.tokenizers.role_template import Rendering, RoleTemplate, with_roles

renderings = st.lists(
    st.lists(st.tuples(st.integers(1, 90), st.booleans()), min_size=2, max_size=11).map(
        lambda row: Rendering([token for token, _ in row], [False, *(learned for _, learned in row[1:])])
    ),
    min_size=1,
    max_size=13,
)


@given(rows=renderings, batch_size=st.integers(1, 5))
def test_the_loss_is_at_every_learned_token_predicted_from_all_before_it(rows, batch_size):
    conversations = Conversations(rows, n_bytes=7, end_id=0)
    batches = each_row_once(conversations, batch_size)
    found = sorted(
        (tuple(tokens[: i + 1].tolist()), int(target))
        for batch in batches
        for tokens, targets in zip(*batch, strict=True)
        for i, target in enumerate(targets)
        if target != IGNORE
    )
    wanted = [
        (tuple(row.tokens[:i]), row.tokens[i]) for row in rows for i in range(1, len(row.tokens)) if row.learned[i]
    ]
    assert found == sorted(wanted)


@given(rows=renderings, length=st.integers(1, 12))
def test_truncation_keeps_the_counted_set_of_what_is_left(rows, length):
    kept, cuts = cut_to(rows, length)
    left = [(row.tokens[: length + 1], row.learned[: length + 1]) for row in rows]
    assert [tuple(row) for row in kept] == [row for row in left if any(row[1])]
    assert cuts.n_dropped == len(rows) - len(kept)
    assert cuts.n_cut == sum(len(row.tokens) > length + 1 for row in rows)


def test_every_conversation_comes_once_an_epoch_in_another_order_with_little_padding():
    draw = np.random.default_rng(0)
    rows = [Rendering([i + 1] * n, [False] + [True] * (n - 1)) for i, n in enumerate(draw.integers(20, 400, 1700))]
    conversations = Conversations(rows, 0, 0)
    batches = BucketedBatches(conversations, Buckets(conversations.lengths(), batch_size=16, seed=3))
    epochs, n_padding, n_all = [], 0, 0
    for epoch in range(2):
        seen = [batches.batch(epoch * 107 + step) for step in range(107)]
        epochs.append([int(row[0]) for batch in seen for row in batch.tokens])
        n_all += sum(batch.tokens.numel() for batch in seen)
        n_padding += sum(int((batch.tokens == 0).sum()) for batch in seen)
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(1, 1701)) and epochs[0] != epochs[1]
    assert n_padding / n_all < 0.1
    again = BucketedBatches(conversations, Buckets(conversations.lengths(), batch_size=16, seed=3))
    assert torch.equal(again.batch(150).tokens, batches.batch(150).tokens)


def test_questions_are_learned_too_if_asked_for():
    assert everything_learned(Rendering([5, 6, 7], [False, False, True])).learned == [False, True, True]


SAID = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
FORMS = {
    "common": {"messages": SAID},
    "sharegpt": {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello."}]},
    "alpaca": {"instruction": "Hi", "input": "", "output": "Hello."},
}


@pytest.mark.parametrize("record", FORMS.values(), ids=FORMS)
def test_the_three_forms_of_files_say_the_same(tmp_path, record):
    path = tmp_path / "some.jsonl"
    path.write_text(json.dumps(record) + "\n\n", encoding="utf-8")
    assert read_conversations(path) == [SAID]
    path.write_text(json.dumps(record | {"system": "Be kind."}), encoding="utf-8")
    if "messages" not in record:
        assert read_conversations(path) == [[{"role": "system", "content": "Be kind."}, *SAID]]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "expected a JSON object"),
        ("[]", "record = .*expected"),
        ('{"text": "a"}', "record = .*expected"),
        ('{"messages": []}', "expected a list of at least one"),
        ('{"messages": [{"role": "user", "content": "a"}]}', "expected at least one of the assistant"),
        ('{"messages": [{"role": "bot", "content": "a"}]}', "role = 'bot'"),
        ('{"conversations": 5}', r"conversations\[0\] = 5: expected"),
        ('{"conversations": [{"from": "bot", "value": "a"}]}', "from = 'bot': expected"),
        ('{"instruction": "a", "output": 5}', "output = 5: expected text"),
        ('{"instruction": "a", "output": ""}', r"messages\[1\].content = ''"),
    ],
)
def test_a_line_that_is_no_conversation_is_refused_with_its_number(tmp_path, line, said):
    path = tmp_path / "some.jsonl"
    path.write_text(json.dumps({"messages": SAID}) + "\n" + line, encoding="utf-8")
    with pytest.raises(ValueError, match=f"line 2: .*{said}"):
        read_conversations(path)


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "some.jsonl").write_text("\n \n", encoding="utf-8")
    with pytest.raises(ValueError, match="expected conversations, found no line"):
        read_conversations(tmp_path / "some.jsonl")


@pytest.mark.parametrize("name", ["chat-tiny", "reason-tiny", "safe-tiny"])
def test_at_most_a_tenth_of_the_batches_of_a_config_is_padding(name):
    config = load_config(name)
    tokenizer = with_roles(ByteTokenizer())
    template = RoleTemplate(tokenizer)
    examples = load_examples(DataConfig(config.data.corpus, n_exercises=400, val_fraction=0.01)).train
    lengths = Conversations([template.rendering(each.messages) for each in examples], 0, 0).lengths()
    batches = Buckets(lengths, config.train.batch_size, seed=0)
    rows = [batches.rows(step) for step in range(batches.steps_per_epoch)]
    room = sum(len(each) * int(lengths[each].max()) for each in rows)
    assert 1 - lengths.sum() / room < 0.1
