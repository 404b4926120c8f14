"""The tasks: one file each, and one line each in `TASKS`. `config.task` names one."""

from ccnet_jax.tasks import instance, semantic
from ccnet_jax.tasks.task import Task

__all__ = ["TASKS", "Task"]

TASKS: dict[str, Task] = {
    "semantic": semantic.TASK,
    "instance": instance.TASK,
}
