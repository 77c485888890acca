"""Worker processes that hand back each result at once, and leave nothing behind.

Plain processes on pipes instead of an executor: results arrive one by one and not when a whole
task is done, a worker that dies takes only its own task with it, and an interrupt ends them all.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, NamedTuple, TypeVar

import torch

Task = TypeVar("Task")
Work = Callable[[Any], Iterator[Any]]


class Message(NamedTuple):
    """What a worker says about one task.

    Attributes:
        task: Number of the task.
        value: A result; None when the task is over.
        error: Why the task ended early; None when it did not.
    """

    task: int
    value: Any = None
    error: str | None = None


def follow_parent() -> None:
    """Make this process end with its parent; a killed program would leave its workers behind."""
    parent = multiprocessing.parent_process()

    def follow() -> None:
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


@contextmanager
def one_thread() -> Iterator[None]:
    """One torch thread in here: the number of workers must not change a rounding."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _serve(connection: Connection, work: Work) -> None:
    """The main loop of a worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt means
    follow_parent()
    with one_thread():
        while True:
            task = connection.recv()
            error = None
            try:
                for value in work(task):
                    connection.send((value, False, None))
            except Exception as caught:
                error = f"{type(caught).__name__}: {caught}"
            connection.send((None, True, error))


class _Worker:
    def __init__(self, work: Work) -> None:
        # A forked torch may hang; a spawned one starts clean.
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, work), daemon=True)
        self.process.start()
        theirs.close()  # so that the worker's death shows as the end of the pipe
        self.task: int | None = None

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


class Workers(Generic[Task]):
    """Processes, one thread each, that work off tasks; a context manager.

    Args:
        work: Called in a worker with a task; a generator function, importable by name. What it
            yields arrives at once.
        count: Number of processes; 0 works in this one.
    """

    def __init__(self, work: Callable[[Task], Iterator[Any]], count: int) -> None:
        self.work = work
        self.count = count
        self._workers: list[_Worker] = []

    def __enter__(self) -> Workers[Task]:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.stop()  # results in the making are not worth waiting for
        self._workers = []

    def run(self, tasks: Sequence[Task]) -> Iterator[Message]:
        """Work off the tasks; messages in the order of their arrival."""
        if self.count == 0:
            yield from self._run_here(tasks)
            return
        waiting = deque(enumerate(tasks))
        while len(self._workers) < min(self.count, len(tasks)):
            self._workers.append(_Worker(self.work))
        while True:
            for worker in self._workers:
                if worker.task is None and waiting:
                    worker.task, task = waiting.popleft()
                    with suppress(OSError):  # it has died: the end of its pipe will say so
                        worker.connection.send(task)
            busy = {w.connection: w for w in self._workers if w.task is not None}
            if not busy:
                return
            for connection in wait(list(busy)):
                yield self._receive(busy[connection])  # type: ignore[index]

    def _receive(self, worker: _Worker) -> Message:
        assert worker.task is not None
        number = worker.task
        try:
            value, over, error = worker.connection.recv()
        except (EOFError, OSError):
            worker.stop()
            self._workers[self._workers.index(worker)] = _Worker(self.work)
            code = worker.process.exitcode
            return Message(number, None, f"the worker process died (exit code {code})")
        if over:
            worker.task = None
        return Message(number, value, error)

    def _run_here(self, tasks: Sequence[Task]) -> Iterator[Message]:
        for number, task in enumerate(tasks):
            error = None
            with one_thread():
                try:
                    for value in self.work(task):
                        yield Message(number, value)
                except Exception as caught:
                    error = f"{type(caught).__name__}: {caught}"
            yield Message(number, None, error)
