"""ArviZ on both of its majors: groups, NetCDF files, Pareto diagnostics, leave-one-out.

ArviZ 0.x keeps results in an `InferenceData`, ArviZ 1.x in an `xarray.DataTree`. Every function
here gives and takes whichever the installed ArviZ uses, and a file written under one major reads
under the other. This is the only folder of the library that imports ArviZ, and it needs nothing
else but numpy, xarray, netCDF4 and ``pareto``. ArviZ and xarray are loaded when first needed.
"""

from .files import read, replacing, write
from .groups import GROUPS, Idata, build, by_step, group
from .judgements import (
    Convergence,
    ConvergenceWarning,
    LeaveOneOut,
    compare,
    convergence,
    loo,
    prior_sensitivity,
)

__all__ = [
    "GROUPS",
    "Convergence",
    "ConvergenceWarning",
    "Idata",
    "LeaveOneOut",
    "build",
    "by_step",
    "compare",
    "convergence",
    "group",
    "loo",
    "prior_sensitivity",
    "read",
    "replacing",
    "write",
]
