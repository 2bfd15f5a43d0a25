"""Give up root for good, and keep the one capability without which a private folder is out of reach.

PostgreSQL refuses to run as root, so root's server runs as an unprivileged account. That account can neither enter a
parent folder of mode 0700 (a project below /root) nor read a virtual environment there. Opening those folders for
everybody is not ours to do; instead the process keeps CAP_DAC_READ_SEARCH, or CAP_DAC_OVERRIDE where a container has
only that one, as an *ambient* capability, which programs that it executes inherit. Linux only.
"""

from __future__ import annotations

import ctypes
import os

from gristmill.errors import DatabaseProblem

_DAC_OVERRIDE, _DAC_READ_SEARCH = 1, 2
_PR_SET_KEEPCAPS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE = 8, 47, 2
_VERSION_3 = 0x20080522


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Set(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def become(uid: int, gid: int, *, run_private_files: bool = False) -> bool:
    """Turn this root process into the account `uid`, `gid` without supplementary groups; there is no way back.

    The process must have one thread only. `run_private_files` asks for the capability that also executes programs
    whose mode forbids it to others (a virtual environment made under umask 077). Returns whether a capability could
    be handed on to programs executed later; without one they reach only what `uid` itself may reach.
    Raises `DatabaseProblem` D105 if this process may not change its user.
    """
    kernel = ctypes.CDLL(None, use_errno=True)
    wanted = (_DAC_OVERRIDE,) if run_private_files else (_DAC_READ_SEARCH, _DAC_OVERRIDE)
    permitted = _permitted(kernel)
    kept = next((capability for capability in wanted if permitted & (1 << capability)), None)
    try:
        kernel.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0)  # or the change of user would clear the permitted set
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    except OSError as error:
        raise DatabaseProblem(
            f"PostgreSQL refuses to run as root, and this process may not change its user to {uid}: {error.strerror}.",
            hint="Run as an ordinary user, allow CAP_SETUID and CAP_SETGID, or set GRISTMILL_DATABASE_URL.",
            safe="Nothing was started or changed.",
            code="D105",
        ) from error
    return _keep_only(kernel, kept)


def _permitted(kernel: ctypes.CDLL) -> int:
    """The first 32 bits of this process's permitted capabilities."""
    sets = (_Set * 2)()
    if kernel.capget(ctypes.byref(_Header(_VERSION_3, 0)), ctypes.byref(sets)) != 0:
        return 0
    return int(sets[0].permitted)


def _keep_only(kernel: ctypes.CDLL, capability: int | None) -> bool:
    """Drop every capability but one, and hand that one on to executed programs."""
    bit = 0 if capability is None else 1 << capability
    sets = (_Set * 2)(_Set(bit, bit, bit), _Set(0, 0, 0))
    if kernel.capset(ctypes.byref(_Header(_VERSION_3, 0)), ctypes.byref(sets)) != 0:
        number = ctypes.get_errno()
        raise DatabaseProblem(
            f"The capabilities of root could not be given up: {os.strerror(number)}.",
            hint="Run as an ordinary user, or set GRISTMILL_DATABASE_URL.",
            safe="Nothing was started or changed.",
            code="D105",
        )
    if capability is None:
        return False
    return bool(kernel.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, capability, 0, 0) == 0)
