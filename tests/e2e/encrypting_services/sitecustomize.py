"""Python imports a module of this name by itself if its folder is on PYTHONPATH: here, that of the local cloud."""

import importlib
import sys

# The functions, which inherit the variable, are none of its business.
if any(argument.endswith("/ministack") for argument in sys.orig_argv[:2]):
    importlib.import_module("asking_the_key").install()
