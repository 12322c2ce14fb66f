"""The page: its routes give what the library computes directly; and a real browser, driven as a person would."""

import json
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from threading import Thread

import pytest
import torch

from minillm.decoding.attention_map import attentions, self_attention
from minillm.decoding.draft_length import Tally
from minillm.decoding.drafts import PromptLookup
from minillm.decoding.explain import ExplainingSampler
from minillm.decoding.generate import generate
from minillm.decoding.sampler import Sampler, SamplingConfig, build_pipeline, seeded
from minillm.decoding.speculative import speculate
from minillm.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from minillm.serve import build_worker
from minillm.serving.errors import ApiError
from minillm.serving.inspection import MOST_DRAFTED, N_DRAFT, N_SIDE, with_own_modules
from minillm.serving.limits import Limits
from minillm.serving.page_api import MOST_OPEN, PageApi
from minillm.serving.single_worker import SingleWorker
from minillm.serving.worker import Drawn, Load, News, TextOrder, Ticket
from minillm.text.translator import Translator
from tests.serving.running import BYTES, NAME, alone, events, running, toy
from tests.serving.test_workers import rnn

pytest.importorskip("uvicorn")
SETTINGS = {"temperature": 0.8, "top_k": 9, "repetition_penalty": 1.3}
SAMPLING = SamplingConfig(**SETTINGS)
PROMPT = [256, *b"abcabc"]


@pytest.fixture(scope="module")
def server():
    with running(toy(256), sampling=SamplingConfig(top_p=0.9), n_pages=256) as server:
        yield server


def asked(server, path, body=None):
    status, _, data = server.ask(f"/page/{path}", body)
    assert status == 200, data
    return json.loads(data)


def streamed(server, path, body):
    """The objects of a stream; its last event is the end."""
    status, _, data = server.ask(f"/page/{path}", body)
    assert status == 200, data
    *found, end = events(data)
    assert end == "[DONE]"
    return [json.loads(each) for each in found]


def wrote(server, **body):
    """The opening, the text, the tokens and the finish_reason of a text that the page asks for."""
    choices = [chunk["choices"][0] for chunk in streamed(server, "write", body)]
    tokens = [token for choice in choices for token in choice.get("tokens", [])]
    return choices[0], "".join(choice.get("text", "") for choice in choices), tokens, choices[-1]["finish_reason"]


def test_the_page_learns_what_the_run_can_do(server):
    about = asked(server, "about")
    assert (about["name"], about["writes"], about["chat"], about["inspects"], about["drafts"]) == (NAME, *[True] * 4)
    assert about["sampling"]["top_p"] == 0.9 and about["context"] == 256
    assert (about["layers"], about["heads"]) == (2, 6)
    assert about["bytes_per_token"] == 2 * 2 * 6 * 4 * 8  # layers, keys and values, heads, d_head, bytes
    assert asked(server, "pipeline", {"temperature": 0.7})["pipeline"] == "temperature 0.7 -> top-p 0.9 -> draw"
    assert asked(server, "pipeline", {"temperature": 0.7, "top_p": 1})["pipeline"] == "temperature 0.7 -> draw"


def test_a_text_comes_with_its_ids_and_can_begin_with_given_ones(server):
    how = SETTINGS | {"top_p": 1, "seed": 3, "max_tokens": 20}
    opening, text, tokens, finish = wrote(server, prompt="abcabc", **how)
    expected, reason, _ = alone(toy(256), TextOrder("abcabc", 20, SAMPLING, 3))
    assert (text, finish) == (expected, "stop" if reason == "end" else "length") and opening["prompt"] == PROMPT
    assert [token["begin"] for token in tokens] == [*range(len(text))] and len(text) > 5
    assert BYTES.decode([token["id"] for token in tokens]) == text
    _, text, _, _ = wrote(server, prompt="abcabc", answer=[*b"xy"], **how)
    assert text == alone(toy(256), TextOrder("abcabcxy", 20, SAMPLING, 3))[0]


