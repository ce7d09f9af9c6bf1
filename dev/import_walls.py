# SPDX-License-Identifier: Apache-2.0
"""Import-linter contract ``public_imports``: which modules of another package may be imported, and where.

Import-linter's own contracts see other packages only as a whole. This one reads the import statements of all
files, function bodies, ``TYPE_CHECKING`` blocks and migrations included.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import cast

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output


class PublicImportsContract(Contract):
    """Allows imports of certain modules only, except in one package.

    Options: ``source_package``, all of whose files are read; ``exempt_package`` in it; ``external_package``,
    whose modules are checked; ``public_modules``, each allowed without its submodules; ``public_packages``,
    allowed with theirs.
    """

    type_name = "public_imports"

    source_package = fields.StringField()
    exempt_package = fields.StringField()
    external_package = fields.StringField()
    public_modules = fields.SetField(subfield=fields.StringField())
    public_packages = fields.SetField(subfield=fields.StringField(), required=False, default=set())

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        """Read all files, and return the imports that are not allowed."""
        root = _folder(str(self.source_package))
        exempt = _folder(str(self.exempt_package))
        found = [
            f"{path.relative_to(root.parent)}:{line} imports {module}"
            for path in sorted(root.rglob("*.py"))
            if not path.is_relative_to(exempt)
            for module, line in imported_modules(path)
            if not self._is_allowed(module)
        ]
        return ContractCheck(kept=not found, metadata={"found": found})

    def render_broken_contract(self, check: ContractCheck) -> None:
        """Print the imports that are not allowed."""
        output.print_error(f"Only {self.exempt_package} may import what is not public:")
        for line in check.metadata["found"]:
            output.print_error(f"- {line}", bold=False)

    def _is_allowed(self, module: str) -> bool:
        external = str(self.external_package)
        if module != external and not module.startswith(f"{external}."):
            return True
        modules, packages = _strings(self.public_modules), _strings(self.public_packages)
        return module in modules or any(f"{module}.".startswith(f"{package}.") for package in packages)


def imported_modules(path: Path) -> Iterator[tuple[str, int]]:
    """Yield the modules that a file imports by absolute imports, with their lines."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module, node.lineno


def _strings(field: object) -> set[str]:
    """Return the value of a set field, which import-linter assigns in place of the field."""
    return {str(value) for value in cast("set[str]", field)}


def _folder(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or spec.submodule_search_locations is None:
        raise ValueError(f"The package {package!r} does not exist")
    return Path(next(iter(spec.submodule_search_locations)))
