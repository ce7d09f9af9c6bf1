# SPDX-License-Identifier: Apache-2.0
"""Airflow internals: the only package that imports private modules of Airflow.

A minor release of Airflow may change anything here without notice. Everything else in this project imports
public interfaces only (``airflow.sdk``, providers, configuration, exceptions, plugins, triggers, CLI
definitions). The contract ``airflow-internals`` in ``pyproject.toml`` lists them and enforces it.

Each module lists the parts of Airflow that it uses, and the releases that it was checked with. To support
another release, check these modules one by one. They hide differences between releases: callers use one
concept, such as "the live row of a task instance".

- ``server``: for the API server and commands, which can access the metadata database
- ``worker``: for task processes and triggerers, which cannot

This package imports no other module of this project, and contains no business rules: our own tables and
queries are in ``store``.
"""
