"""A new kind of model that is registered in one place and not in the other ends in a sentence."""

import dataclasses
from typing import Literal

import pytest

from minillm.config.registry import Registry
from minillm.models.ngram import NgramConfig
from minillm.run_config import RunConfig
from minillm.runs import wiring
from minillm.tasks import next_token

ADD = r"expected one of .*; add it to "


@dataclasses.dataclass(frozen=True)
class DiffusionConfig:
    """A new kind of model."""

    kind: Literal["diffusion"] = "diffusion"


def test_a_kind_of_model_that_nobody_learns_is_a_sentence():
    config = dataclasses.replace(RunConfig(), model=DiffusionConfig())
    with pytest.raises(ValueError, match=rf"^model\.kind = diffusion: {ADD}TASKS in minillm/runs/wiring\.py"):
        wiring.build_task(config)


def test_a_kind_of_model_that_predicts_the_next_token_and_has_no_module_is_a_sentence():
    config = dataclasses.replace(RunConfig(), model=NgramConfig())
    with pytest.raises(ValueError, match=rf"^model\.kind = ngram: {ADD}MODELS in minillm/tasks/next_token\.py"):
        next_token.NextToken(config).model(11)


def test_a_registry_is_a_dict_whose_keys_may_be_names_or_kinds_of_configs():
    registry = Registry("a.b", "HERE", {"x": 1, NgramConfig: 2})
    assert registry["x"] == 1 and registry[NgramConfig] == 2 and registry.get("y") is None and "y" not in registry
    with pytest.raises(ValueError, match=r"^a\.b = y: expected one of x, ngram; add it to HERE, or take one of these$"):
        registry["y"]
