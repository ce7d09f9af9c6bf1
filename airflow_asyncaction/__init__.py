# SPDX-License-Identifier: Apache-2.0
"""Run any program as an Airflow task that reports back over signed HTTP.

This module imports nothing else, so that a job can carry ``protocol`` and ``job`` without Airflow. It
is valid in any Python version, so that an old one gets a clear error.
"""

import sys

__version__ = "0.1.0"

if sys.version_info < (3, 8):
    raise ImportError(
        "airflow-asyncaction: a job needs Python 3.8 or newer. %s is Python %d.%d."
        % (sys.executable, sys.version_info[0], sys.version_info[1])
    )