def test_a_conversation_is_written_by_the_template_and_loses_its_oldest_turns(server):
    turns = [["hi", "yes"], ["why", ""]]
    opening, *_ = wrote(server, turns=turns, system="be", max_tokens=3)
    assert opening["prompt"] == [*b"sbe", 256, *b"uhi", 256, *b"ayes", 256, *b"uwhy", 256, *b"a"]
    assert opening["n_left_out"] == 0
    opening, *_ = wrote(server, turns=[["x" * 200, "yes"], *turns], max_tokens=64)
    assert opening["n_left_out"] == 1 and bytes(opening["prompt"][:3]) == b"uhi"


@pytest.mark.parametrize("n_given", [0, 2])
def test_an_xray_is_the_explanation_of_the_draw(server, n_given):
    given, model = [*b"xy"][:n_given], toy(256).model
    sampler = ExplainingSampler(build_pipeline(SAMPLING))
    ids = [*PROMPT, *given]
    [found] = generate(model, [ids], sampler, max_new_tokens=6, generators=seeded([7]))
    for i, (choice, token) in enumerate(zip(sampler.choices, found.tokens, strict=True)):
        body = SETTINGS | {
            "top_p": 1,
            "prompt": PROMPT,
            "answer": given + found.tokens[:i],
            "n_given": n_given,
            "seed": 7,
        }
        xray = asked(server, "xray", body)
        assert xray["drawn"] == token and xray["uniform"] == choice.uniform
        rows = {row["id"]: row["p"] for row in xray["candidates"]}
        assert token in rows
        for number, (stage, shown) in enumerate(zip(choice.stages, xray["stages"], strict=True)):
            assert (stage.step, stage.n_possible) == (shown["step"], shown["left"])
            assert (stage.removed, stage.entropy) == pytest.approx((shown["removed"], shown["entropy"]), abs=1e-9)
            if number in (0, len(choice.stages) - 1):
                assert all(rows[best][number] == pytest.approx(p, abs=1e-9) for best, p in stage.best)
    assert asked(server, "xray", body | {"taken": 10})["candidates"] != xray["candidates"]
    assert asked(server, "xray", body | {"temperature": 0})["uniform"] is None


def test_the_candidates_are_the_most_probable_first_and_forbidden_ones_have_no_probability(server):
    rows = asked(server, "xray", {"prompt": PROMPT, "top_k": 3, "top_p": 1})["candidates"]
    assert [row["p"][1] > 0 for row in rows[:4]] == [True] * 3 + [False] and len(rows) <= 17
    assert all(a["p"][1] >= b["p"][1] for a, b in pairwise(rows[:4]))
    assert {"id", "text", "piece", "special", "p"} == rows[0].keys()


@pytest.mark.parametrize(("layer", "head"), [(1, 0), (2, 6)])
@pytest.mark.parametrize("n", [5, 100])
def test_an_attention_map_is_the_models_of_the_last_tokens(server, layer, head, n):
    ids = [256, *(b"the quick brown fox " * 9)][:n]
    found = asked(server, "attention", {"tokens": ids, "layer": layer, "head": head})
    weights = self_attention(toy(256).model, torch.tensor([ids]))[layer - 1, 0]
    weights, begin = weights[head - 1] if head else weights.mean(0), max(0, n - N_SIDE)
    assert found["begin"] == begin and len(found["tokens"]) == min(n, N_SIDE)
    shown = torch.tensor(found["weights"], dtype=torch.float64)
    torch.testing.assert_close(shown, weights[begin:, begin:], atol=1e-4, rtol=0)
    earlier = torch.tensor(found["earlier"], dtype=torch.float64)
    torch.testing.assert_close(earlier, weights[begin:, :begin].sum(1), atol=1e-4, rtol=0)


@pytest.mark.parametrize("how", [{"temperature": 0}, {"temperature": 0.3}])
def test_drafts_are_those_of_speculative_decoding(server, how):
    calls = streamed(server, "drafts", how | {"top_p": 1, "prompt": PROMPT, "seed": 5, "max_tokens": 60})
    tally, model = Tally(), toy(256).model
    [expected] = speculate(
        model,
        [PROMPT],
        Sampler(build_pipeline(SamplingConfig(**how))),
        drafter=PromptLookup(model.vocab_size),
        max_new_tokens=60,
        generators=seeded([5]),
        end_id=256,
        n_draft=N_DRAFT,
        tallies=[tally],
    )
    assert [token["id"] for call in calls for token in call["accepted"] + call["drawn"]] == expected.tokens
    assert sum(len(call["accepted"]) for call in calls) == tally.n_accepted > 0
    assert sum(len(call["accepted"] + call["rejected"]) for call in calls) == tally.n_drafted
    assert calls[-1]["reason"] == expected.reason and len(calls) == tally.n_calls


