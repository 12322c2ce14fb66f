"""Settings of Hypothesis: the same examples on every machine, without a deadline, so that a failure recurs.

`pytest --hypothesis-profile fresh --hypothesis-seed N` tries other examples, determined by N.
"""

import os

import pytest
import torch
from hypothesis import HealthCheck, settings

settings.register_profile("laws", deadline=None, derandomize=True)
settings.register_profile("fresh", deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("laws")
torch.set_num_threads(1)  # tests run side by side, one process a core, and their tensors are small


@pytest.fixture(scope="session", autouse=True)
def no_test_writes_to_the_users_cache_folder(tmp_path_factory):
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))  # of this process, and of those that it starts


@pytest.fixture(autouse=True)
def the_same_random_numbers_in_every_test():
    torch.manual_seed(0)
