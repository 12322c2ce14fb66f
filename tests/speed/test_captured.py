"""Recorded decoding steps give the same tokens without synchronization, and as a CUDA graph where there is one."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from minillm.cache.paged import PagedCache
from minillm.constants import EMPTY
from minillm.decoding.generate import generate
from minillm.decoding.sampler import Sampler, SamplingConfig, build_pipeline, seeded
from minillm.speed.accelerate import accelerate, accelerate_writing
from minillm.speed.captured import Captured
from tests.tiny import SHAPES, assert_equal, decoder, tokens

WITHOUT_EXPERTS = {name: shape for name, shape in SHAPES.items() if "n_experts" not in shape}
every_shape = pytest.mark.parametrize("shape", WITHOUT_EXPERTS.values(), ids=WITHOUT_EXPERTS)
PROMPTS = [[1, 2, 3, 4, 5], [6], [7, 8, 9] * 7, [3]]
SAMPLED = Sampler(build_pipeline(SamplingConfig(top_p=0.9)))


def written(model, prompts=PROMPTS, sampler=SAMPLED, **how):
    return generate(model, prompts, sampler, max_new_tokens=20, generators=seeded(range(len(prompts))), end_id=0, **how)


@every_shape
def test_it_writes_what_the_model_writes_while_rows_come_to_their_ends(shape):
    model = decoder(**shape)
    mine, expected = written(Captured(model)), written(model)
    assert [c.tokens for c in mine] == [c.tokens for c in expected] and [c.reason for c in mine] == [
        c.reason for c in expected
    ]
    assert len({len(c.tokens) for c in mine}) > 1, "rows leave one after the other"


@every_shape
def test_a_step_reads_one_token_of_each_row_or_none(shape):
    model, text = decoder(**shape), tokens(3, 12)
    text[0, :3], text[1, 8], text[2, 9:11] = EMPTY, EMPTY, EMPTY
    one = Captured(model)
    mine, theirs = one.start(3), model.start(3)
    logits, expected = one(text[:, :7], mine)[0], model(text[:, :7], theirs)[0]
    assert mine.step is None
    for t in range(7, 12):
        logits, expected = one(text[:, t : t + 1], mine)[0], model(text[:, t : t + 1], theirs)[0]
        assert_equal(logits[text[:, t] >= 0], expected[text[:, t] >= 0])
        assert mine.lengths.tolist() == theirs.lengths.tolist()
    first = mine.step
    for state in (mine, theirs):
        state.truncate(torch.tensor([4, 6, 5]))
        state.reorder(torch.tensor([1, 0, 0]))
    assert_equal(one(text[:, 11:], mine)[0], model(text[:, 11:], theirs)[0])
    assert mine.step is first, "the memory has not moved"
    for state in (mine, theirs):
        state.reorder(torch.tensor([2, 1]))
    assert_equal(one(text[1:, 11:], mine)[0], model(text[1:, 11:], theirs)[0])
    assert mine.step is not first
    mine.step = first
    for state in (mine, theirs):
        state.reorder(torch.tensor([1, 0, 1]))
    assert_equal(one(text[:, 11:], mine)[0], model(text[:, 11:], theirs)[0])
    assert mine.step is not first, "as many rows as then, but in other memory"


class Questions(TorchDispatchMode):
    """Records operations that make the host wait for the device."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func._schema.name.removeprefix("aten::") in (
            "_local_scalar_dense",
            "item",
            "is_nonzero",
            "nonzero",
            "equal",
            "masked_select",
        ):
            self.asked.append(func)
        return func(*args, **(kwargs or {}))


@every_shape
@torch.inference_mode()
def test_the_step_asks_the_device_for_nothing_and_may_be_repeated(shape):
    model = Captured(decoder(**shape))
    state = model.start(2)
    model(tokens(2, 5), state)
    model(tokens(2, 1), state)
    before = [cache.k.clone() for cache in state.caches]
    with Questions() as questions:
        again = state.step.compute()
    assert questions.asked == []
    assert_equal(again, state.step.compute())
    assert all(torch.equal(cache.k, k) for cache, k in zip(state.caches, before, strict=True))
    with Questions() as questions:
        model.model(tokens(2, 1))
    assert questions.asked, "the step of every day does ask"


def test_it_is_left_out_where_there_is_nothing_to_gain():
    model = decoder()
    assert accelerate_writing(model) is accelerate(model)
    one = Captured(model)
    paged = written(one, start=lambda n: one.start(n, cache=PagedCache))
    assert [c.tokens for c in paged] == [c.tokens for c in written(model)], "in another cache it is read as ever"


def test_weights_that_have_moved_are_recorded_anew():
    model, text = decoder(), tokens(2, 5)
    one = Captured(accelerate(model))
    state = one.start(2)
    with torch.inference_mode():
        one(text, state)
        one(text[:, :1], state)
        first = state.step
        one(text[:, 1:2], state)
        assert state.step is first
        for parameter in model.parameters():
            parameter.data = 2 * parameter.data
        one(text[:, 2:3], state)
        assert state.step is not first


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.cuda
@every_shape
def test_on_cuda_a_graph_is_replayed_and_writes_what_the_processor_writes(shape):
    model = decoder(**shape)
    expected = written(model)
    one = accelerate_writing(model.cuda())
    assert isinstance(one, Captured)
    mine = written(one)
    assert [c.tokens for c in mine] == [c.tokens for c in expected]
    state = one.start(1)
    with torch.inference_mode():
        for text in (tokens(1, 4).cuda(), tokens(1, 1).cuda()):
            one(text, state)
    assert state.step.replay != state.step.compute


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.cuda
def test_on_cuda_a_model_with_a_hook_is_not_captured():
    model, seen = decoder().cuda(), []
    model.blocks[1].norm_2.register_forward_hook(lambda *_: seen.append(True))
    assert not isinstance(accelerate_writing(model), Captured)
    written(accelerate_writing(model))
    assert len(seen) > 10
