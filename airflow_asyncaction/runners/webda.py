# SPDX-License-Identifier: Apache-2.0
"""webda operations: lets the job command of a webda application run its operations.

webda's ``runAsyncOperationAction`` calls a method with arguments, but the method of an operation takes a
context. ``webda_operations.mjs`` adds a method that creates one. Node.js loads it before the application.
"""

from __future__ import annotations

from base64 import b64encode
from functools import cache
from importlib.resources import files

RUN_OPERATION = "runOperation"
"""The method of the application's AsyncJobService that runs an operation, by its id and input."""


@cache
def node_options() -> str:
    """Return the ``NODE_OPTIONS`` of jobs that run operations, for any image with Node.js 18.18 or later."""
    source = files(__package__).joinpath("webda_operations.mjs").read_bytes()
    return f"--import=data:text/javascript;base64,{b64encode(source).decode()}"
