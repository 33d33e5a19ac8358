"""The app of test_join.py: tasks that wait for the results of others."""

import os

from poolrt import App, allow_join_result, as_completed

TASKS = {}


def build(url):
    """An App on this broker with the tasks below."""
    app = App("join", broker=url)
    for function in TASKS.values():
        app.task(name=function.__name__, bind=True)(function)
    return app


def task(function):
    """Keep a function for every App that ``build`` makes."""
    TASKS[function.__name__] = function
    return function


@task
def double(self, n):
    """Waits for nobody."""
    return 2 * n


@task
def waits(self, n):
    """Waits as if it were no task."""
    return self.app.tasks["double"].delay(n).get(timeout=5)


@task
async def awaits(self, n):
    """The same on a loop."""
    return await (await self.app.tasks["double"].adelay(n))


@task
def waits_for_many(self, n):
    """The same for several."""
    return [result.get() for result in as_completed(self.app.tasks["double"].enqueue_many([(n,), (n,)]))]


@task
def allowed(self, n):
    """Says that it is meant."""
    with allow_join_result():
        value = self.app.tasks["double"].delay(n).get(timeout=10)
        many = [result.get() for result in as_completed(self.app.tasks["double"].enqueue_many([(n,)]), timeout=10)]
    return [value, *many, self.app.tasks["double"].delay(n).get(10, disable_sync_subtasks=False)]


@task
async def allowed_on_a_loop(self, n):
    """The same on a loop."""
    with allow_join_result():
        value = await (await self.app.tasks["double"].adelay(n)).aget(timeout=10)
        results = [self.app.tasks["double"].delay(n)]
        return [value, *[await result async for result in as_completed(results, timeout=10)]]


@task
def only_looks(self, task_id):
    """Asks for a result that is there."""
    result = self.app.result(task_id)
    return result.get() if result.ready() else None


def __getattr__(name):
    if name == "app":
        return build(os.environ["TEST_BROKER"])
    raise AttributeError(name)