X = {"prompt": PROMPT}
BAD = [
    ("xray", {}, "prompt: expected this field"),
    ("xray", {"prompt": "abc"}, "expected an array of token ids"),
    ("xray", {"prompt": [1, -1]}, "expected an array of token ids, each in 0 ... 256"),
    ("xray", {"prompt": [True]}, "expected an array of token ids"),
    ("xray", {"prompt": [257]}, "expected an array of token ids"),
    ("xray", {"prompt": []}, "text of 0 tokens: expected 1 to 256"),
    ("xray", {"prompt": PROMPT * 40}, "text of 280 tokens: expected 1 to 256"),
    ("xray", X | {"n_given": 1}, "n_given = 1"),
    ("xray", X | {"taken": 257}, "taken = 257"),
    ("xray", X | {"seed": -1}, "seed = -1"),
    ("xray", X | {"temperatur": 1}, "did you mean temperature?"),
    ("xray", X | {"repetition_penalty": 0}, "repetition_penalty = 0"),
    ("attention", {"layer": 1}, "tokens: expected this field"),
    ("attention", {"tokens": PROMPT, "layer": 3}, "attention layer = 3: expected at most 2"),
    ("attention", {"tokens": PROMPT, "layer": 0}, "layer = 0"),
    ("attention", {"tokens": PROMPT, "head": 7}, "attention head = 7: expected at most 6"),
    ("attention", {"tokens": PROMPT, "heads": 1}, "did you mean head?"),
    ("attention", {"tokens": []}, "text of 0 tokens"),
    ("drafts", X | {"max_tokens": MOST_DRAFTED + 1}, "max_tokens = 257"),
    ("drafts", {"prompt": []}, "text of 0 tokens"),
    ("drafts", X | {"n_given": 0}, "n_given: unknown field"),
    ("pipeline", {"top_k": 1.5}, "top_k = 1.5"),
    ("write", {"turns": []}, "expected an array of 1 to 1000 pairs"),
    ("write", {"turns": [["a"]]}, "expected an array of 1 to 1000 pairs"),
    ("write", {"turns": [["x" * 300, ""]]}, "shorten one of the two"),
    ("write", {"prompt": "a", "answer": ["b"]}, "expected an array of token ids"),
    ("write", {"prompt": "a", "max_tokens": 257}, "max_tokens = 257"),
    ("write", {"prompt": "x" * 256}, "expected at most 256"),
]


@pytest.mark.parametrize(("path", "body", "words"), BAD)
def test_a_bad_body_is_refused_with_a_sentence(server, path, body, words):
    status, error = server.error(f"/page/{path}", body)
    assert status == 400 and words in error["message"], error


def test_settings_under_which_no_token_can_be_drawn_are_a_sentence_here_too(server):
    how = {"repetition_penalty": 5e-324, "prompt": [*range(32, 90)]}
    assert "every token is banned" in server.error("/page/xray", how)[1]["message"]
    [found] = streamed(server, "drafts", how)
    assert "every token is banned" in found["error"]["message"]


def test_inspections_change_nothing_of_what_is_written_meanwhile():
    order = TextOrder("abc", 90, SAMPLING, 5)
    body = SETTINGS | {"prompt": "abc", "seed": 5, "max_tokens": 90}
    with running(toy()) as server, ThreadPoolExecutor(4) as pool:
        texts = [pool.submit(wrote, server, **body) for _ in range(3)]
        while not all(text.done() for text in texts):
            asked(server, "attention", {"tokens": PROMPT, "layer": 1})
            asked(server, "xray", {"prompt": PROMPT})
        assert {text.result()[1] for text in texts} == {alone(toy(), order)[0]}


def test_the_inspectors_modules_are_its_own_and_the_weights_are_shared():
    model = toy().model
    own = with_own_modules(model)
    assert not set(own.modules()) & set(model.modules()) and len(attentions(own)) == 2
    pointers = [{x.data_ptr() for x in [*each.parameters(), *each.buffers()]} for each in (model, own)]
    assert pointers[0] == pointers[1]


