"""How OpenMP's threads wait for one another; read when torch is imported, so this imports nothing large."""

import os

QUIET_LOAD = 0.6  # processes that ran in the last minute, for each core
CHOICES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


def way_to_wait() -> dict[str, str]:
    """Variables of the environment for threads that spin a little on a quiet machine, and sleep on a busy one.

    Spinning makes a step 8 % faster where the machine is quiet; where it is busy it keeps a core from the very thread
    that is waited for (`benchmarks/busy_machine.py`). Empty where the user has set one of them.
    """
    if any(name in os.environ for name in CHOICES):
        return {}
    quiet = hasattr(os, "getloadavg") and os.getloadavg()[0] < QUIET_LOAD * (os.cpu_count() or 1)
    return {"GOMP_SPINCOUNT": "1000"} if quiet else {"OMP_WAIT_POLICY": "passive"}
