# SPDX-License-Identifier: Apache-2.0
"""A custom runner that runs commands with the lowest priority."""

from __future__ import annotations

import os
import subprocess
from signal import Signals
from threading import Timer

from airflow_asyncaction.protocol.job_info import JobInfo
from airflow_asyncaction.protocol.lifecycle import Exit
from airflow_asyncaction.runners.base import OnLaunched, drop_airflow_variables
from airflow_asyncaction.runners.routing import RoutedAction


class NiceRunner:
    name, copies_reported_logs = "nice", True
    process: subprocess.Popen[str] | None = None

    def __init__(self, routed: RoutedAction) -> None:
        self.routed = routed

    def run(self, info: JobInfo, on_launched: OnLaunched) -> Exit | None:
        environ = {**drop_airflow_variables(os.environ), **info.to_environ()}
        command = ["nice", "-n", "19", *self.routed.options["command"]]
        with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) as self.process:
            on_launched({"pid": self.process.pid})
            for line in self.process.stdout or ():
                self.routed.log.info("%s", line.rstrip())
        return self.wait()

    def stop(self) -> None:
        if self.process:
            self.process.terminate()
            Timer(self.routed.stop_grace.total_seconds(), self.process.kill).start()

    def wait(self) -> Exit | None:
        if self.process is None:
            return None
        code = self.process.wait()
        return Exit(code=code) if code >= 0 else Exit(signal=Signals(-code).name)

    def release(self) -> None: ...
