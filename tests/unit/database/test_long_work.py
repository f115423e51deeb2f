"""Work in turns: bounded, told on where it stopped, begun anew where it must be."""

from __future__ import annotations

import pytest

from headwater.database import long_work
from headwater.database.long_work import LongWork, Story


class Told:
    """Three steps; `fails_at` is the one that raises, once."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.said: list[tuple[object, int]] = []
        self.closed = 0
        self._fails_at = fails_at

    async def tell(self, session: object) -> Story:
        try:
            for step in range(3):
                if step == self._fails_at:
                    self._fails_at = None
                    raise OSError("away")
                self.said.append((session, step))
                yield
        except GeneratorExit:
            self.closed += 1
            raise


@pytest.fixture
def one_step_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_work, "TURN_S", 0.0)


async def test_one_turn_where_there_is_time() -> None:
    told = Told()
    assert await LongWork(told.tell).turn("s") is False
    assert told.said == [("s", 0), ("s", 1), ("s", 2)]


@pytest.mark.usefixtures("one_step_a_turn")
async def test_goes_on_where_it_stopped_and_begins_again_after_the_end() -> None:
    told = Told()
    work = LongWork(told.tell)
    assert [await work.turn("s") for _ in range(5)] == [True, True, True, False, True]
    assert told.said == [("s", 0), ("s", 1), ("s", 2), ("s", 0)]


@pytest.mark.usefixtures("one_step_a_turn")
async def test_another_session_hears_it_from_the_beginning() -> None:
    told = Told()
    work = LongWork(told.tell)
    assert await work.turn("one")
    assert await work.turn("other")
    assert told.said == [("one", 0), ("other", 0)]
    assert told.closed == 1


async def test_after_a_failure_it_begins_anew() -> None:
    told = Told(fails_at=1)
    work = LongWork(told.tell)
    with pytest.raises(OSError, match="away"):
        await work.turn("s")
    assert await work.turn("s") is False
    assert told.said == [("s", 0), ("s", 0), ("s", 1), ("s", 2)]
