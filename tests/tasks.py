"""The tasks of the challenge that most tests are about."""

from __future__ import annotations

from pbvs.challenge import load_challenge

TASKS = load_challenge("mavic-t-2026").tasks
