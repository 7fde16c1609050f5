"""One process for each device of ``engine.devices``: the work of a stage is spread over them, and the run's own process stays the only writer of rows."""
