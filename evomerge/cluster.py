"""Ray's clusters: one that runs, or one of our own, which only we can reach."""

from __future__ import annotations

import importlib
import os
import secrets
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from evomerge import errors

PATIENCE = 10.0
"""Seconds in which the address of a cluster has to answer."""
JOINING = "One that is there needs the same version of ray, and RAY_AUTH_TOKEN if it has a token"


@contextmanager
def connected(address: str | None, workers: int | None) -> Iterator[Any]:
    """Ray on the cluster at an address, or on one of its own (None), which ends with this."""
    # All are read when ray is imported. Its servers then bind to loopback, not to all interfaces.
    if address is None:
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    else:  # not 20 times 40 seconds, where a cluster does not let in who lacks its token
        os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "3")
    # Its handlers of signals in C, in place of ours while it is connected, and of none afterwards.
    os.environ.setdefault("RAY_DISABLE_FAILURE_SIGNAL_HANDLER", "1")
    import ray

    if ray.is_initialized():
        yield ray
        return
    with _token() if address is None else nullcontext():
        try:
            _start(ray, address, workers)
            yield ray
        finally:
            ray.shutdown()


def require_alive(ray: Any) -> None:
    """Raise MachineError where a process of the cluster that was started here has ended.

    Without it Ray ends the driver, after a while and with no word, in C.
    """
    node = ray._private.worker._global_node
    for kind, process in node.dead_processes() if node is not None else ():
        if kind in ("raylet", "gcs_server"):
            raise errors.MachineError(
                f"executor: ray: '{kind}', a process of Ray's own, has ended with "
                f"{process.returncode} (-9: killed, perhaps because memory was low); what was "
                "answered is kept, the same command goes on"
            )


@contextmanager
def _token() -> Iterator[None]:
    """The cluster that is started in here lets in who has a token, made for it alone.

    It is in the environment of this process and of Ray's, in no file. Where RAY_AUTH_MODE is set
    already, that holds.
    """
    if "RAY_AUTH_MODE" in os.environ:
        yield
        return
    mine = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    before = {name: os.environ.get(name) for name in mine}
    os.environ.update(mine)
    _read_again()
    try:
        yield
    finally:
        for name, value in before.items():
            del os.environ[name]
            if value is not None:
                os.environ[name] = value
        _read_again()


def _read_again() -> None:
    """Ray reads how to authenticate when it is imported, and has no public way to do so later."""
    raylet: Any = importlib.import_module("ray._raylet")
    try:
        raylet.Config.initialize("")  # first, or one of its threads looks for a token in vain
        raylet.AuthenticationTokenLoader.instance().reset_cache()
    except AttributeError as error:
        raise errors.MachineError(
            f"this version of ray can not be given a token ({error}): install one that "
            "constraints.txt names, or go without by RAY_AUTH_MODE=disabled"
        ) from error


def _start(ray: Any, address: str | None, workers: int | None) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    if address is not None:
        options["address"] = address
    else:  # without `local` it would join whatever cluster was started here last
        options.update(address="local", num_cpus=workers, include_dashboard=False)
    try:
        with _silent(), _our_signals():
            _require_answer(address)
            ray.init(**options)
    except Exception as error:  # of many kinds, and of none: a time that is over is a bare one
        reason = str(error).strip().partition("\n")[0]
        if address is None:
            text = f"no cluster can be started here: {reason}"
        else:
            text = f"no cluster at {address}: {reason}. {JOINING}"
        raise errors.MachineError(f"executor: ray: {text}") from error


def _require_answer(address: str | None) -> None:
    """Raise OSError where nothing listens: Ray would try again without end."""
    host, _, port = (address or "").rpartition(":")
    if host and "/" not in host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), PATIENCE).close()


@contextmanager
def _our_signals() -> Iterator[None]:
    """Ray's own handler of SIGTERM ends the process at once: whoever had set one keeps it."""
    if threading.current_thread() is not threading.main_thread():  # Ray sets none there either
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except SystemExit as leaving:  # that handler, before it could be put back
        if leaving.code == signal.SIGTERM:
            raise KeyboardInterrupt from None
        raise
    finally:
        for number, handler in before.items():
            if handler is not None:  # None: of C, which Python can not set again
                signal.signal(number, handler)


@contextmanager
def _silent() -> Iterator[None]:
    """Ray's libraries write the log level that they were given to the terminal themselves; what
    goes wrong comes as an exception all the same."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
