"""Data parallelism: a batch's images are shared out over all devices of all processes.

The devices form a mesh of one axis, `images`. Parameters and everything else that is not of an
image are on every device; XLA adds the sums over devices that a loss and its gradient need. One
device is the mesh of size one: there is no other way through.
"""

import os
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from show_attend_tell.errors import UserError


def start(
    coordinator: str | None = None, processes: int | None = None, process: int | None = None
) -> None:
    """Joins this process with the others of its job, before anything is computed.

    Without arguments it does so where SLURM runs a step of several tasks, or on a TPU pod of
    several hosts; elsewhere the process stays alone.

    Args:
      coordinator: HOST:PORT of process 0, which must be free there.
      processes: how many there are.
      process: the number of this one, from 0.

    Raises:
      UserError: some but not all of the arguments are given, or the others are not reached.
    """
    given = [x is not None for x in (coordinator, processes, process)]
    if any(given) and not all(given):
        raise UserError("--coordinator, --processes and --process are given together or not at all")
    tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", 1))
    hosts = os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",")
    if not any(given) and max(tasks, len(hosts)) == 1:
        return
    if process is not None and processes is not None and not 0 <= process < processes:
        raise UserError(f"--process {process}: it must be from 0 to {processes - 1}")
    # Before there is a backend. Programs of a CPU run beside each other otherwise, and what they
    # send can overtake.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    try:
        jax.distributed.initialize(coordinator, processes, process)
    except (RuntimeError, ValueError) as error:
        why = " ".join(str(error).split())[:200]
        raise UserError(f"the job's other processes cannot be reached: {why}") from error
    if jax.default_backend() == "cpu":
        # A CPU's program out of the cache sends its sums in an order of its own: processes then
        # take one sum for another, and hang or abort.
        jax.config.update("jax_enable_compilation_cache", False)


def is_first() -> bool:
    """Whether this process is the one that writes and reports."""
    return jax.process_index() == 0


def everywhere() -> NamedSharding:
    """The placement of what every device holds."""
    return NamedSharding(_mesh(), PartitionSpec())


def by_image() -> NamedSharding:
    """The placement of arrays whose first axis is a batch's images."""
    return NamedSharding(_mesh(), PartitionSpec("images"))


def local_slice(images: int) -> slice:
    """Which of a batch's images this process holds; all where it is alone.

    Raises:
      UserError: they cannot be shared out evenly.
    """
    check_batch(images, "a batch's size")
    share = images // jax.process_count()
    return slice(jax.process_index() * share, (jax.process_index() + 1) * share)


def check_batch(images: int, name: str) -> None:
    """Refuses a batch that the devices cannot share evenly; `name` says which setting it is."""
    if images % jax.device_count():
        raise UserError(
            f"{name} is {images}: it must be a multiple of the {jax.device_count()} devices"
        )


def replicate(tree: Any) -> Any:
    """Puts on every device what all processes hold alike."""

    def give(x: Any) -> jax.Array:
        x = np.asarray(x)
        return jax.make_array_from_process_local_data(everywhere(), x, x.shape)

    return jax.tree.map(give, tree)


def shard_batch(batch: Any) -> Any:
    """Puts a batch, of which each process gives its `local_slice`, on the devices."""
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(by_image(), x), batch)


def fetch(tree: Any) -> Any:
    """Copies in this process' memory, which later steps do not overwrite."""
    return jax.tree.map(np.array, tree)


def wait_for_all() -> None:
    """Returns when every process has come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("here")


def any_process(flag: bool) -> bool:
    """Whether the flag is set in any process; all must ask."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.process_allgather(np.array(flag)).any())


def _mesh() -> Mesh:
    # By process, so that each holds images that follow each other; the order of a made-for-speed
    # mesh can differ.
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    return Mesh(np.array(devices), ("images",))
