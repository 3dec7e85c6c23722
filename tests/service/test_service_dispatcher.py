"""Queue, batches, deadlines and lost workers, with workers that do what a test says."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest
from service_running import HEADERS, SETTINGS
from starlette.requests import Request

from servax.service import (
    Dispatcher,
    Metrics,
    Refusal,
    RequestHandler,
    ServiceSettings,
    dispatcher as module,
    open_log,
)
from servax.service.requests import RequestRecord
from servax.service.worker import (
    Broke,
    Done,
    Result,
    Task,
    UnusableError,
    WorkerLost,
    classify,
    purify,
)

Work = Callable[[list[Task]], Awaitable[list[Result]]]


class Stub:
    """A worker in this process."""

    work_of: Work
    starts = 0

    def __init__(self, settings: ServiceSettings, on_death: Callable[[], None]) -> None:
        self.alive, self.pid, self.on_death = False, None, on_death

    async def start(self) -> int:
        Stub.starts += 1
        self.alive = True
        return 1

    async def work(self, tasks: list[Task]) -> list[Result]:
        try:
            return await Stub.work_of(list(tasks))
        except WorkerLost:
            self.alive = False
            raise

    def stop(self) -> None:
        self.alive = False


class Scene:
    def __init__(self, **changes: Any) -> None:
        self.log, self.metrics = io.StringIO(), Metrics()
        settings = replace(SETTINGS, **{"batch_wait": 0.0, **changes})
        log = open_log(self.log)
        self.dispatcher = Dispatcher(settings, log, self.metrics)
        self.handler = RequestHandler(self.dispatcher, log)
        self.batches: list[list[bytes]] = []
        self.held = asyncio.Event()

    def ask(
        self, body: bytes, work: Any = classify, receive: Any = None, *, together: bool = True
    ) -> asyncio.Task[Any]:
        request = request_of(receive or said(body))

        async def asked() -> Any:
            with request.scope["servax"].held:
                return await self.handler.sound(request, work, together=together)

        return asyncio.ensure_future(asked())

    async def echo(self, tasks: list[Task]) -> list[Result]:
        self.batches.append([task.body for task in tasks])
        await self.held.wait()
        return [Done(task.body) for task in tasks]


def request_of(receive: Callable[[], Awaitable[Any]]) -> Request:
    return Request({"type": "http", "headers": HEADERS, "servax": RequestRecord("x")}, receive)


def said(body: bytes, *, leaves: asyncio.Event | None = None) -> Callable[[], Awaitable[Any]]:
    """Return ASGI's receive of a client that sends a body and stays, or leaves when told."""
    messages: list[dict[str, Any]] = [{"type": "http.request", "body": body}]

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop()
        await (leaves or asyncio.Event()).wait()
        return {"type": "http.disconnect"}

    return receive


def play(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(story(), 20))


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.fixture(autouse=True)
def _stubs(monkeypatch: pytest.MonkeyPatch) -> None:
    Stub.starts = 0
    monkeypatch.setattr(module, "Worker", Stub)


def test_what_waits_is_classified_at_once_and_purified_one_by_one() -> None:
    async def story() -> None:
        scene = Scene(batch=3)
        Stub.work_of = scene.echo
        scene.dispatcher.start()
        asked = [scene.ask(b"first")]
        await settle()
        asked += [
            scene.ask(b"p", purify, together=False),
            *(scene.ask(b"%d" % i) for i in range(4)),
        ]
        await settle()
        assert scene.batches == [[b"first"]]
        scene.held.set()
        assert await asyncio.gather(*asked) == [b"first", b"p", b"0", b"1", b"2", b"3"]
        assert scene.batches == [[b"first"], [b"p"], [b"0", b"1", b"2"], [b"3"]]
        await scene.dispatcher.stop()

    play(story)


def test_a_full_queue_refuses_before_the_body_is_read() -> None:
    async def story() -> None:
        scene = Scene(queue=2)
        Stub.work_of = scene.echo
        scene.dispatcher.start()
        asked = [scene.ask(b"a"), scene.ask(b"b")]
        await settle()
        read = []

        async def receive() -> Any:
            read.append(1)

        with pytest.raises(Refusal, match="2 requests are inside") as refused:
            await scene.ask(b"", receive=receive)
        assert (refused.value.status, refused.value.code) == (429, "busy")
        assert int(refused.value.headers["Retry-After"]) >= 1
        assert not read
        scene.held.set()
        await asyncio.gather(*asked)
        assert await scene.ask(b"c") == b"c"
        await scene.dispatcher.stop()

    play(story)


