"""Data parallelism: a batch's images are split over all devices of all processes.

The devices form a mesh with one axis, `images`. Parameters, and everything else that does not
belong to an image, are replicated. XLA inserts the sums over devices that a loss and its gradient
need. A single device is a mesh of size one and takes the same path.
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
    """Connects this process to the others of its job. Call it before anything is computed.

    Without arguments it does so in a SLURM step with several tasks, and on a TPU pod with several
    hosts. Elsewhere the process runs by itself.

    Args:
      coordinator: HOST:PORT, the address of process 0 with a free port.
      processes: the number of processes.
      process: the index of this one, from 0.

    Raises:
      UserError: some but not all arguments are given, or other processes cannot be reached.
    """
    given = [x is not None for x in (coordinator, processes, process)]
    if any(given) and not all(given):
        raise UserError("give --coordinator, --processes and --process together, or none of them")
    tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", 1))
    hosts = os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",")
    if not any(given) and max(tasks, len(hosts)) == 1:
        return
    if process is not None and processes is not None and not 0 <= process < processes:
        raise UserError(f"--process {process}: it must be from 0 to {processes - 1}")
    # Set before a backend exists. Otherwise CPU programs run concurrently, and their messages can
    # overtake each other.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    try:
        jax.distributed.initialize(coordinator, processes, process)
    except (RuntimeError, ValueError) as error:
        why = " ".join(str(error).split())[:200]
        raise UserError(f"the job's other processes cannot be reached: {why}") from error
    if jax.default_backend() == "cpu":
        # A CPU program from the cache sends its sums in a different order. Processes then mistake
        # one sum for another, and hang or abort.
        jax.config.update("jax_enable_compilation_cache", False)


def is_first() -> bool:
    """Whether this process is the one that writes and reports."""
    return jax.process_index() == 0


def everywhere() -> NamedSharding:
    """The sharding of replicated arrays."""
    return NamedSharding(_mesh(), PartitionSpec())


def by_image() -> NamedSharding:
    """The sharding of arrays whose first axis is a batch's images."""
    return NamedSharding(_mesh(), PartitionSpec("images"))


def local_slice(images: int) -> slice:
    """The part of a batch's images that this process holds; all of them for a single process.

    Raises:
      UserError: the images cannot be split evenly.
    """
    check_batch(images, "a batch's size")
    share = images // jax.process_count()
    return slice(jax.process_index() * share, (jax.process_index() + 1) * share)


def check_batch(images: int, name: str) -> None:
    """Rejects a batch that the devices cannot split evenly; `name` is the setting at fault."""
    if images % jax.device_count():
        raise UserError(
            f"{name} is {images}: it must be a multiple of the {jax.device_count()} devices"
        )


def replicate(tree: Any) -> Any:
    """Copies to every device what is the same in all processes."""

    def give(x: Any) -> jax.Array:
        x = np.asarray(x)
        return jax.make_array_from_process_local_data(everywhere(), x, x.shape)

    return jax.tree.map(give, tree)


def shard_batch(batch: Any) -> Any:
    """Distributes a batch over the devices; each process passes its `local_slice`."""
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(by_image(), x), batch)


def fetch(tree: Any) -> Any:
    """Copies to this process's memory, where later steps do not overwrite them."""
    return jax.tree.map(np.array, tree)


def wait_for_all() -> None:
    """Returns once every process has called it."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("here")


def any_process(flag: bool) -> bool:
    """Whether the flag is set in any process; all processes must call this."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.process_allgather(np.array(flag)).any())


def from_first(number: int) -> int:
    """The number that the first process passes; all processes must call this."""
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.broadcast_one_to_all(np.array(number)))


def _mesh() -> Mesh:
    # Sorted by process, so that each holds consecutive images. A mesh optimised for speed may
    # order the devices differently.
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    return Mesh(np.array(devices), ("images",))
