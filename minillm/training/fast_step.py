"""The fast step: a gradient step with fast twins in place of its parts, as long as their signatures hold.

    model              the accelerated tree (`speed/accelerate.py`), or compiled code (`speed/compiled.py`)
    objective          chunked or linear cross-entropy (`speed/next_token.py`)
    bfloat16 copy      copied as a list of tensors (`speed/grouped_copy.py`)
    gradients          one flat vector (`speed/flat_gradient.py`)
    optimizer          the fused kernel, and matrices in groups (`speed/fused_adamw.py`, `speed/grouped_muon.py`)

The plain parts keep all state: weights, running means, the copy. So checkpoints are the same with and without twins,
and a run may be resumed with the other setting. Every twin is checked again before each step: if its plain part was
edited, replaced or hooked, the plain part runs, and one line says why. Read `step` and `speed/signing.py` before.
"""

from typing import Any

from torch import nn

from minillm.datasets.batch import Batch, moved
from minillm.objectives.loss import Objective
from minillm.speed.accelerate import accelerate, faster
from minillm.speed.compiled import try_compiled
from minillm.speed.flat_gradient import FlatGradients
from minillm.speed.fused_adamw import FusedAdamW
from minillm.speed.grouped_copy import GroupedCopy
from minillm.speed.grouped_muon import GroupedMuon
from minillm.speed.signing import Twin, in_force, methods, name_of, say
from minillm.training.gradients import Gradients, clip_gradients, gradient_norm
from minillm.training.optim import AdamW, Muon, Optimizer, Together, orthogonal
from minillm.training.precision import WorkingCopy
from minillm.training.step import GradientStep, Parts

TWINS: dict[Any, Twin] = {
    AdamW: Twin(FusedAdamW, (AdamW.step,)),
    Muon: Twin(GroupedMuon, (Muon.step, orthogonal)),
    Gradients: Twin(FlatGradients, (Gradients, clip_gradients, gradient_norm)),
    WorkingCopy: Twin(GroupedCopy, (WorkingCopy.read, WorkingCopy.give)),
}


def accelerate_training(step: GradientStep) -> GradientStep:
    """Make a step use fast twins from now on; returns the step."""
    step.choose = Fast()
    return step


def accelerate_pass(model: nn.Module, objective: Objective) -> tuple[nn.Module, Objective]:
    """The model and the objective with which a fast step computes the loss."""
    return accelerate(model, training=True), faster(objective)


def compile_step(step: GradientStep, batch: Batch) -> str:
    """Make a step run compiled code if a trial on this batch succeeds; returns a line that reports the result."""
    first = moved(step.micro_batches(batch)[0], step.device)
    tree, objective = accelerate_pass(step.working.train(), step.objective)
    twin, report = try_compiled(tree, lambda model: objective(model, first).total.backward())
    step.working.zero_grad()
    step.choose = Fast(None if twin is None else (tree, twin))
    return report


class Fast:
    """Replaces the parts of a step by twins; a value of `GradientStep.choose`."""

    def __init__(self, compiled: tuple[nn.Module, nn.Module] | None = None):
        """`compiled`: an accelerated tree and its compiled version, which is used as long as the tree is unchanged."""
        self.compiled = compiled
        self.twins: dict[int, tuple[Any, Any]] = {}  # id of a plain object -> that object and its twin

    def __call__(self, parts: Parts) -> Parts:
        model, objective = accelerate_pass(parts.model, parts.objective)
        return Parts(
            self.compiled_model(model),
            objective,
            self.twin(parts.copy),
            self.twin(parts.gradients),
            self.optimizer(parts.optimizer),
        )

    def compiled_model(self, tree: nn.Module) -> nn.Module:
        """The compiled model if it was compiled from this tree, otherwise the tree."""
        if self.compiled is None:
            return tree
        if self.compiled[0] is not tree:
            say("train.compile: going on without it, since a part of the model has changed since compilation")
            return tree
        return self.compiled[1]

    def optimizer(self, plain: Optimizer) -> Any:
        """The twin of an optimizer, or the same optimizer with twins of its members."""
        return (
            Together([self.twin(member) for member in plain.members]) if type(plain) is Together else self.twin(plain)
        )

    def twin(self, plain: Any) -> Any:
        """The twin of an object. The object itself, if it has none, has replaced methods, or its class was changed."""
        kind = type(plain)
        replaced = sorted(vars(plain).keys() & methods(kind))
        if kind not in TWINS or replaced or not in_force(kind, TWINS[kind]):
            if kind in TWINS and replaced:
                say(f"{name_of(kind)} runs without its fast twin, since {replaced[0]} was replaced on one object")
            return plain
        _, twin = self.twins.setdefault(id(plain), (plain, None))
        if twin is None:
            self.twins[id(plain)] = plain, TWINS[kind].fast(plain)
        return self.twins[id(plain)][1]