def test_only_a_few_inspections_may_wait():
    api = PageApi(NAME, None, type("R", (), {"text": toy()})(), None, Limits())
    with ExitStack() as stack:
        for _ in range(MOST_OPEN):
            stack.enter_context(api.open())
        with pytest.raises(ApiError) as refused:
            api.open().__enter__()
        assert refused.value.status == 429
    with api.open():
        assert api.n_open == 1
    api.close()


def test_a_recurrent_run_has_no_attention_but_the_rest():
    text = rnn()
    with running(text, worker=SingleWorker(text)) as server:
        about = asked(server, "about")
        assert (about["chat"], about["layers"], about["drafts"], about["bytes_per_token"]) == (False, 0, True, 0)
        _, _, tokens, _ = wrote(server, prompt="ab", seed=2, max_tokens=9)
        ids = [token["id"] for token in tokens]
        body = {"prompt": text.encode("ab"), "answer": ids[:4], "seed": 2}
        assert asked(server, "xray", body)["drawn"] == ids[4]
        assert "this one has none" in server.error("/page/attention", {"tokens": PROMPT})[1]["message"]
        assert streamed(server, "drafts", {"prompt": PROMPT, "max_tokens": 5})


def test_a_translator_is_not_inspected_and_a_run_that_does_not_write_says_so():
    shape = EncoderDecoderConfig(n_layers=1, d_model=12, n_heads=3, d_ff=10, context_length=30)
    text = Translator(EncoderDecoder(shape, BYTES.vocab_size).double().eval(), BYTES, documents=True)
    with running(text, worker=build_worker(text, Limits())) as server:
        about = asked(server, "about")
        assert not about["inspects"] and not about["layers"] and not about["drafts"] and not about["bytes_per_token"]
        assert wrote(server, prompt="ab c", seed=3, max_tokens=7)[1]
        for path in ("xray", "attention", "drafts"):
            assert "without an encoder" in server.error(f"/page/{path}", X)[1]["message"]
        assert "an encoder reads text" in server.error("/page/write", {"prompt": "a", "answer": [1]})[1]["message"]
    with running() as server:
        assert asked(server, "about") == {"name": NAME, "writes": False}
        assert server.ask("/")[0] == 200 and server.error("/page/write", {"prompt": "a"})[0] == 404


# ---- in a browser

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium"
HOSTILE = '<img src=x onerror="document.title=1"><b>é</b> & 😀\n<script>alert(1)</script>'


class Reciting:
    """A `Worker` that writes a fixed text, a few bytes at a time."""

    load, alive = Load(0, 0), True

    def __init__(self, text: str, seconds: float):
        self.text, self.seconds = text, seconds

    def submit(self, order, tell):
        ticket = Ticket(order, tell)
        Thread(target=self._write, args=[ticket], daemon=True).start()
        return ticket

    def _write(self, ticket):
        n = 0
        for n, character in enumerate(self.text, 1):
            tokens = [Drawn(n - 1, byte, -1.0, ()) for byte in character.encode()]
            if not ticket.ended:
                ticket.tell(News(character, tuple(tokens), None, n, time.perf_counter()))
            time.sleep(self.seconds)
        if not ticket.ended:
            ticket.tell(News(reason="end", n_drawn=n, first_at=time.perf_counter()))

    def cancel(self, ticket):
        ticket.ended = True

    def close(self):
        self.alive = False


