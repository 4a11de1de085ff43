"""One thread that runs a model for everybody: it makes one pass of the transformer after another.

Requests join and leave between two passes, so short ones do not wait for long ones, and one that
nobody waits for any more costs at most the pass under way. Those that wait and are alike, in all
but their prompts and seeds, begin as one batch: they end together, too, so that none waits for
another.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from braid import calling
from braid.generation import Ended, Job, Passes
from braid.pipeline import Pipeline
from braid.preparing import Work
from braid.serving.logs import LOGGER
from braid.serving.refusals import Refusal, busy, unavailable

log = logging.getLogger(LOGGER)

_LONGEST_PAUSE = 10.0  # seconds between two attempts of an engine that keeps failing
_READING = 0.1  # seconds after which those who run make a pass before more are read
_IDLE_CHECK = 0.5  # seconds after which deadlines are looked at without a pass


@dataclass(frozen=True)
class Room:
    """How much an engine takes on.

    Attributes:
        rows: of one pass of the transformer.
        requests: that wait to begin.
        cost: of all requests together, waiting or running, in tokens that their network calls
            read; one alone may have more.
    """

    rows: int = 32
    requests: int = 64
    cost: int = 4_000_000

    def __post_init__(self) -> None:
        for name in ("rows", "requests", "cost"):
            calling.whole(name, getattr(self, name), 1)


@dataclass(eq=False)
class _Ticket:
    """A request on its way.

    Attributes:
        prepare: reads it, which finds its mistakes.
        future: is given what becomes of it.
        deadline: time at which it is given up.
        job: what `prepare` returned.
        alone: it shares no job, since one that it shared has failed.
    """

    prepare: Callable[[], Job[Any]]
    future: Future[Any]
    deadline: float
    job: Job[Any] | None = None
    alone: bool = False

    @property
    def rows(self) -> int:
        return 0 if self.job is None else self.job.rows

    @property
    def cost(self) -> int:
        return 0 if self.job is None else self.job.cost

    @property
    def over(self) -> bool:
        """Whether nobody waits for it any more."""
        return self.future.done()

    def like(self, other: _Ticket) -> bool:
        """Return whether both can be one job."""
        ours, theirs = self.job, other.job
        if self.alone or other.alone or not (isinstance(ours, Work) and isinstance(theirs, Work)):
            return False
        return ours.form is not None and ours.form == theirs.form


@dataclass(eq=False)
class Engine:
    """A model at work.

    Attributes:
        pipe: the model.
        room: how much it takes on.
    """

    pipe: Pipeline
    room: Room = field(default_factory=Room)
    _changed: threading.Condition = field(default_factory=threading.Condition, repr=False)
    _arrived: deque[_Ticket] = field(default_factory=deque, repr=False)
    _waiting: deque[_Ticket] = field(default_factory=deque, repr=False)
    _running: dict[Job[Any], list[_Ticket]] = field(default_factory=dict, repr=False)
    _draining: bool = False
    _closed: bool = False
    _pause: float = 0.0
    _done: float = 0.0  # cost of what has ended, of late
    _spent: float = 0.0  # seconds of passes, of late

    def __post_init__(self) -> None:
        self._passes: Passes[Any] = Passes(self.pipe.braid.transformer, self.room.rows)
        self._thread = threading.Thread(target=self._run, name="braid engine", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def close(self) -> None:
        """Give everything up and end the thread; who still waits is refused."""
        with self._changed:
            self._draining = self._closed = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    def drain(self) -> None:
        """Take on nothing new, and finish the rest."""
        self._draining = True

    @property
    def ready(self) -> bool:
        """Whether it takes requests."""
        return self._thread.is_alive() and not self._draining and not self._pause

    @property
    def idle(self) -> bool:
        """Whether nobody waits for anything."""
        return not (self._arrived or self._waiting or self._running)

    @property
    def waiting(self) -> int:
        """Number of requests that have not begun."""
        return len(self._arrived) + len(self._waiting)

    @property
    def running(self) -> int:
        """Number of rows that are being generated."""
        return self._passes.busy

    @property
    def cost(self) -> int:
        """What all requests that have been read cost together."""
        return sum(ticket.cost for ticket in self._read() if not ticket.over)

    def _read(self) -> list[_Ticket]:
        """Return the requests that have been read; others may look while this goes on."""
        running = [ticket for tickets in list(self._running.values()) for ticket in tickets]
        return [*list(self._waiting), *running]

    def submit(self, prepare: Callable[[], Job[Any]], seconds: float) -> Future[Any]:
        """Ask for work; thread safe, and returns at once.

        Args:
            prepare: reads the request; called by the engine's thread, as everything that computes.
            seconds: after which it is given up.

        Returns:
            What the job gives. Cancelling it ends the job before the next pass.

        Raises:
            Refusal: there is no room, or the engine takes nothing on.
        """
        ticket = _Ticket(prepare, Future(), time.monotonic() + seconds)
        ticket.future.add_done_callback(lambda _: self._wake())
        with self._changed:
            if not self.ready:
                why = "is stopping" if self._draining else "starts again after a failure"
                raise unavailable(f"this server {why}; try again later", "not_ready")
            if self.waiting >= self.room.requests:
                raise busy(
                    f"{self.waiting} requests wait already, of at most {self.room.requests}; try "
                    "again later",
                    self._patience(),
                )
            self._arrived.append(ticket)
            self._changed.notify()
        return ticket.future

    def _patience(self) -> int:
        """Return the seconds after which there should be room again."""
        return round(min(max(self.cost * self._spent / max(self._done, 1.0), 1), 60))

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify()

    def _run(self) -> None:
        while not self._closed:
            try:
                self._turn()
                self._pause = 0.0
            except Exception:
                log.exception("the engine failed; it gives its requests up and starts again")
                self._give_up(unavailable("the engine failed; try again", "engine_failed"))
                self._pause = min(max(2 * self._pause, 0.1), _LONGEST_PAUSE)
                time.sleep(self._pause)
        self._give_up(unavailable("this server has stopped", "stopped"))

    def _turn(self) -> None:
        """Let requests in and out, and make one pass."""
        with self._changed:
            if self.idle and not self._closed:
                self._changed.wait(_IDLE_CHECK)
            arrived = len(self._arrived)
        began = time.monotonic()
        for _ in range(arrived):
            self._let_in(self._arrived[0])
            self._arrived.popleft()  # only now: whatever fails, somebody answers for it
            if self._running and time.monotonic() - began > _READING:
                break
        self._let_out()
        self._begin()
        began = time.monotonic()
        for ended in self._passes.advance():
            self._end(ended)
        self._spent += time.monotonic() - began

    def _let_in(self, ticket: _Ticket) -> None:
        """Read a request, and let it wait."""
        if ticket.over:
            return
        try:
            ticket.job = ticket.prepare()
        except Exception as e:
            _settle(ticket.future, error=e)
            return
        cost = self.cost
        if cost and cost + ticket.cost > self.room.cost and not ticket.alone:
            message = f"requests of {cost} tokens are under way, of at most {self.room.cost}"
            error = busy(f"{message}, and this one has {ticket.cost}", self._patience())
            _settle(ticket.future, error=error)
            return
        self._waiting.append(ticket)

    def _let_out(self) -> None:
        """Give up what nobody waits for any more."""
        now = time.monotonic()
        for ticket in self._read():
            if now > ticket.deadline:
                _settle(ticket.future, error=_late())
        self._waiting = deque(ticket for ticket in self._waiting if not ticket.over)
        for job, tickets in list(self._running.items()):
            if all(ticket.over for ticket in tickets):
                self._passes.drop(job)
                del self._running[job]

    def _begin(self) -> None:
        """Begin what there is room for; waiting requests of one form become one job."""
        rows = self._passes.busy
        while self._waiting and (not rows or rows + self._waiting[0].rows <= self.room.rows):
            tickets = [self._waiting.popleft()]
            rows += tickets[0].rows
            for other in [t for t in self._waiting if t.like(tickets[0])]:
                if rows + other.rows <= self.room.rows:
                    self._waiting.remove(other)
                    tickets.append(other)
                    rows += other.rows
            job = self._joined(tickets)
            if job is not None:
                self._running[job] = tickets
                self._passes.add(job)

    def _joined(self, tickets: list[_Ticket]) -> Job[Any] | None:
        """Return the job of several requests; where there is none, each waits for its own."""
        works = [ticket.job for ticket in tickets if isinstance(ticket.job, Work)]
        if len(works) < 2:
            return tickets[0].job
        try:
            return self.pipe.joined(works)
        except Exception:
            log.exception("requests of one form could not be joined")
            for ticket in tickets:
                ticket.alone = True
            self._waiting.extendleft(reversed(tickets))
            return None

    def _end(self, ended: Ended[Any]) -> None:
        """Tell those who wait for a job what became of it."""
        tickets = self._running.pop(ended.job)
        if len(tickets) == 1:
            _settle(tickets[0].future, ended.result, ended.error)
        elif ended.error is not None:  # whose fault it is shows when each is tried by itself
            for ticket in tickets:
                ticket.alone = True
                self._let_in(ticket)
        else:
            results = iter(ended.result or [])
            for ticket in tickets:
                _settle(ticket.future, [next(results) for _ in range(ticket.rows)])
        self._done = 0.9 * self._done + sum(ticket.cost for ticket in tickets)
        self._spent *= 0.9

    def _give_up(self, why: Refusal) -> None:
        self._passes.close()
        self._passes = Passes(self.pipe.braid.transformer, self.room.rows)
        with self._changed:  # or a request that arrives in between would wait for ever
            left = [*self._read(), *self._arrived]
            self._running.clear()
            self._waiting.clear()
            self._arrived.clear()
        for ticket in left:
            _settle(ticket.future, error=why)


def _late() -> Refusal:
    return Refusal(
        504,
        "the request took longer than this server allows; ask for fewer steps or tokens",
        kind="server_error",
        code="timeout",
    )


def _settle(future: Future[Any], result: Any = None, error: BaseException | None = None) -> None:
    """Tell who waits, unless he has left."""
    if future.done() or not future.set_running_or_notify_cancel():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)
