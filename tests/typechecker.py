"""The run-time check of annotations during tests: an int may stand where a float is expected, as in static typing."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