@pytest.fixture(scope="module")
def chromium():
    api = pytest.importorskip("playwright.sync_api")
    if not Path(CHROMIUM).is_file():
        pytest.skip("no chromium here")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def opened(chromium, server, errors=(), **how):
    """The page, ready to write; nothing may be logged as an error, as a violation of the policy would be."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900}, **how)
    page, found = context.new_page(), []
    page.set_default_timeout(20_000)
    page.on("console", lambda message: message.type == "error" and found.append(message.text))
    page.on("pageerror", lambda error: found.append(str(error)))
    page.goto(f"http://127.0.0.1:{server.port}/")
    try:
        yield page
        assert [text for text in found if not any(each in text for each in errors)] == []
    finally:
        context.close()


def write(page, text):
    """Send a text by the keyboard, and wait for the end of the answer."""
    page.get_by_role("textbox", name="Message", exact=True).fill(text)
    page.keyboard.press("Enter")
    return finished(page)


def finished(page):
    """The last answer, when it has been written."""
    page.locator(".entry:last-child .answer[aria-busy=false]").wait_for(state="attached")
    return page.locator(".entry:last-child .answer")


browser = pytest.mark.browser


@browser
def test_a_chat_streams_stops_edits_and_regenerates(chromium):
    with running(toy(256), worker=Reciting("abcdefghij" * 30, 0.02)) as server, opened(chromium, server) as page:
        draft = page.get_by_role("textbox", name="Message", exact=True)
        draft.fill("hello")
        draft.press("Shift+Enter")
        draft.press("x")
        began = time.monotonic()
        draft.press("Enter")
        page.locator(".token").first.wait_for()
        assert time.monotonic() - began < 1, "the first token is on the screen within a second"
        assert page.locator(".question").inner_text() == "hello\nx" and draft.input_value() == ""
        assert page.locator(".answer").get_attribute("aria-busy") == "true"
        assert "KV cache" in page.locator(".entry .note").first.inner_text()
        page.get_by_role("button", name="Stop").click()
        assert 0 < finished(page).inner_text().count("a") < 29
        assert "stopped by you" in page.locator(".entry .note").first.inner_text()
        page.get_by_role("button", name="Edit").click()
        page.get_by_role("textbox", name="Edit the message").fill("again")
        page.keyboard.press("Enter")
        page.locator(".token").nth(2).wait_for()
        page.keyboard.press("Escape")
        finished(page)
        assert page.locator(".question").inner_text() == "again"
        page.get_by_role("button", name="Regenerate").click()
        page.locator(".token").nth(2).wait_for()
        page.keyboard.press("Escape")
        finished(page)
        assert "version 2 of 2" in page.locator(".entry").inner_text()
        page.get_by_role("button", name="Earlier version").click()
        assert "version 1 of 2" in page.locator(".entry").inner_text()


@browser
def test_hostile_text_is_shown_as_text(chromium):
    with running(toy(256), worker=Reciting(HOSTILE, 0)) as server, opened(chromium, server) as page:
        answer = write(page, HOSTILE)
        assert answer.inner_text() == HOSTILE + "■ end" and page.locator(".question").inner_text() == HOSTILE
        assert page.locator("#log img, #log script, #log b").count() == 0 and page.title() == NAME
        page.locator(".token").first.click()
        assert "“<”" in page.locator(".figure h3").inner_text()


@browser
@pytest.mark.parametrize(("steps", "content"), [("<think>1 + 1 = 2.</think>", "2 <think>"), ("", "<thin 2")])
def test_the_steps_before_an_answer_look_unlike_it(chromium, steps, content):
    with running(toy(256), worker=Reciting(steps + content, 0.005)) as server, opened(chromium, server) as page:
        answer = write(page, "1 + 1")
        assert answer.inner_text() == f"{steps}{content}■ end"
        assert "".join(answer.locator(".step-before").all_inner_texts()) == steps


@browser
def test_the_keyboard_alone_opens_an_xray_and_branches(chromium, server):
    with opened(chromium, server) as page:
        page.get_by_label("Seed").fill("3")
        write(page, "tell")
        first = page.locator(".answer .token").all_inner_texts()
        for _ in range(30):  # Tab leads to the answer
            page.keyboard.press("Shift+Tab")
            if page.evaluate("() => document.activeElement.className") == "answer":
                break
        for key in ("ArrowRight", "ArrowRight", "ArrowRight", "ArrowLeft", "Enter"):
            page.keyboard.press(key)
        page.locator(".figure table").wait_for()
        assert page.locator(".figure h3").inner_text().startswith("Token 2:")
        assert page.locator("tr.drawn").count() == 1
        page.keyboard.press("ArrowRight")
        page.get_by_role("heading", name="Token 3:").wait_for()
        page.locator(".figure table").wait_for()
        page.keyboard.press("Escape")
        assert page.locator(".figure:visible").count() == 0
        page.keyboard.press("Enter")
        page.locator(".figure table").wait_for()
        other = page.locator("tbody tr:not(.drawn) button:enabled").first
        other.focus()
        chosen = other.inner_text()
        page.keyboard.press("Enter")
        page.get_by_text("version 2 of 2").wait_for()
        finished(page)
        second = page.locator(".answer .token").all_inner_texts()
        assert page.locator(".token.chosen").inner_text().replace(" ", "␣") == chosen
        place = page.evaluate("() => Number(document.querySelector('.token.chosen').dataset.place)")
        assert second[:place] == first[:place] and second[place] != first[place]


@browser
def test_figures_of_attention_and_drafts(chromium, server):
    with opened(chromium, server) as page:
        write(page, "tell tell tell")
        page.get_by_role("button", name="Attention").click()
        page.locator("canvas").wait_for()
        assert "looks at" in page.locator(".figure").inner_text()
        page.get_by_label("Head").select_option("4")
        page.get_by_label("Layer").select_option("1")
        page.locator("canvas").focus()
        before = page.locator(".figure .note").first.inner_text()
        page.keyboard.press("ArrowUp")
        assert page.locator(".figure .note").first.inner_text() != before
        page.get_by_role("button", name="Drafts").click()
        page.get_by_text("drafted tokens accepted").wait_for()
        assert page.locator(".figure .rejected").count() and page.locator("canvas").count() == 0


@browser
def test_the_text_side_the_sliders_and_the_settings_in_words(chromium, server):
    with opened(chromium, server) as page:
        page.get_by_text("top-p 0.9 → draw").wait_for()
        page.get_by_label("Temperature").fill("0.5")
        page.get_by_text("temperature 0.5 → top-p 0.9 → draw").wait_for()
        page.get_by_label("Most tokens").fill("5")
        page.get_by_role("button", name="Text").click()
        assert len(write(page, "abc").locator(".token").all()) <= 6
        page.locator(".token").first.click()
        page.get_by_role("columnheader", name="temperature 0.5").wait_for()
        page.get_by_role("button", name="Chat").click()
        assert page.locator(".entry:visible").count() == 0


@browser
def test_a_narrow_screen_and_a_dark_one(chromium, server):
    with opened(chromium, server, color_scheme="dark") as page:
        page.set_viewport_size({"width": 360, "height": 640})
        page.reload()
        page.get_by_role("button", name="Settings").click()
        for label, value in {"Temperature": "0.9", "Top-k": "90", "Min-p": "0.01", "Repetition": "1.1"}.items():
            page.get_by_label(label).fill(value)
        page.keyboard.press("Escape")
        write(page, "word" * 30)
        page.locator(".token").first.click()
        page.locator(".figure table").wait_for()

        def too_wide():
            return page.evaluate("() => document.documentElement.scrollWidth - window.innerWidth")

        assert too_wide() <= 0 and not page.locator("#panel").is_visible()
        page.get_by_role("button", name="Attention").click()
        page.locator("canvas").wait_for()
        assert too_wide() <= 0
        page.get_by_role("button", name="Settings").click()
        assert page.get_by_label("Temperature").is_visible() and too_wide() <= 0
        page.get_by_role("button", name="Close").last.click()
        assert not page.locator("#panel").is_visible()
        dark = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
        page.emulate_media(color_scheme="light")
        assert dark != page.evaluate("() => getComputedStyle(document.body).backgroundColor")


@browser
def test_a_key_is_asked_for_and_kept_in_memory_only(chromium):
    with running(toy(), key="k1") as server, opened(chromium, server, errors=["401"]) as page:
        key = page.get_by_role("textbox", name="This server asks for an API key")
        key.fill("wrong")
        page.keyboard.press("Enter")
        page.get_by_text("another key").wait_for()
        key.fill("k1")
        page.keyboard.press("Enter")
        assert write(page, "hi").inner_text()
        assert page.evaluate("() => localStorage.length + sessionStorage.length + document.cookie.length") == 0
        page.reload()
        key.wait_for()


@browser
def test_a_refusal_is_a_sentence_below_the_question(chromium, server):
    with opened(chromium, server, errors=["400"]) as page:
        write(page, "x" * 300)
        assert "shorten one of the two" in page.get_by_role("alert").inner_text()
        assert write(page, "y").inner_text()
