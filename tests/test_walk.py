"""Files that a reader meets: the code of the library that runs for one batch in training, and for one prompt.

Both are limited to 20 files without fast twins, so that the way from `train.py` to the update of the weights, and that
from `sample.py` to the drawn token, can be read in one sitting.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import minillm
from minillm.config.flags import override
from minillm.decoding.sampler import SamplingConfig
from minillm.runs import wiring
from minillm.runs.config import load_config
from minillm.runs.folder import open_run
from tests.small_runs import started

ROOT = Path(minillm.__file__).parent
MOST = 20


def files_of(work: Callable[[], object]) -> set[str]:
    """Files of the library in which a function is called during `work`."""
    met: set[str] = set()
    sys.setprofile(lambda frame, event, _: met.add(frame.f_code.co_filename) if event == "call" else None)
    try:
        work()
    finally:
        sys.setprofile(None)
    return {str(Path(name).relative_to(ROOT)) for name in met if Path(name).is_relative_to(ROOT)}


def test_a_batch_meets_few_files_between_its_making_and_the_update():
    config = override(
        load_config("gpt-tiny"), {"train.fast": "false", "train.precision": "fp32", "data.n_stories": "50"}
    )
    data = wiring.build_data(config)
    batch = wiring.build_batches(config, data)
    step = wiring.build_step(config, wiring.build_model(config, data.tokenizer.vocab_size))
    met = files_of(lambda: step(batch(0)))
    assert {"training/step.py", "training/optim.py", "layers/attention.py", "objectives/next_token.py"} <= met
    print(sorted(met))
    assert len(met) <= MOST, sorted(met)


def test_a_prompt_meets_few_files_until_its_text_is_written(tmp_path):
    text = open_run(started(tmp_path)).text
    text.fast = False
    sampling = SamplingConfig(top_p=0.9)
    met = files_of(lambda: text.generate(["the"], sampling, max_new_tokens=5, seeds=[0]))
    assert {"text/model.py", "decoding/generate.py", "decoding/sampler.py", "layers/attention.py"} <= met
    print(sorted(met))
    assert len(met) <= MOST, sorted(met)
