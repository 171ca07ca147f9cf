"""Rank 0 leads: it runs the recipe as a single process would, and calls the others for each training stage.

The others print nothing, write nothing of their own and answer nothing. They wait for orders in the launcher's store,
not in a collective operation, so that a vocabulary, a merge or an evaluation may take rank 0 as long as it needs.
"""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn

from lingraft.problems import Refusal, refuse
from lingraft.train.distributed import group

if TYPE_CHECKING:
    from lingraft.train.stage import Stage

_LONG = timedelta(days=30)  # for an order: rank 0 may be merging or evaluating
_PATIENCE = timedelta(hours=1)  # within training, where everybody is at the same place
_SAME = timedelta(minutes=1)  # between one process's refusal and another's of the same
_STORE: ContextVar[Any] = ContextVar("store")


@contextmanager
def led() -> Iterator[None]:
    """On rank 0 yield, and let the others go at the end; on the others obey until then, and exit as rank 0 does."""
    if group.size() == 1:
        yield
        return
    if "MASTER_ADDR" not in os.environ:
        refuse(
            "recipe-invalid",
            "RANK and WORLD_SIZE are set, but MASTER_ADDR is not: the processes cannot meet",
            "start with torchrun or accelerate launch, or unset RANK and WORLD_SIZE",
        )
    store = _join()
    if not group.leads():
        _follow(store)
    token, code = _STORE.set(store), 1
    try:
        with _only_the_answer():
            yield
        code = 0
    except KeyboardInterrupt:
        code = 130
        raise
    finally:
        _order(store, "end", code)
        _STORE.reset(token)
        if code == 0:  # the store may be ours: it must outlive the others' last question
            store.wait([f"gone-{n}" for n in range(1, group.size())], _PATIENCE)


@contextmanager
def _only_the_answer() -> Iterator[None]:
    """Send to stderr what compilers and libraries below Python print: stdout is for the answer."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def call(stage: Stage) -> None:
    """Have the other processes run this training stage too; nothing in a run of one process."""
    if group.size() > 1:
        _order(_STORE.get(), "train", stage)


def _order(store: Any, kind: str, value: Any) -> None:
    store.set(f"order-{store.add('orders', 1)}", pickle.dumps((kind, value)))


def _join() -> Any:
    """Meet the other processes; return the store through which orders go."""
    import torch
    import torch.distributed as dist
    from torch.distributed import distributed_c10d as c10d
    from torch.distributed.rendezvous import rendezvous

    from lingraft import accelerator

    store, rank, size = next(iter(rendezvous("env://", timeout=_PATIENCE)))
    device = accelerator.kind()
    if device != "cpu":
        torch.accelerator.set_device_index(int(os.environ.get("LOCAL_RANK", "0")))
    else:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    dist.init_process_group(
        backends(device), store=c10d.PrefixStore("group", store), rank=rank, world_size=size, timeout=_PATIENCE
    )
    return c10d.PrefixStore("lingraft", store)


def backends(device: str) -> str:
    """Return what carries words between processes (gloo), and tensors between devices of a kind (NCCL, HCCL, …)."""
    import torch.distributed as dist

    return "gloo" if device == "cpu" else f"cpu:gloo,{device}:{dist.get_default_backend_for_device(device)}"


def _follow(store: Any) -> NoReturn:
    """Obey rank 0's orders until it says that this is the end."""
    spoken = sys.stderr
    with open(os.devnull, "w") as silence:  # noqa: PTH123
        sys.stdout = sys.stderr = silence
        number = 0
        while True:
            number += 1
            store.wait([f"order-{number}"], _LONG)
            kind, value = pickle.loads(store.get(f"order-{number}"))
            if kind == "end":
                store.set(f"gone-{group.rank()}", b"")
                sys.stdout, sys.stderr = sys.__stdout__, spoken
                sys.exit(value)
            try:
                import_module(f"lingraft.train.{value.name}").run(value)
            except Refusal as refusal:
                _refused(store, number + 1, refusal, spoken)
            except BaseException:
                sys.stderr = spoken
                raise


def _refused(store: Any, next_order: int, refusal: Refusal, spoken: Any) -> None:
    """Leave the telling to rank 0, which refuses the same; where it does not, tell it, and end the whole run."""
    try:
        store.wait([f"order-{next_order}"], _SAME)
    except RuntimeError:  # torch's DistStoreError
        print(f"process {group.rank()} alone refuses: {refusal}", file=spoken, flush=True)
        os._exit(1)  # the launcher ends the others, which wait in a collective operation
