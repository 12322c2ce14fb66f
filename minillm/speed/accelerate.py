"""Acceleration: a second tree of modules that shares the parameters of a model, with fast twins for plain modules.

Optimizers, checkpoints, fingerprints and hooks use only the plain model. The tree is kept beside the model, and it is
rebuilt when the model has changed: a parameter or part was replaced, a hook registered, an attribute set, a layer
adapted or packed, or the source of a class edited. A twin replaces a module only if the module is exactly of the plain
class, none of its methods is replaced, neither it nor a part that the twin bypasses has a hook, and the twin is in
force (see `signing`). Otherwise the tree contains the module itself, with all of its parts, and one line says why. Read
`signing` and `twins` before.
"""

import functools
from collections.abc import Callable
from operator import is_
from types import FunctionType
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn
from torch.nn.modules import module as torch_module

from minillm.models.decoder import Decoder
from minillm.models.language_model import LanguageModel, device_of
from minillm.speed.low_overhead import lean
from minillm.speed.signing import in_force, methods, say
from minillm.speed.twins import TWINS

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
CAPTURED = ("minillm", "torch")  # packages whose modules may be captured
_CALL = nn.Module.__call__

# subtle: not stored in the models, so that copies and pickles of a model do not contain a tree
_for_reading: "WeakKeyDictionary[nn.Module, Tree]" = WeakKeyDictionary()
_for_training: "WeakKeyDictionary[nn.Module, Tree]" = WeakKeyDictionary()


def accelerate(model: LanguageModel, *, training: bool = False) -> LanguageModel:
    """The accelerated tree of a model, or the model itself if it has no twin.

    Call this at the start of each use; it costs some microseconds per layer while the model is unchanged. By default
    the tree is for inference, always in eval mode. With `training` it is for training steps, in the mode of the model.
    """
    if not isinstance(model, nn.Module):
        return model
    trees = _for_training if training else _for_reading
    tree = trees.get(model)
    if tree is None or not tree.fits(model):
        tree = trees[model] = Tree(model, training)
    if training:
        tree.follow(model)
    return tree.root or model


def accelerate_writing(model: LanguageModel) -> LanguageModel:
    """`accelerate` for generation: on a GPU a decoder's single-token steps are also captured (see `captured`).

    A captured model has its own kind of cache. A model with experts is not captured, since the choice of experts needs
    the host. Nor is a model with a module that runs without a twin because of a hook or an edit, or that comes from
    another package: a replay would not call its forward.
    """
    tree = accelerate(model)
    if type(model) is not Decoder or device_of(model).type != "cuda" or model.config.n_experts:
        return tree
    left = set(model.modules()) & set(tree.modules())
    seen = any(type(part) in TWINS or type(part).__module__.split(".")[0] not in CAPTURED for part in left)
    if seen or any(_hooked(vars(part)) for part in left) or not in_force(Decoder.forward, TWINS[Decoder.forward]):
        return tree
    return TWINS[Decoder.forward].fast(tree)


def faster(plain: Callable) -> Callable:
    """The twin of a plain function, or of the function in a `partial`, if it is in force; otherwise the argument."""
    if isinstance(plain, functools.partial):
        return functools.partial(faster(plain.func), *plain.args, **plain.keywords)
    twin = TWINS.get(plain)
    return twin.fast if twin is not None and in_force(plain, twin) else plain


