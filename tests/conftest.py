"""Laws are tried on the same examples everywhere and without a deadline: what fails, fails again, on every machine."""

from hypothesis import settings

settings.register_profile("laws", deadline=None, derandomize=True)
settings.load_profile("laws")
