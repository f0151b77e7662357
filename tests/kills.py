"""Work in a process of its own that is killed: how tests see what a kill leaves behind."""

import os
import signal
import time
from collections.abc import Callable


def killed(work: Callable[[], object], seconds: float) -> bool:
    """Whether work was killed (SIGKILL) after so many seconds, or had ended by then.

    The process is forked, which takes milliseconds where a new one would import for seconds.
    """
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)  # nothing of the parent's is to be cleaned up here
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return True
    assert os.WEXITSTATUS(status) == 0
    return False
