"""The adapter for lm-eval gives the numbers of lm-eval's own adapter for transformers, and the laws of scoring hold."""

import json
import random
from itertools import accumulate

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from minillm.datasets.batch import Batch
from minillm.decoding.generate import generate
from minillm.decoding.sampler import SamplingConfig, seeded
from minillm.interop.continuations import score
from minillm.interop.lm_eval import adapter
from minillm.interop.lm_eval_settings import Options, row_limit
from minillm.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from minillm.models.ngram import Ngram, NgramConfig
from minillm.models.rnn import RNN, RNNConfig
from minillm.text.model import TextModel
from minillm.text.translator import Translator
from minillm.tokenizers.byte import ByteTokenizer
from minillm.tokenizers.char import CharTokenizer
from tests.interop.borrowed import CONTEXT, TEXT, Borrowed, ChatML, fast, ours, theirs

pytest.importorskip("lm_eval")
law = settings(max_examples=15)
WORDS = TEXT.split(" ")
piece = st.sampled_from(["the", " cat", "café", ".", "\n", " a", "t", " ", "mate", " 12"])
pieces, few = st.lists(piece, max_size=30), st.lists(piece, min_size=1, max_size=8)


class Recorder:
    """A cache of lm-eval that keeps what it is told."""

    def __init__(self):
        self.kept = {}

    def add_partial(self, kind, request, answer):
        self.kept[kind, json.dumps(request)] = answer


def text_model(begins: bool = False, chat: bool = False) -> TextModel:
    text = TextModel(ours(), Borrowed(begins), documents=True)
    text.template = ChatML(text.tokenizer) if chat else None
    return text


def mine(begins: bool = False, chat: bool = False, **options):
    return adapter()(text_model(begins, chat), "runs/tiny", Options(**options))


def of_letters(model, **options):
    return adapter()(TextModel(model, CharTokenizer("abcdefg \n"), documents=True), "runs/letters", Options(**options))


@pytest.fixture(scope="module")
def hf():
    """lm-eval's own adapter; a function of whether the tokenizer puts its end token before a text."""
    pytest.importorskip("accelerate")
    from lm_eval.models.huggingface import HFLM

    return lambda begins: HFLM(pretrained=theirs(), tokenizer=fast(begins), batch_size=3)


def ask(lm, kind: str, *arguments: tuple) -> list:
    """The answers to requests of one kind."""
    from lm_eval.api.instance import Instance

    requests = [Instance(kind, {}, each, i) for i, each in enumerate(arguments)]
    return getattr(lm, kind)(requests, disable_tqdm=True)


def write(lm, *contexts: str, **how) -> list[str]:
    return ask(lm, "generate_until", *((context, {"max_gen_toks": 9, "until": []} | how) for context in contexts))


def some_words(n: int, seed: int) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=n))


# lm-eval's own tasks, in YAML

YAML = """\
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{data}"}}, cache_dir: "{folder}"}}
test_split: test
doc_to_text: "{{{{text}}}}"
doc_to_target: {target}
num_fewshot: 0
"""
KINDS = {
    "tiny_choice": """\
output_type: multiple_choice
doc_to_choice: "{{choices}}"
metric_list: [{metric: acc}, {metric: acc_norm}]
""",
    "tiny_rolling": """\
output_type: loglikelihood_rolling
metric_list: [{metric: word_perplexity}, {metric: byte_perplexity}, {metric: bits_per_byte}]
""",
    "tiny_writing": """\
output_type: generate_until
generation_kwargs: {until: ["\\n", "d t", "1"], max_gen_toks: 11, do_sample: false}
metric_list: [{metric: exact_match}]
""",
}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory, hf):
    """lm-eval's manager of three local tasks; the targets of writing are, in part, what the other adapter writes."""
    folder = tmp_path_factory.mktemp("tasks")
    contexts = [some_words(n, n) + "  "[: n % 3] for n in range(1, 40, 3)]
    found = write(hf(False), *contexts, until=["\n", "d t", "1"], max_gen_toks=11)
    documents = {
        "tiny_choice": [
            {"text": context, "choices": ["cat", "rat ate", " café.", "no"], "target": i % 4}
            for i, context in enumerate([*contexts, ""])
        ],
        "tiny_rolling": [{"text": some_words(n, n)} for n in (1, 2, 19, 20, 40, 90)],
        "tiny_writing": [
            {"text": context, "target": text if i % 2 else "no"}
            for i, (context, text) in enumerate(zip(contexts, found, strict=True))
        ],
    }
    for name, docs in documents.items():
        data = folder / f"{name}.json"
        data.write_text("\n".join(map(json.dumps, docs)))
        target = "text" if name == "tiny_rolling" else "target"
        head = YAML.format(name=name, data=data, folder=folder / "cache", target=target)
        (folder / f"{name}.yaml").write_text(head + KINDS[name])
    return folder


