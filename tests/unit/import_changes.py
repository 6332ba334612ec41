"""Changes of a whole module of the public classes, as a user's own code may have made them."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from tests import foreign

Change = Callable[[foreign.ViT_Astro], object]


def set_attributes(path: str, **attributes: object) -> Change:
    """Attributes of one layer."""

    def change(model: foreign.ViT_Astro) -> None:
        for name, value in attributes.items():
            setattr(model.get_submodule(path), name, value)

    return change


def put(path: str, made: Callable[[], nn.Module]) -> Change:
    return lambda model: model.set_submodule(path, made())


def each(kind: type[nn.Module], change: Callable[[nn.Module], object]) -> Change:
    """Every layer of one class."""
    return lambda model: [change(module) for module in list(model.modules()) if isinstance(module, kind)]


def mlp_act(made: Callable[[], nn.Module]) -> Change:
    return each(foreign.Mlp, lambda mlp: setattr(mlp, "act", made()))


def pools(made: Callable[[], nn.Module]) -> Change:
    return each(foreign.InceptionBlock, lambda block: block.branch4.__setitem__(0, made()))


def halvings(made: Callable[[], nn.Module]) -> Change:
    def change(model: foreign.ViT_Astro) -> None:
        for place in (1, 4, 7):
            model.inception_model.vis_inception[place] = made()

    return change


def without_bias(module: nn.Module) -> None:
    module.bias = None


def without_affine(module: nn.Module) -> None:
    module.weight = module.bias = None


def stack_of(act: Callable[[], nn.Module]) -> Change:
    def change(model: foreign.ViT_Astro) -> None:
        for index in (1, 3, 5, 7):
            model.inception_model.magnitude_block[index] = act()

    return change
