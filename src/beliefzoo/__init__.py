"""State-space models, and exact and recurrent filters that hold beliefs about their states.

`beliefzoo.models` says what generates a sequence, `beliefzoo.inference` infers states and
parameters from it, and `beliefzoo.experiments` holds the scripts behind every published figure.
Importing this package loads none of them: each is imported by name.
"""

from importlib.metadata import PackageNotFoundError, version

__all__ = ["__version__"]

try:
    __version__ = version("beliefzoo")
except PackageNotFoundError:  # a checkout on sys.path that was never installed
    __version__ = "0+unknown"