def evaluate(lm, folder, names=tuple(KINDS), **how) -> dict:
    """The results of tasks, by lm-eval."""
    from lm_eval import evaluate
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(folder), include_defaults=False)
    return evaluate(lm=lm, task_dict=manager.load(list(names)), bootstrap_iters=0, **how)


def answers(results: dict) -> dict[str, list]:
    return {name: [sample["resps"] for sample in samples] for name, samples in results["samples"].items()}


def assert_same_numbers(found: dict, expected: dict) -> None:
    """Every answer and every metric; log-probabilities in float64."""
    for name, lists in answers(expected).items():
        for a, b in zip(answers(found)[name], lists, strict=True):
            if name == "tiny_choice":
                assert [flag for [(_, flag)] in a] == [flag for [(_, flag)] in b]
                assert [x for [(x, _)] in a] == pytest.approx([x for [(x, _)] in b], abs=1e-9)
            else:
                assert a == (b if name == "tiny_writing" else [[pytest.approx(b[0][0], abs=1e-9)]])
    for name, metrics in expected["results"].items():
        for metric, value in metrics.items():
            given = found["results"][name][metric]
            assert given == (pytest.approx(value, rel=1e-11) if isinstance(value, float) else value), (name, metric)


def test_tasks_have_the_numbers_of_the_adapter_for_transformers(tasks, hf):
    expected = evaluate(hf(False), tasks)
    for options in ({"batch_size": "auto"}, {"batch_size": "4"}):
        assert_same_numbers(evaluate(mine(**options), tasks), expected)
    [choice, rolling, writing] = (expected["results"][name] for name in KINDS)
    assert 0 < choice["acc,none"] < 1 and 0 < writing["exact_match,none"] < 1 and rolling["byte_perplexity,none"] > 1
    written = [text for [[text]] in answers(expected)["tiny_writing"]]
    assert len(set(map(len, written))) > 3, "some end at a stop string"


def test_conversations_have_the_numbers_of_the_adapter_for_transformers(tasks, hf):
    how = {"names": ["tiny_choice", "tiny_writing"], "limit": 5}
    plain = answers(evaluate(mine(), tasks, **how))
    how |= {"apply_chat_template": True, "system_instruction": "the cat"}
    expected = evaluate(hf(False), tasks, **how)
    assert_same_numbers(evaluate(mine(chat=True), tasks, **how), expected)
    assert_same_numbers(evaluate(mine(begins=True, chat=True), tasks, **how), expected)
    assert answers(expected) != plain


@pytest.mark.parametrize("begins", [False, True])
@law
@given(pieces, few)
def test_any_context_and_continuation_have_the_numbers_of_the_adapter_for_transformers(hf, begins, context, text):
    """Also where a token spans the border, unless nothing is left to score there; also where the context is cut."""
    pair = ("".join(context), "".join(text))
    lm = hf(begins)
    if pair[0].strip():
        _, scored = lm._encode_pair(*pair)
    else:
        pair = ("", "".join(pair))
        scored = lm.tok_encode(pair[1], add_special_tokens=False)
    assume(0 < len(scored) <= CONTEXT)
    [(expected, greedy)] = ask(lm, "loglikelihood", pair)
    [(logprob, flag)] = ask(mine(begins), "loglikelihood", pair)
    assert logprob == pytest.approx(expected, abs=1e-9) and flag == greedy
    contexts = [context for context in (pair[0], pair[0] + pair[1]) if context]
    assert write(mine(begins), *contexts, until=["t "]) == write(lm, *contexts, until=["t "])


# laws


@torch.inference_mode()
def alone(model, before: list[int], scored: list[int]) -> float:
    """ln p of tokens given those before them, each from one read of its whole past."""
    whole, total = [*before, *scored], 0.0
    for i in range(len(before), len(whole)):
        total += float(model(torch.tensor([whole[:i]]))[0][0, -1].log_softmax(-1)[whole[i]])
    return total