def test_retry_after_follows_the_pace() -> None:
    async def story() -> None:
        scene = Scene(queue=8)
        scene.dispatcher.start()
        await settle()
        scene.dispatcher._pace(2.0)
        scene.dispatcher._places = {module.Place(0.0) for _ in range(8)}
        with (
            pytest.raises(Refusal, match="again") as refused,
            scene.dispatcher.place(),
        ):
            pass
        assert refused.value.headers == {"Retry-After": "16"}
        await scene.dispatcher.stop()

    play(story)


def test_streams_get_a_quarter_of_the_places() -> None:
    async def story() -> None:
        scene = Scene(queue=8)
        with scene.dispatcher.place(stream=True):
            with scene.dispatcher.place(stream=True):
                with pytest.raises(Refusal) as refused, scene.dispatcher.place(stream=True):
                    pass
                assert (refused.value.status, refused.value.code) == (429, "busy")
                with scene.dispatcher.place():  # others come in still
                    pass
            with scene.dispatcher.place(stream=True):
                pass
        with Scene(queue=1).dispatcher.place(stream=True):
            pass

    play(story)


def test_what_expired_in_the_queue_is_not_computed() -> None:
    async def story() -> None:
        scene = Scene(deadline=0.1)
        Stub.work_of = scene.echo
        scene.dispatcher.start()
        asked = [scene.ask(b"at work")]
        await settle()
        asked += [scene.ask(b"late"), scene.ask(b"later")]
        for each in asked:
            with pytest.raises(Refusal, match=r"No answer within 0\.1 s") as refused:
                await each
            assert (refused.value.status, refused.value.code) == (504, "deadline")
        scene.held.set()
        await settle()
        assert await scene.ask(b"fresh") == b"fresh"
        assert scene.batches == [[b"at work"], [b"fresh"]]
        await scene.dispatcher.stop()

    play(story)


def test_who_leaves_is_not_waited_for() -> None:
    async def story() -> None:
        scene = Scene(workers=1)
        Stub.work_of = scene.echo
        scene.dispatcher.start()
        first = scene.ask(b"first")
        await settle()
        leaves = asyncio.Event()
        gone = scene.ask(b"", receive=said(b"x", leaves=leaves))
        await settle()
        leaves.set()
        with pytest.raises(Refusal, match="connection was closed before the answer"):
            await gone
        scene.held.set()
        await first
        await settle()
        assert scene.batches == [[b"first"]]
        await scene.dispatcher.stop()

    play(story)


def test_one_poisoned_sound_takes_no_other_with_it() -> None:
    async def story() -> None:
        scene = Scene()
        scene.held.set()

        async def die_of_poison(tasks: list[Task]) -> list[Result]:
            bodies = [task.body for task in tasks]
            if b"poison" in bodies:
                scene.batches.append(bodies)
                raise WorkerLost(begun=True)
            return await scene.echo(tasks)

        Stub.work_of = die_of_poison
        asked = [scene.ask(each) for each in (b"a", b"poison", b"b")]
        await settle()
        scene.dispatcher.start()
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert (answers[0], answers[2]) == (b"a", b"b")
        assert isinstance(answers[1], Refusal)
        assert (answers[1].status, answers[1].code) == (500, "worker_lost")
        assert scene.batches == [[b"a", b"poison", b"b"], [b"a"], [b"poison"], [b"b"]]
        assert Stub.starts == 3
        assert scene.metrics.worker_restarts.collect()[0].samples[0].value == 2
        await scene.dispatcher.stop()

    play(story)


def test_a_worker_found_dead_is_no_fault_of_the_sound() -> None:
    async def story() -> None:
        scene = Scene()
        scene.held.set()
        deaths = [0, 0, 0]

        async def dead_at_first(tasks: list[Task]) -> list[Result]:
            if deaths:
                deaths.pop()
                raise WorkerLost(begun=False)
            return await scene.echo(tasks)

        Stub.work_of = dead_at_first
        scene.dispatcher.start()
        assert await scene.ask(b"a") == b"a"
        await scene.dispatcher.stop()

    play(story)


def test_drained_is_when_all_is_answered() -> None:
    async def story() -> None:
        scene = Scene()
        Stub.work_of = scene.echo
        scene.dispatcher.start()
        asked = [scene.ask(b"a"), scene.ask(b"b")]
        await settle()
        draining = asyncio.ensure_future(scene.dispatcher.drain())
        await settle()
        assert not draining.done()
        assert not scene.dispatcher.ready
        with pytest.raises(Refusal, match="ending") as refused:
            await scene.ask(b"c")
        assert (refused.value.status, refused.value.code) == (503, "shutting_down")
        scene.held.set()
        assert await asyncio.gather(*asked) == [b"a", b"b"]
        await draining
        await scene.dispatcher.stop()

    play(story)


