# SPDX-License-Identifier: Apache-2.0
"""Builds the job side as one file for images without pip: ``python -m dev.zipapp dist/asyncaction.pyz``."""

from __future__ import annotations

import io
import sys
import zipfile
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "airflow_asyncaction"
PARTS = ("__init__.py", "exceptions.py", "protocol/*.py", "job/*.py")

_SHEBANG = b"#!/usr/bin/env python3\n"
_WRAPPER_FAILED = 125
_MAIN = f"""\
import sys

try:
    import airflow_asyncaction
except ImportError:  # this Python is too old
    sys.stderr.write("%s\\n" % sys.exc_info()[1])
    sys.exit({_WRAPPER_FAILED})

from airflow_asyncaction.job.__main__ import main

sys.exit(main())
""".encode()
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date in zip files: builds are reproducible


def build_zipapp(target: Path) -> Path:
    """Write the zipapp, executable, and return its path."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        _add(archive, "__main__.py", _MAIN)
        for path in sorted(path for part in PARTS for path in PACKAGE.glob(part)):
            _add(archive, path.relative_to(PACKAGE.parent).as_posix(), path.read_bytes())
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(_SHEBANG + buffer.getvalue())
    target.chmod(0o755)
    return target


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    info = zipfile.ZipInfo(name, _EPOCH)
    info.compress_type = zipfile.ZIP_DEFLATED
    info.external_attr = 0o644 << 16
    info.create_system = 3  # Unix, whatever the build machine
    archive.writestr(info, content)


if __name__ == "__main__":
    print(build_zipapp(Path(sys.argv[1])))