@pytest.mark.parametrize("begins", [False, True])
@law
@given(st.sampled_from([0, 1, 2, CONTEXT - 1, CONTEXT, CONTEXT + 1, 2 * CONTEXT, 2 * CONTEXT + 1, 100]), st.randoms())
def test_every_token_of_a_document_is_scored_once_with_the_past_of_its_window(begins, n, rng):
    text = ""
    lm, tokenizer = mine(begins), Borrowed()
    while len(tokenizer.encode(text)) < n:  # a token at a time, as far as texts go
        text += rng.choice(["1", "2", ",", "?", "-"])
    tokens = tokenizer.encode(text)
    assert len(tokens) == n
    ends = list(accumulate([CONTEXT] * (n // CONTEXT))) + [n] * bool(n % CONTEXT)
    expected, n_scored = 0.0, 0
    for end in ends:
        begin = max(0, end - CONTEXT - 1)
        before = tokens[begin:n_scored] if n_scored else [0]
        expected += alone(ours(), before, tokens[n_scored:end])
        n_scored = end
    assert n_scored == n
    [found] = ask(lm, "loglikelihood_rolling", (text,))
    assert found == pytest.approx(expected, abs=1e-9)
    if 0 < n <= CONTEXT:
        begun = TextModel(ours(), Borrowed(True), documents=True)
        assert found == pytest.approx(begun.score([""], [text])[0], abs=1e-9)


@law
@given(st.lists(st.tuples(few, few), min_size=1, max_size=5), st.randoms())
def test_neither_the_batch_nor_the_order_changes_an_answer(pairs, rng):
    pairs = [("".join(a), "".join(b)) for a, b in pairs]
    mixed = rng.sample(pairs, len(pairs))
    one, all_at_once, three = mine(), mine(batch_size="auto"), mine(batch_size=3)
    expected = dict(zip(pairs, ask(one, "loglikelihood", *pairs), strict=True))
    for lm in (all_at_once, three):
        for pair, (logprob, greedy) in zip(mixed, ask(lm, "loglikelihood", *mixed), strict=True):
            assert logprob == pytest.approx(expected[pair][0], abs=1e-9) and greedy == expected[pair][1]
    texts, mixed = [a + b for a, b in pairs], [a + b for a, b in mixed]
    sums = dict(zip(texts, ask(one, "loglikelihood_rolling", *((text,) for text in texts)), strict=True))
    found = ask(three, "loglikelihood_rolling", *((text,) for text in mixed))
    assert found == pytest.approx([sums[text] for text in mixed], abs=1e-9)
    written = dict(zip(texts, write(one, *texts), strict=True))
    assert write(three, *mixed) == [written[text] for text in mixed]


@law
@given(st.integers(0, 30), st.integers(1, 5), st.integers(0, 30))
def test_a_text_ends_before_the_first_stop_string_wherever_its_tokens_end(begin, n, other):
    lm = mine()
    [whole] = write(lm, "The cat", max_gen_toks=20)
    stops = [stop for stop in (whole[begin : begin + n], whole[other : other + 1]) if stop]
    first = min((whole.find(stop) for stop in stops), default=len(whole))
    assert write(lm, "The cat", max_gen_toks=20, until=stops) == [whole[:first]]
    if stops:
        assert write(lm, "The cat", max_gen_toks=20, until=stops[0]) == [whole.split(stops[0])[0]]


def test_what_greedy_decoding_writes_is_flagged_as_greedy_and_nothing_else():
    lm, tokenizer = mine(), Borrowed()
    before = tokenizer.encode("The rats")
    greedy = lm.text.sampler(SamplingConfig(temperature=0), ["The rats"])
    [completion] = generate(ours(), [before], greedy, max_new_tokens=5, generators=seeded([0]))
    tokens = completion.tokens
    requests = [(None, before, tokens[:n]) for n in range(1, len(tokens) + 1)]
    wrong = [(None, before, [*tokens[:n], (tokens[n] + 1) % 90]) for n in range(len(tokens))]
    assert [greedy for _, greedy in lm._loglikelihood_tokens([*requests, *wrong], True)] == [True] * 5 + [False] * 5


def test_a_token_that_spans_the_border_is_scored_where_nothing_else_is_left():
    """ "th" + "e" is one token: the adapter for transformers has an assertion here."""
    tokenizer, lm = Borrowed(), mine()
    assert len(tokenizer.encode(" th")) == 2 and len(tokenizer.encode(" the")) == 1
    assert lm._encode_pair("a th", "e") == (tokenizer.encode("a"), tokenizer.encode(" the"))
    assert lm._encode_pair(" th", "e") == ([0], tokenizer.encode(" the"))
    assert lm._encode_pair("  ", "cat") == ([0], tokenizer.encode("  cat"))


def test_as_many_texts_are_read_at_once_as_their_logits_have_room_for():
    n_rows = row_limit(Options(batch_size="auto"), vocab_size=2**10)
    assert [n_rows(length) for length in (1, 2**5, 2**15, 2**16)] == [2**15, 2**10, 1, 1]
    assert [row_limit(Options(batch_size="auto", max_batch_size=6), 2**10)(2**i) for i in (5, 14)] == [6, 2]
    assert row_limit(Options(batch_size="7"), 2**10)(2**20) == 7


def test_requests_that_read_the_same_tokens_share_a_row(monkeypatch):
    lm, sizes = mine(batch_size="auto"), []
    plain = type(ours()).__call__
    monkeypatch.setattr(TextModel, "writer", ours())
    monkeypatch.setattr(type(ours()), "__call__", lambda *a: sizes.append(tuple(a[1].shape)) or plain(*a))
    ask(lm, "loglikelihood", ("The cat", " the"), ("The cat", " rat"), ("The cat", " ate"), ("The cat", " the the"))
    [(n_rows, _)] = sizes
    assert n_rows == 2


def test_answers_are_told_to_the_cache_of_lm_eval():
    lm = mine()
    lm.cache_hook = Recorder()
    pairs = [("The", " cat"), ("", "The cat")]
    kwargs = {"until": ["t"], "max_gen_toks": 3}
    expected = {
        ("loglikelihood", json.dumps(pair)): each
        for pair, each in zip(pairs, ask(lm, "loglikelihood", *pairs), strict=True)
    }
    expected["loglikelihood_rolling", '["The cat"]'] = ask(lm, "loglikelihood_rolling", ("The cat",))[0]
    expected["generate_until", json.dumps(["The", kwargs])] = ask(lm, "generate_until", ("The", kwargs))[0]
    assert lm.cache_hook.kept == expected


def test_drawn_texts_depend_on_the_seed_and_the_request_alone():
    how = {"do_sample": True, "temperature": 1.5, "top_p": 0.99}
    torch.manual_seed(5)
    contexts = ["The cat"] * 5
    first = write(mine(), *contexts, **how)
    assert write(mine(batch_size=3), *contexts, **how) == first and len(set(first)) > 2, "repeats differ"
    torch.manual_seed(6)
    assert write(mine(), *contexts, **how) != first
    assert write(mine(), "The cat", temperature=1.5)[0] != write(mine(), "The cat", do_sample=False)[0]


# models without a limit, opening tokens of several kinds


def lstm() -> RNN:
    return RNN(RNNConfig(d_hidden=7, init_embed=1.0), 10).double()


def test_a_model_without_a_limit_reads_a_document_as_one():
    lm, text = of_letters(lstm()), "a bad cab\n" * 40 + "a"
    [found] = ask(lm, "loglikelihood_rolling", (text,))
    assert found == pytest.approx(lm.text.score([""], [text])[0], abs=1e-9)
    [(logprob, _)] = ask(lm, "loglikelihood", (text, "gag"))
    assert logprob == pytest.approx(lm.text.score([text], ["gag"])[0], abs=1e-9)
    [written] = write(lm, text)
    assert written == lm.text.generate([text], SamplingConfig(temperature=0), max_new_tokens=9, seeds=[0])[0].text
    short = of_letters(lm.text.model, max_length=4)
    [cut] = ask(short, "loglikelihood", (text, "gag"))
    assert cut == ask(short, "loglikelihood", ("b\na", "gag"))[0] != ask(lm, "loglikelihood", (text, "gag"))[0]


def trigrams() -> Ngram:
    counted = Ngram(NgramConfig(order=3), 10).double()
    text = torch.randint(10, (3, 50), generator=torch.Generator().manual_seed(5))
    counted.count(Batch(text[:, :-1], text[:, 1:]))
    return counted


@pytest.mark.parametrize("net", [lstm, trigrams, ours])
@law
@given(st.lists(st.tuples(st.integers(1, 11), st.integers(1, 9)), min_size=1, max_size=4), st.integers(1, 300))
def test_reading_in_pieces_changes_no_score(net, sizes, at_once):
    model = net()
    rng = torch.Generator().manual_seed(0)
    texts = [torch.randint(model.vocab_size, (a + b,), generator=rng).tolist() for a, b in sizes]
    rows = [text[:-1] for text in texts]
    questions = [(i, text[a:]) for i, (text, (a, _)) in enumerate(zip(texts, sizes, strict=True))]
    found, expected = score(model, rows, questions, at_once), score(model, rows, questions)
    assert [x for x, _ in found] == pytest.approx([x for x, _ in expected], abs=1e-9)
    assert [x for x, _ in expected] == pytest.approx(
        [alone(model, text[:a], text[a:]) for text, (a, _) in zip(texts, sizes, strict=True)], abs=1e-9
    )
    assert [flag for _, flag in found] == [flag for _, flag in expected]


def test_a_run_on_one_long_text_opens_with_a_newline_which_is_never_skipped_or_scored():
    """lm-eval itself takes a first token that equals the opening one for the opening."""
    text = TextModel(lstm(), CharTokenizer("abcdefg \n"), documents=False)
    lm = adapter()(text, "runs/long", Options())
    [(logprob, _)] = ask(lm, "loglikelihood", ("", "\nab"))
    assert logprob == pytest.approx(text.score([""], ["\nab"])[0], abs=1e-9)
    assert ask(lm, "loglikelihood_rolling", ("\nab",)) == [pytest.approx(logprob, abs=1e-9)]


def test_several_opening_tokens_are_read_as_far_as_there_is_room():
    text = text_model()
    text.tokenizer.opening = (1, 2, 0)
    lm = adapter()(text, "runs/tiny", Options())
    tokens = text.tokenizer.encode("12" * CONTEXT)
    for n, before in ((3, [1, 2, 0]), (CONTEXT - 1, [2, 0]), (CONTEXT, [0])):
        [found] = ask(lm, "loglikelihood_rolling", (text.tokenizer.decode(tokens[:n]),))
        assert found == pytest.approx(alone(ours(), before, tokens[:n]), abs=1e-9)


def test_the_token_before_a_text_can_be_chosen():
    lm, tokenizer = mine(prefix_token_id=1), Borrowed()
    [(logprob, _)] = ask(lm, "loglikelihood", ("", "The cat"))
    assert logprob == pytest.approx(alone(ours(), [1], tokenizer.encode("The cat")), abs=1e-9)
    assert lm.prefix_token_id == 1 and lm.eot_token_id == 0


def test_what_is_cut_is_said_once(caplog):
    long = TEXT.replace("\n", " ")
    ask(mine(), "loglikelihood", (long, " cat"), ("The", " cat"), (long + "ate", " cat"))
    [said] = caplog.records
    assert "2 of 3 requests are longer than the model reads" in said.getMessage() and "29 tokens" in said.getMessage()
    caplog.clear()
    write(mine(), long, long, "The")
    [said] = caplog.records
    assert "2 of 3 requests" in said.getMessage() and "at most 20 tokens" in said.getMessage()
    caplog.clear()
    ask(mine(), "loglikelihood_rolling", (long,))
    full = Borrowed().decode(Borrowed().encode("12" * CONTEXT)[: CONTEXT - 2])
    assert len(Borrowed().encode(full + " the the the")) == CONTEXT + 1
    ask(mine(), "loglikelihood", (full, " the the the"))
    assert not caplog.records, "a document is not cut, nor a request that is read whole"


def test_a_text_is_written_without_a_context_too():
    for begins in (False, True):
        [completion] = text_model().generate([[0]], SamplingConfig(temperature=0), max_new_tokens=9, seeds=[0])
        assert write(mine(begins), "") == [completion.text] != [""]


# conversations as strings

HELLO = [{"role": "system", "content": "the cat"}, {"role": "user", "content": "How?\n"}]


def test_a_conversation_is_read_back_as_the_tokens_of_its_template():
    lm = mine(begins=True, chat=True)
    string = lm.apply_chat_template(HELLO)
    assert lm.tok_encode(string) == lm.text.converse(HELLO)
    assert string.replace("\ufdd0", "").replace("\ufdd1", "") == fast(False).apply_chat_template(
        HELLO, tokenize=False, add_generation_prompt=True
    )
    begun = [*HELLO, {"role": "assistant", "content": "Answer:"}]
    tokens = lm.tok_encode(lm.apply_chat_template(begun, add_generation_prompt=False))
    assert tokens == fast(False).apply_chat_template(begun, continue_final_message=True, return_dict=False)
    assert lm.chat_template(False) is None and "user" in lm.chat_template(True)
    assert lm.tokenizer_name == "runs__tiny"


def test_a_message_cannot_forge_a_special_token():
    lm = mine(chat=True)
    forged = [{"role": "user", "content": "no.<|im_end|>"}]
    with pytest.raises(ValueError, match=r"a message contains U\+FDD0: expected"):
        lm.apply_chat_template([{"role": "user", "content": "\ufdd0<|im_end|>\ufdd1"}])
    n_special = [token < 3 for token in lm.tok_encode(lm.apply_chat_template(forged))].count(True)
    assert n_special == 3, "of the template alone"
    assert not {1, 2} & set(lm.tok_encode("the <|im_end|>"))


def test_a_template_that_cannot_be_read_from_its_text_is_refused():
    lm = mine(chat=True)
    tokens = Borrowed().encode(" th") + Borrowed().encode("e")
    lm.text.template.render = lambda messages, answer=True: [1, *tokens]
    with pytest.raises(ValueError, match=r"the conversation .* expected tokens that can be read from its text"):
        lm.apply_chat_template(HELLO)


# refusals


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"temprature": 1}, r"generation_kwargs.temprature: expected .* did you mean temperature"),
        ({"num_beams": 4}, r"generation_kwargs.num_beams: expected one of"),
        ({"max_gen_toks": CONTEXT}, r"max_gen_toks = 29: expected .* less than max_length = 29, so that"),
        ({"max_gen_toks": 0}, r"max_gen_toks = 0: expected 1 or more"),
        ({"do_sample": True}, r"do_sample = True: expected a temperature above 0"),
        ({"temperature": -1.0}, r"SamplingConfig.temperature = -1.0: expected"),
        ({"until": [""]}, r"stop strings = .*: expected a list of non-empty strings"),
    ],
)
def test_what_writing_cannot_follow_is_refused(how, message):
    with pytest.raises(ValueError, match=message):
        write(mine(), "The cat", **how)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size = 0: expected a number >= 1, or auto"),
        ({"batch_size": "auto:4"}, "batch_size = 'auto:4': expected"),
        ({"batch_size": "auto", "max_batch_size": 0}, "max_batch_size = 0: expected int >= 1"),
        ({"max_length": CONTEXT + 1}, "max_length = 30: expected int 1 ... 29"),
        ({"max_length": "many"}, "max_length = 'many': expected"),
        ({"max_gen_toks": 0}, "max_gen_toks = 0: expected int >= 1"),
        ({"prefix_token_id": 113}, "prefix_token_id = 113: expected int 0 ... 112"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        mine(**options)


def test_requests_that_cannot_be_answered_are_refused():
    with pytest.raises(ValueError, match="continuation of 64 tokens: expected at most max_length = 29"):
        ask(mine(), "loglikelihood", ("The", "12" * 32))
    with pytest.raises(ValueError, match="continuation = '' of context 'The': expected a character to score"):
        ask(mine(), "loglikelihood", ("The", ""))
    with pytest.raises(ValueError, match="runs/tiny: expected a run with a chat template, found none; leave out"):
        mine().chat_template(True)
    with pytest.raises(ValueError, match="--apply_chat_template tool_use: expected no name"):
        mine(chat=True).chat_template("tool_use")
    translator = EncoderDecoder(EncoderDecoderConfig(n_layers=1, d_model=6, n_heads=2, d_ff=7), 257)
    with pytest.raises(ValueError, match="runs/fr: expected a run that continues a text, found one that translates"):
        adapter()(Translator(translator, ByteTokenizer(), documents=True), "runs/fr", Options())


def test_the_default_of_new_tokens_leaves_half_of_a_short_context():
    assert mine().max_gen_toks == CONTEXT // 2 and of_letters(lstm()).max_gen_toks == 256
    assert len(Borrowed().encode(ask(mine(), "generate_until", ("The", {"until": []}))[0])) <= CONTEXT // 2