def test_what_is_not_done_when_time_is_over_is_told_so() -> None:
    async def story() -> None:
        scene = Scene(shutdown_seconds=0.05)
        Stub.work_of = scene.echo
        scene.dispatcher.start()
        asked = [scene.ask(b"a"), scene.ask(b"b")]
        await settle()
        await scene.dispatcher.drain()
        for each in asked:
            with pytest.raises(Refusal, match="ended before the answer"):
                await each
        await scene.dispatcher.stop()

    play(story)


def test_networks_that_no_worker_can_load_end_the_service() -> None:
    async def story() -> None:
        class Hopeless(Stub):
            async def start(self) -> int:
                raise UnusableError("no such folder.")

        module.Worker = Hopeless  # type: ignore[misc]
        scene = Scene()
        scene.dispatcher.start()
        assert str(await scene.dispatcher.failed) == "no such folder."
        assert not scene.dispatcher.ready
        await scene.dispatcher.stop()

    play(story)


def test_what_breaks_is_logged_by_place_and_not_by_words() -> None:
    async def story() -> None:
        scene = Scene()

        async def broke(tasks: list[Task]) -> list[Result]:
            return [Broke("ValueError", ("purify:12",))]

        Stub.work_of = broke
        scene.dispatcher.start()
        with pytest.raises(Refusal, match="Something broke"):
            await scene.ask(b"a")
        line = json.loads(scene.log.getvalue().splitlines()[-1])
        assert (line["error"], line["where"]) == ("ValueError", ["purify:12"])

        async def unpicklable(tasks: list[Task]) -> list[Result]:
            raise TypeError("cannot pickle")

        Stub.work_of = unpicklable
        with pytest.raises(Refusal, match="Something broke"):
            await scene.ask(b"b")
        await scene.dispatcher.stop()

    play(story)


def attacked(scene: Scene, method: Any = "pgd") -> tuple[Request, asyncio.Task[list[Any]]]:
    """Return a request to attack a sound, and all that it gets."""
    request = request_of(said(b"a"))

    async def asked() -> list[Any]:
        with request.scope["servax"].held:
            return [each async for each in await scene.handler.attack(request, method, 30.0)]

    return request, asyncio.ensure_future(asked())


def test_sounds_are_attacked_one_at_a_time_and_few_wait() -> None:
    async def story() -> None:
        scene = Scene(workers=2)
        Stub.work_of = scene.echo
        scene.dispatcher.start()
        asked = [attacked(scene)[1] for _ in range(9)]
        await settle()
        assert scene.batches == [[b"a"]]
        with pytest.raises(Refusal, match="8 sounds wait to be attacked already") as refused:
            await attacked(scene)[1]
        assert (refused.value.status, refused.value.code) == (429, "busy")
        assert "Retry-After" in refused.value.headers
        assert scene.handler._attacks == 9
        scene.held.set()
        assert await asyncio.gather(*asked) == [[b"a"] * 3] * 9
        assert scene.handler._attacks == 0
        assert await attacked(scene, "none")[1] == [b"a"]
        await scene.dispatcher.stop()

    play(story)


def test_who_waits_too_long_to_be_attacked_is_told_so() -> None:
    async def story() -> None:
        scene = Scene(deadline=0.1)
        Stub.work_of = scene.echo
        scene.dispatcher.start()
        asked = [attacked(scene)[1] for _ in range(2)]
        for each in asked:
            with pytest.raises(Refusal, match=r"No answer within 0\.1 s"):
                await each
        assert scene.handler._attacks == 0
        await scene.dispatcher.stop()

    play(story)


@pytest.mark.parametrize(
    ("result", "code"),
    [(Refusal(422, "unusable", "No."), "unusable"), (Broke("ValueError", ()), "internal")],
)
def test_what_fails_after_the_first_answer_stands_in_its_place(result: Any, code: str) -> None:
    async def story() -> None:
        scene = Scene()

        async def once(tasks: list[Task]) -> list[Result]:
            scene.batches.append([])
            return [Done(b"first") if len(scene.batches) == 1 else result]

        Stub.work_of = once
        scene.dispatcher.start()
        request, asked = attacked(scene)
        first, failed = await asked
        assert first == b"first"
        assert isinstance(failed, Refusal)
        assert failed.code == request.scope["servax"].told["code"] == code
        await scene.dispatcher.stop()

    play(story)
