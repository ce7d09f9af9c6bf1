# SPDX-License-Identifier: Apache-2.0
"""JSON Schemas of operations: validates inputs at a cost that grows with the input, and no faster.

Schemas are written by Dag authors and inputs by users, and the API server validates one against the other for
both of them, between the requests of all others. So neither may cost more than its size:

- *The engine* is jsonschema-rs, a validator written in Rust. It remembers its verdicts on recursive
  references, compares the items of ``uniqueItems`` by hash, and matches ``pattern`` with automata instead of
  backtracking. Its regular expressions therefore have neither lookaround nor back-references: a schema with
  one is refused where the Dag is parsed. The Python package jsonschema does none of this. google-re2's
  bindings would mend ``pattern`` alone, and a child process with a time limit would cost every launch the
  start of an interpreter. Nothing is fetched: references are within the schema.
- *The engine's error reports are not used.* Unlike its verdicts, they are built for every branch of every
  ``anyOf``, which is exponential for recursive schemas. :mod:`.mistakes` asks for verdicts on the way to the
  first mistake.
- *What is not linear in the engine is bounded*: a schema's size with its references followed, a compiled
  pattern's size, integers to 64 bits, and schema times input (:mod:`.engine`, :mod:`.limits`).
- *Airflow validates a run's conf once more*, as Params, with the package jsonschema. :mod:`.dialect` makes
  that package use this validator for the Params of operations.
"""

from __future__ import annotations

from airflow_asyncaction.json_schema.engine import CompiledSchema, compiled
from airflow_asyncaction.json_schema.limits import TooLarge, measure
from airflow_asyncaction.json_schema.mistakes import Mistake, find_mistake
from airflow_asyncaction.json_schema.weight import BadSchema

__all__ = ["BadSchema", "CompiledSchema", "Mistake", "TooLarge", "compiled", "find_mistake", "measure"]
