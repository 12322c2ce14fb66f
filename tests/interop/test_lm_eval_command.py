"""The command `python -m minillm.lm_eval`, and the model `minillm` in a notebook, on a run from its folder."""

import json
import sys

import pytest

import minillm
from minillm import lm_eval as command
from tests.small_runs import started

pytest.importorskip("lm_eval")
DOCUMENTS = [{"text": f"{i} quick", "choices": ["brown", "fox", "dog"], "target": i % 3} for i in range(5)]
YAML = """\
task: tiny_foxes
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{folder}/foxes.json"}}, cache_dir: "{folder}/cache"}}
test_split: test
doc_to_text: "{{{{text}}}}"
doc_to_target: target
doc_to_choice: "{{{{choices}}}}"
output_type: multiple_choice
metric_list: [{{metric: acc}}]
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return started(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "foxes.json").write_text("\n".join(map(json.dumps, DOCUMENTS)))
    (folder / "foxes.yaml").write_text(YAML.format(folder=folder))
    return folder


def share_of_best_choices(run) -> float:
    """acc, from the scores of the run's own text model."""
    text, n_right = minillm.load(run, "cpu").text, 0
    for each in DOCUMENTS:
        scores = text.score([each["text"]] * 3, [f" {choice}" for choice in each["choices"]])
        n_right += scores.index(max(scores)) == each["target"]
    return n_right / len(DOCUMENTS)


def test_a_run_is_a_model_of_lm_eval_by_name(run, tasks):
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    assert command.register() is command.register()
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    how = {"tasks": ["tiny_foxes"], "task_manager": manager, "bootstrap_iters": 0, "device": "cpu"}
    results = simple_evaluate(model="minillm", model_args=f"run={run}", batch_size="auto", **how)
    assert results["results"]["tiny_foxes"]["acc,none"] == pytest.approx(share_of_best_choices(run))
    with pytest.raises(ValueError, match=r"model_args.max_lenght: expected .* did you mean max_length"):
        simple_evaluate(model="minillm", model_args={"run": str(run), "max_lenght": 3}, **how)
    with pytest.raises(ValueError, match=r"--device tpu: expected auto, cpu, cuda or mps"):
        simple_evaluate(model="minillm", model_args={"run": str(run)}, **how | {"device": "tpu"})


@pytest.mark.slow
def test_the_command_is_that_of_lm_eval(run, tasks, capsys, monkeypatch):
    """Slow, since lm-eval's command reads the names of all its tasks first."""
    words = ["lm_eval", "run", "--model", "minillm", "--tasks", "tiny_foxes", "--include_path", str(tasks)]
    monkeypatch.setattr(sys, "argv", [*words, "--model_args", f"run={run}", "--batch_size", "3"])
    assert command.main() == 0
    assert "|tiny_foxes|" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", [*words, "--model_args", f"run={run / 'none'}"])
    assert command.main() == 2
    assert f"lm_eval: {run / 'none'}: expected the folder of a run, found none" in capsys.readouterr().err


def test_a_missing_package_is_one_sentence(capsys, monkeypatch):
    from minillm.interop import lm_eval as interop

    for name in [name for name in sys.modules if name.partition(".")[0] == "lm_eval"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(command, "register", command.register.__wrapped__)
    monkeypatch.setattr(command, "adapter", interop.adapter.__wrapped__)
    assert command.main() == 2
    err = capsys.readouterr().err
    assert err.startswith("lm_eval: lm_eval: expected the package lm-eval, ") and err.endswith(
        "; pip install lm-eval\n"
    )