class Tree:
    """An accelerated tree, and a record of the plain model at the time it was built."""

    def __init__(self, model: nn.Module, training: bool):
        self.training = training
        self.bypassing = _may_bypass()
        self.used: dict[Any, bool] = {}  # plain class or function -> whether its twin was in force
        # id of an object that is not a module -> the object, its attributes and its twin
        self.objects: dict[int, tuple[Any, list[Any], Any]] = {}
        # subtle: no reference to the model itself, or it would never be freed
        self.look, parts = _look(model), [part for part in model.modules() if part is not model]
        self.looks = [(part, _look(part)) for part in parts]
        made: dict[nn.Module, Any] = {}
        self.root = self._twin_of(model, made) if self.bypassing else model
        self.root = None if self.root is model else self.root
        self.pairs = [(plain, twin) for plain, twin in made.items() if twin is not plain and plain is not model]

    def fits(self, model: nn.Module) -> bool:
        """Whether the model, and which twins are in force, are unchanged."""
        return (
            self.bypassing == _may_bypass()
            and _same(self.look, _look(model))
            and all(_same(look, _look(part)) for part, look in self.looks)
            and all(_same(look, [*vars(plain).values()]) for plain, look, _ in self.objects.values())
            and all(in_force(plain, TWINS[plain]) == was for plain, was in self.used.items())
        )

    def follow(self, model: nn.Module) -> None:
        """Copy the mode (training or not) of the plain modules."""
        if self.root is not None:
            vars(self.root)["training"] = model.training
        for plain, twin in self.pairs:
            vars(twin)["training"] = plain.training

    def _twin_of(self, module: nn.Module, made: dict[nn.Module, Any]) -> Any:
        if module not in made:
            made[module] = self._make(module, made)
        return made[module]

    def _make(self, module: nn.Module, made: dict[nn.Module, Any]) -> Any:
        """The twin of a module, or the module itself if it has no twin or must not be bypassed."""
        kind = type(module)
        if kind not in TWINS or not _is_as_its_class(module) or not self._in_force(kind):
            return module
        if kind is nn.Dropout:
            return module if self.training and module.p else TWINS[kind].fast
        parts = {name: part if part is None else self._twin_of(part, made) for name, part in module._modules.items()}
        attributes = {name: twin for name, value in vars(module).items() if (twin := self._faster(value)) is not value}
        if not self.training:
            attributes["training"] = False
        twin = TWINS[kind]
        free = all(
            type(module._modules[name]) is wanted and parts[name] is not module._modules[name]
            for name, wanted in twin.bypassed.items()
        )
        return lean(module, twin.fast if free else kind, parts, attributes)

    def _faster(self, value: Any) -> Any:
        """The twin of an attribute of a module (a function, or an object that is not a module), or the attribute."""
        if isinstance(value, FunctionType):
            return TWINS[value].fast if value in TWINS and self._in_force(value) else value
        kind = type(value)
        if kind not in TWINS or isinstance(value, nn.Module) or not self._in_force(kind):
            return value
        if id(value) not in self.objects:
            self.objects[id(value)] = value, [*vars(value).values()], TWINS[kind].fast(value)
        return self.objects[id(value)][2]

    def _in_force(self, plain: Any) -> bool:
        if plain not in self.used:
            self.used[plain] = in_force(plain, TWINS[plain])
        return self.used[plain]


def _look(module: nn.Module) -> list[Any]:
    """The class, hooks, attributes, parameters and parts of a module, without its mode; compared by identity."""
    held = vars(module)
    attributes = (value for name, value in held.items() if name != "training")
    return [type(module), _hooked(held), *attributes, *held["_parameters"].values(), *held["_modules"].values()]


def _same(a: list[Any], b: list[Any]) -> bool:
    return len(a) == len(b) and all(map(is_, a, b))


def _hooked(held: dict[str, Any]) -> bool:
    return any(held[name] for name in HOOKS)


def _is_as_its_class(module: nn.Module) -> bool:
    """Whether a module has no hook and no replaced method; if not, one line says so."""
    held = vars(module)
    replaced = held.keys() & methods(type(module))
    if not replaced and not _hooked(held):
        return True
    what = f"a replaced {min(replaced)}" if replaced else "a hook"
    say(f"a {type(module).__name__} with {what} runs without fast twins, and so do its parts")
    return False


def _may_bypass() -> bool:
    """Whether there is no global module hook, and `nn.Module.__call__` is torch's own."""
    free = not torch_module._has_any_global_hook() and nn.Module.__call__ is _CALL
    if not free:
        say("a global hook, or a replaced nn.Module.__call__: all modules run without fast twins")
    return free
