"""The queue of the page: one task at a time, in order, and any of them can be cancelled."""

import threading

import pytest

from unified_sess.app.tasks import TaskQueue


def test_one_at_a_time_in_order():
    running, most, order = [], [], []

    def work(task):
        running.append(task)
        most.append(len(running))
        order.append(task)
        running.remove(task)

    with TaskQueue() as queue:
        tasks = [queue.submit(work) for _ in range(20)]
        for task in tasks:
            task.result()
    assert order == tasks and max(most) == 1


def test_who_waits_knows_how_many_are_before_and_can_leave():
    go = threading.Event()
    with TaskQueue() as queue:
        tasks = [queue.submit(lambda task: go.wait(60)) for _ in range(3)]
        assert [queue.before(task) for task in tasks] == [0, 1, 2] and queue.length() == 3
        tasks[1].cancel()
        assert tasks[1].ended and tasks[1].result() is None and queue.before(tasks[2]) == 1
        go.set()
        assert tasks[2].result() is True


def test_tidying_up_is_nothing_that_people_wait_for():
    """Deletions of results were counted as recordings: a visitor who pressed buttons locked all others out."""
    go = threading.Event()
    with TaskQueue() as queue:
        queue.submit(lambda task: go.wait(60))
        for _ in range(30):
            queue.submit(lambda task: None, counts=False)
        last = queue.submit(lambda task: True)
        assert queue.length() == 2 and queue.before(last) == 1
        go.set()
        assert last.result() is True


def test_a_running_task_hears_that_it_is_cancelled():
    begun = threading.Event()

    def work(task):
        begun.set()
        return task.stop.wait(60)

    with TaskQueue() as queue:
        task = queue.submit(work)
        begun.wait(60)
        task.cancel()
        task.future.result(60)
        assert task.result() is None


def test_what_a_task_raises_reaches_who_asks_for_its_result():
    with TaskQueue() as queue:
        task = queue.submit(lambda task: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            task.result()


def test_the_end_of_the_queue_cancels_what_runs_and_waits():
    begun = threading.Event()

    def work(task):
        begun.set()
        assert task.stop.wait(60)

    with TaskQueue() as queue:
        tasks = [queue.submit(work) for _ in range(2)]
        begun.wait(60)
    assert all(task.ended and task.cancelled for task in tasks)
