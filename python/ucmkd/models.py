"""Students and teachers: an encoder, a head, and what joins them.

A method of distillation needs two things of a network: its features and its logits. Every
model here offers both, however the network is written: :class:`MLP` (a small default),
:class:`SplitModel` (an encoder and a head you already have) and :class:`HookedModel` (any module,
cut at a named layer).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class Student(nn.Module):
    """Base class of every model: ``logits = head(encoder(inputs))``.

    Teachers are models of the same kind, frozen.

    Attributes:
        encoder: ``(n, ...)`` inputs to ``(n, width)`` features.
        head: ``(n, width)`` features to ``(n, C)`` logits.
        width: Number of features.
    """

    encoder: Callable[[Tensor], Tensor]
    head: Callable[[Tensor], Tensor]
    width: int

    def outputs(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Features ``(n, width)`` and logits ``(n, C)`` of one forward pass."""
        features = self.encoder(inputs)
        return features, self.head(features)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits ``(n, C)``."""
        return self.outputs(inputs)[1]


class MLP(Student):
    """A perceptron with two hidden layers: in – hidden – width – classes, ReLU after both.

    Inputs of any shape are flattened. Dropout follows both ReLUs; the head is one linear layer.

    Args:
        in_features: Number of input values per sample.
        num_classes: Number of classes C.
        hidden: Units of the first layer.
        width: Units of the second layer: the features.
        dropout: Probability of dropping a unit, in [0, 1).

    Raises:
        ValueError: A size below one, or ``dropout`` outside [0, 1).
    """

    def __init__(
        self,
        in_features: int,
        *,
        num_classes: int,
        hidden: int = 128,
        width: int = 64,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        sizes = {
            "in_features": in_features,
            "num_classes": num_classes,
            "hidden": hidden,
            "width": width,
        }
        for name, value in sizes.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout must lie in [0, 1), got {dropout}")
        self.width = width
        self.encoder = nn.Sequential(
            nn.Flatten(),
            nn.Linear(in_features, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, width),
            nn.ReLU(),
            nn.Dropout(dropout),
        )
        self.head = nn.Linear(width, num_classes)


class SplitModel(Student):
    """A model made of an encoder and a head that already exist.

    Args:
        encoder: Module from inputs to features ``(n, width)``.
        head: Module from features to logits ``(n, C)``.
        width: Number of features. None reads it from the head, where that is (or starts with)
            an ``nn.Linear``.

    Raises:
        TypeError: ``encoder`` or ``head`` is no ``nn.Module``.
        ValueError: ``width`` is None and the head does not tell it.
    """

    def __init__(self, encoder: nn.Module, head: nn.Module, width: int | None = None) -> None:
        super().__init__()
        for name, module in (("encoder", encoder), ("head", head)):
            if not isinstance(module, nn.Module):
                raise TypeError(f"{name} must be an nn.Module, got {type(module).__name__}")
        if width is None:
            linear = next((m for m in head.modules() if isinstance(m, nn.Linear)), None)
            if linear is None:
                raise ValueError("width must be given: the head has no nn.Linear to read it from")
            width = linear.in_features
        self.encoder = encoder
        self.head = head
        self.width = width


class HookedModel(Student):
    """Any module, cut at a named layer: its output is the features, the rest is the head.

    A forward hook takes the features out of an ordinary forward pass, so ``outputs`` costs one
    pass. The head alone runs the module on a dummy input, in eval mode up to the layer, and puts
    the given features in the place of the layer's output; so it needs every path from the input
    to the logits to go through the layer, which is checked once, here. Outputs with more than
    two dimensions are flattened to ``(n, width)``.

    Args:
        module: The network, one tensor in, logits ``(n, C)`` out.
        layer: Name of the layer as ``module.named_modules()`` lists it, e.g. ``"avgpool"``.
        example: A small batch of inputs ``(n, ...)`` that is not all zero, used here to find
            the width and to check the cut. It is not kept.

    Raises:
        ValueError: No layer of that name (the nearest is named); the layer does not run exactly
            once in a forward pass, does not return one tensor with the batch first, or something
            passes it by.
    """

    blank: Tensor

    def __init__(self, module: nn.Module, layer: str, example: Tensor) -> None:
        super().__init__()
        names = [name for name, _ in module.named_modules() if name]
        if layer not in names:
            near = difflib.get_close_matches(layer, names, n=1, cutoff=0.6)
            listed = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
            hint = f"; the nearest is {near[0]!r}" if near else f" (it has {listed})"
            raise ValueError(f"layer {layer!r} is not in {type(module).__name__}{hint}")
        self.module = module
        self.layer = layer
        self.register_buffer("blank", torch.zeros_like(example[:1]), persistent=False)
        training = [(m, m.training) for m in module.modules()]
        try:
            module.eval()
            with torch.no_grad():
                raw, logits = self._capture(example)
                self.shape = tuple(raw.shape[1:])
                self.width = int(raw[0].numel())
                again = self.head(raw.flatten(1))
        finally:
            for m, mode in training:
                m.training = mode
        if logits.ndim != 2:
            raise ValueError(f"module must return logits (n, C), got shape {tuple(logits.shape)}")
        if not torch.allclose(logits, again, rtol=1e-3, atol=1e-4):
            raise ValueError(
                f"layer {layer!r} is no cut of {type(module).__name__}: something passes it by "
                "(a skip connection?). Name a layer that everything flows through"
            )

    def _capture(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        seen: list[Any] = []
        handle = self.module.get_submodule(self.layer).register_forward_hook(
            lambda _module, _inputs, output: seen.append(output)
        )
        try:
            logits = self.module(inputs)
        finally:
            handle.remove()
        if len(seen) != 1:
            raise ValueError(
                f"layer {self.layer!r} must run once per forward pass, it ran {len(seen)} times"
            )
        raw = seen[0]
        if not isinstance(raw, Tensor) or raw.ndim < 2 or len(raw) != len(inputs):
            what = tuple(raw.shape) if isinstance(raw, Tensor) else type(raw).__name__
            raise ValueError(
                f"layer {self.layer!r} must return one tensor (n, ...) with the batch first, "
                f"got {what}"
            )
        return raw, logits

    def outputs(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Features ``(n, width)`` and logits ``(n, C)`` of one forward pass."""
        raw, logits = self._capture(inputs)
        return raw.flatten(1), logits

    def encoder(self, inputs: Tensor) -> Tensor:
        """Features ``(n, width)``."""
        return self.outputs(inputs)[0]

    def head(self, features: Tensor) -> Tensor:
        """Logits ``(n, C)`` of given features ``(n, width)``."""
        training = [(m, m.training) for m in self.module.modules()]

        def restore() -> None:
            for m, mode in training:
                m.training = mode

        def replace(_module: nn.Module, _inputs: Any, _output: Any) -> Tensor:
            restore()  # what follows the layer is the head, in the mode the caller chose
            return features.reshape(-1, *self.shape)

        handle = self.module.get_submodule(self.layer).register_forward_hook(replace)
        try:
            # In eval mode the dummy pass draws no random numbers and moves no running statistics.
            self.module.eval()
            return self.module(self.blank.expand(len(features), *self.blank.shape[1:]))
        finally:
            handle.remove()
            restore()


class Head(nn.Module):
    """The head of a model as a module of its own (for models whose head is a method)."""

    def __init__(self, model: Student) -> None:
        super().__init__()
        self.model = model

    def forward(self, features: Tensor) -> Tensor:
        """Logits ``(n, C)`` of features ``(n, width)``."""
        return self.model.head(features)


class Encoder(nn.Module):
    """The encoder of a model as a module of its own (for models whose encoder is a method)."""

    def __init__(self, model: Student) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> Tensor:
        """Features ``(n, width)`` of inputs ``(n, ...)``."""
        return self.model.encoder(inputs)


def encoder_module(model: Student) -> nn.Module:
    """The encoder of ``model`` as an ``nn.Module``: itself where it is one, else wrapped."""
    return model.encoder if isinstance(model.encoder, nn.Module) else Encoder(model)


def head_module(model: Student) -> nn.Module:
    """The head of ``model`` as an ``nn.Module``: itself where it is one, else wrapped."""
    return model.head if isinstance(model.head, nn.Module) else Head(model)
