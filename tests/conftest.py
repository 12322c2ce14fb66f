"""Laws are tried on the same examples everywhere and without a deadline: what fails, fails again, on every machine."""

import pytest
import torch
from hypothesis import settings

settings.register_profile("laws", deadline=None, derandomize=True)
settings.load_profile("laws")
torch.set_num_threads(1)  # tests run side by side, one process a core, and their tensors are small


@pytest.fixture(autouse=True)
def the_same_random_numbers_in_every_test():
    torch.manual_seed(0)
