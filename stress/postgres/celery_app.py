"""The leaky app on Celery; ``python -m stress.postgres.celery_app COUNT KIND RATE`` sends so many of its tasks."""

import os
import sys

from celery import Celery

from stress.postgres import leaky

app = Celery("leaky", broker=os.environ["LEAKY_BROKER"])
app.conf.worker_prefetch_multiplier = 64
app.conf.task_ignore_result = True


@app.task
def ask(kind: str, rate: float) -> None:
    """One task."""
    leaky.run(kind, rate)


if __name__ == "__main__":
    with app.connection_for_write() as connection:
        producer = app.amqp.Producer(connection)
        for _ in range(int(sys.argv[1])):
            app.send_task("stress.postgres.celery_app.ask", (sys.argv[2], float(sys.argv[3])), producer=producer)
