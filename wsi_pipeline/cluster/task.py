"""What is sent over a Dask cluster: names and numbers, without what it takes to act on them.

The scheduler has to import what it passes on. This module spares it torch and all else that only
workers need.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Task:
    """A shard of a slide. Dask logs what fails: where the slide lies, and its name, stay out."""

    start: int
    stop: int
    job: str = field(repr=False)
    """A `wsi_pipeline.cluster.worker.Job` as JSON."""


def score(task: Task) -> tuple[list[int], float]:
    """See `wsi_pipeline.cluster.worker.score_shard`."""
    from wsi_pipeline.cluster.worker import Job, score_shard

    return score_shard(Job.model_validate_json(task.job), task.start, task.stop)


def execution(engine: str) -> str:
    """Say how a worker would run a model: an `Execution` as JSON, of an `EngineConfig` as JSON."""
    from wsi_pipeline.engine.execution import EngineConfig, machine_execution

    return machine_execution(EngineConfig.model_validate_json(engine)).model_dump_json()
