"""A client that stops reading gives up its place in time, whatever message it does not take."""

import asyncio

import pytest

from minillm.serving.answering import Answer, Desk
from minillm.serving.bodies import Body
from minillm.serving.errors import ApiError
from minillm.serving.formats import CompletionFormat
from minillm.serving.limits import Limits
from minillm.serving.prometheus import Meter
from minillm.serving.worker import News, TextOrder, Ticket
from tests.serving.running import BYTES, NAME

LIMITS = Limits(send_seconds=1)


class Teller:
    """A worker that tells the same news of every text at once."""

    alive = True

    def __init__(self, *news):
        self.news = news

    def submit(self, order, tell):
        for each in self.news:
            tell(each)
        return Ticket(order, tell)

    def cancel(self, ticket):
        ticket.ended = True


END, FAILURE = News(reason="end"), News(error=ApiError(500, "the model failed"))


@pytest.mark.parametrize(
    ("news", "stream", "n_taken"),
    [
        ([News("a"), END], True, 0),
        ([News("a"), END], True, 2),  # the start, the opening
        ([News("a"), END], True, 5),  # and all others but the last one, which has no data
        ([News("a"), FAILURE], True, 4),  # all but the one after the error
        ([END], False, 0),
        ([END], False, 1),
    ],
)
def test_a_message_that_is_not_taken_in_time_ends_the_answer(news, stream, n_taken):
    desk, taken = Desk(Teller(*news), LIMITS, Meter()), []
    body = Body([TextOrder("x", 3)], 1, 0, stream, False, [""])

    async def receive():
        await asyncio.Event().wait()

    async def send(message):
        if len(taken) == n_taken:
            await asyncio.Event().wait()
        taken.append(message)

    async def answer():
        await asyncio.wait_for(Answer(desk, body, CompletionFormat(BYTES), NAME)({}, receive, send), timeout=4)

    asyncio.run(answer())
    assert desk.n_open == 0 and len(taken) == n_taken
    assert all(message.get("more_body", True) for message in taken), "only the last message was missing, or more"
