"""Conversations: answers are those of a fresh generation, whatever was edited; the context holds whole turns."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm.datasets.batch import Batch
from minillm.decoding.sampler import SamplingConfig
from minillm.models.decoder import Decoder
from minillm.models.ngram import Ngram, NgramConfig
from minillm.models.rnn import RNN, RNNConfig
from minillm.text.conversation import Conversation
from minillm.text.kept_state import KeptState
from minillm.text.model import TextModel
from minillm.tokenizers.byte import ByteTokenizer
from tests import tiny

BYTES = ByteTokenizer()
N_NEW = 7
PRINTABLE = SamplingConfig(banned_tokens=tuple(i for i in range(257) if not 32 <= i < 127))


class Marked:
    """END, the first letter of the role, the content."""

    def render(self, messages, answer=True):
        if any(message["content"] == "refused" for message in messages):
            raise ValueError("a template refuses this")
        ids = [i for m in messages for i in (BYTES.end_id, *BYTES.encode(m["role"][0] + m["content"]))]
        return [*ids, BYTES.end_id, ord("a")] if answer else ids


def decoder(**changes):
    torch.manual_seed(0)
    return Decoder(tiny.config(n_kv_heads=2, context_length=96, **changes), BYTES.vocab_size).double().eval()


def lstm():
    torch.manual_seed(1)
    return RNN(RNNConfig(cell="lstm", n_layers=2, d_hidden=11, init_embed=1.5), BYTES.vocab_size).double().eval()


def table():
    model = Ngram(NgramConfig(order=3), BYTES.vocab_size).double()
    text = torch.randint(257, (4, 99), generator=torch.Generator().manual_seed(3))
    model.count(Batch(text[:, :-1], text[:, 1:]))
    return model


MODELS = {"decoder": decoder(), "window": decoder(window=5), "lstm": lstm(), "n-gram": table()}


def text_of(name):
    text = TextModel(MODELS[name], BYTES, documents=True)
    text.template = Marked()
    return text


def fresh(text, ids, sampling, seed, n_new=N_NEW):
    [found] = text.generate([ids], sampling, max_new_tokens=n_new, seeds=[seed])
    return found.text, found.reason


steps = st.one_of(
    st.tuples(st.just("ask"), st.text("aé🙂 ", max_size=4)),
    st.tuples(st.sampled_from(["undo", "retry", "refused"]), st.just("")),
    st.tuples(st.just("system"), st.sampled_from(["", "s", "st"])),
)


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=9)
@given(taken=st.lists(steps, max_size=8), draws=st.booleans())
def test_an_answer_is_that_of_a_fresh_generation_after_any_edits(name, taken, draws):
    # any bytes may be drawn, so that the ids of an answer are often not those of its text
    sampling, conversation = SamplingConfig() if draws else PRINTABLE, Conversation(text_of(name))
    for seed, (step, said) in enumerate(taken):
        shown, before = [], list(conversation.turns)
        how = {"max_new_tokens": N_NEW, "seed": seed, "show": shown.append}
        if step == "system":
            conversation.system = said
        elif step == "refused" or (step in ("undo", "retry") and not before):
            with pytest.raises(ValueError, match=r"refuses|no turn"):
                conversation.ask("refused", sampling, **how) if step == "refused" else conversation.undo()
            assert conversation.turns == before
        elif step == "undo":
            assert conversation.undo() == before[-1] and conversation.turns == before[:-1]
        else:
            retry = step == "retry"
            answer = conversation.retry(sampling, **how) if retry else conversation.ask(said, sampling, **how)
            asked = conversation.turns.pop()
            kept = (before[:-1] if retry else before)[answer.n_left_out :]
            assert conversation.turns == (before[:-1] if retry else before)
            messages = conversation.messages(asked.question, answer.n_left_out)
            ids = conversation.text.converse(messages)
            assert len(messages) == 2 * len(kept) + 1 + bool(conversation.system)
            assert (answer.text, answer.reason) == fresh(conversation.text, ids, sampling, seed)
            assert answer.text == asked.answer == "".join(shown)
            assert answer.work.n_read + answer.work.n_reused == len(ids) and answer.work.n_read
            conversation.turns.append(asked)


@pytest.mark.parametrize("name", MODELS)
def test_a_turn_reads_only_what_is_new(name):
    conversation = Conversation(text_of(name))
    how = {"max_new_tokens": N_NEW, "seed": 0}
    first = conversation.ask("hello", PRINTABLE, **how).work
    assert (first.n_reused, first.n_read) == (0, len(".uhello.a"))
    second = conversation.ask("and", PRINTABLE, **how).work
    # the last token of the answer was drawn but not read
    assert second.n_reused == first.n_read + N_NEW - 1 and second.n_read == 1 + len(".uand.a")
    if name == "decoder":
        conversation.undo()
        third = conversation.ask("another", PRINTABLE, **how).work
        assert third.n_reused == second.n_reused + 1 + len(".uan")
        assert conversation.retry(PRINTABLE, **how).work.n_read == 1


def test_the_oldest_turns_leave_a_full_context_as_a_whole_and_the_system_message_stays():
    conversation = Conversation(text_of("decoder"), system="be brief")
    left_out = []
    for i in range(7):
        how = {"max_new_tokens": N_NEW, "seed": i}
        answer = conversation.ask("what is it, then?", PRINTABLE, **how)
        left_out.append(answer.n_left_out)
        ids = conversation.text.converse(conversation.messages("what is it, then?", answer.n_left_out)[:-2])
        assert len(ids) + N_NEW <= 96 and ids[1:10] == list(b"sbe brief")
    assert left_out[0] == 0 and left_out == sorted(left_out) and left_out[-1] == 4, left_out
    more = conversation.text.converse(conversation.messages(n_left_out=left_out[-1] - 1)[:-1])
    assert len(more) + N_NEW > 96, "no turn is left out that would fit"
    assert len(conversation.turns) == 7, "what is left out is not forgotten"


def test_a_question_that_no_context_holds_is_refused_and_one_that_barely_fits_is_answered():
    conversation = Conversation(text_of("decoder"))
    conversation.ask("hi", PRINTABLE, max_new_tokens=N_NEW, seed=0)
    with pytest.raises(ValueError, match=r"99 characters: expected fewer, .* 103 tokens and the context 96"):
        conversation.ask("a" * 99, PRINTABLE, max_new_tokens=N_NEW, seed=0)
    assert len(conversation.turns) == 1
    answer = conversation.ask("a" * 90, PRINTABLE, max_new_tokens=N_NEW, seed=0)
    assert answer.n_left_out == 1 and answer.reason == "context" and answer.work.n_written == 2


def test_an_answer_can_be_stopped_and_the_conversation_goes_on():
    conversation, shown = Conversation(text_of("decoder")), []
    how = {"max_new_tokens": N_NEW, "seed": 0, "show": shown.append, "stopped": lambda: len(shown) >= 3}
    answer = conversation.ask("hi", PRINTABLE, **how)
    assert answer.text == "".join(shown) and len(answer.text) == 3 and answer.work.n_written == 3
    ids = conversation.text.converse(conversation.messages("go on"))
    again = conversation.ask("go on", PRINTABLE, max_new_tokens=N_NEW, seed=1)
    assert (again.text, again.reason) == fresh(conversation.text, ids, PRINTABLE, 1) and again.work.n_reused > 5


def test_an_interrupted_state_is_not_used_again():
    kept = KeptState(text_of("decoder"))

    def interrupt(piece):
        raise KeyboardInterrupt

    kept.generate([1, 2, 3], PRINTABLE, max_new_tokens=4, seed=0)
    with pytest.raises(KeyboardInterrupt):
        kept.generate([1, 2, 3, 4], PRINTABLE, max_new_tokens=4, seed=0, show=interrupt)
    found, work = kept.generate([1, 2, 3], PRINTABLE, max_new_tokens=4, seed=0)
    assert work.n_reused == 0 and found.text == fresh(kept.text, [1, 2, 3], PRINTABLE, 0, 4)[0]
