# SPDX-License-Identifier: Apache-2.0
"""JSON Schema validation of operation inputs, in time linear in the size of the input.

Dag authors write schemas, users send inputs, and the API server validates both while it serves all other
requests. So the cost of neither may grow faster than its size:

- *The engine* is jsonschema-rs, a validator written in Rust. It caches results for recursive references,
  compares the items of ``uniqueItems`` by hash, and matches ``pattern`` with automata instead of
  backtracking. Its regular expressions therefore have no lookaround and no back-references: Dags with such a
  schema fail to parse. The Python package jsonschema does none of this. The bindings of google-re2 would only
  fix ``pattern``, and a child process with a time limit would start an interpreter for every launch. The
  engine fetches nothing: a schema may only refer to itself.
- *The engine's error reports are not used.* They are built for every branch of every ``anyOf``, which is
  exponential for recursive schemas. :mod:`.mistakes` only uses yes-or-no results on its way to the first
  mistake.
- *Everything that is not linear in the engine is limited*: the size of a schema with its references expanded,
  the size of a compiled pattern, integers to 64 bits, and the product of schema and input sizes
  (:mod:`.engine`, :mod:`.limits`).
- *Airflow validates a run's conf again*, as Params, with the package jsonschema. :mod:`.dialect` makes that
  package use this validator for the Params of operations.
"""

from __future__ import annotations

from airflow_asyncaction.json_schema.engine import CompiledSchema, compile_schema
from airflow_asyncaction.json_schema.limits import TooLarge, measure
from airflow_asyncaction.json_schema.mistakes import Mistake, find_mistake
from airflow_asyncaction.json_schema.weight import BadSchema

__all__ = ["BadSchema", "CompiledSchema", "Mistake", "TooLarge", "compile_schema", "find_mistake", "measure"]
