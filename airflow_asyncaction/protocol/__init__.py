# SPDX-License-Identifier: Apache-2.0
"""The wire contract as pure code: standard library only, no I/O, no environment."""
