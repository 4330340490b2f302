"""DP-SGD's step: gradients clipped example by example, summed, noised, and handed to any optimizer."""

from collections.abc import Callable
from typing import Any

import torch
from opacus.grad_sample.grad_sample_module import GradSampleHooks
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_fed.errors import ConfigError
from lightning_fed.privacy.central import gradient_with_noise


class ExampleGradients(GradSampleHooks):  # type: ignore[misc]
    """Opacus' gradients of single examples, in ``parameter.grad_sample``, as they are in the loss of the batch.

    In a mean over n examples they are an n-th of each example's own: scaling n numbers later is cheaper than scaling
    every layer's backward pass, as Opacus does for such losses.

    Opacus hooks into the layers' backward passes, which forbids operations in place on a layer's output: torchvision's
    ResNets and DenseNets have them everywhere. A hook on the output tensor sees the same gradient and allows them,
    since PyTorch gives it the gradient of the value before such an operation.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module, loss_reduction="sum")
        self._trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]

    def add_hooks(self, *, loss_reduction: str, batch_first: bool, force_functorch: bool = False) -> None:
        """Attach the hooks; called by Opacus' constructor."""
        from opacus.grad_sample.functorch import prepare_layer
        from opacus.layers.dp_rnn import DPGRU, DPLSTM, DPRNN

        self._module.autograd_grad_sample_hooks = self.autograd_grad_sample_hooks = []
        self._layers: list[nn.Module] = []
        for layer in self.iterate_submodules(self._module):
            # Their inner linear layers have hooks of their own.
            if type(layer) in (DPRNN, DPLSTM, DPGRU):
                continue
            if force_functorch or type(layer) not in self.GRAD_SAMPLERS:
                prepare_layer(layer, batch_first=batch_first)
            self._layers.append(layer)
            self.autograd_grad_sample_hooks.append(layer.register_forward_hook(self._follow))
        self.enable_hooks()

    def forget(self) -> None:
        """Drop what a forward pass left behind that the loss did not use."""
        for layer in self._layers:
            layer.__dict__.pop("activations", None)
            layer.__dict__.pop("max_batch_len", None)
        for parameter in self._trainable:
            parameter.grad = None
            parameter.grad_sample = None  # type: ignore[attr-defined]
            parameter._forward_counter = 0  # type: ignore[attr-defined]

    def _follow(self, layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        first = output if isinstance(output, Tensor) else output[0]
        before = len(getattr(layer, "activations", ()))
        if first.requires_grad:
            self.capture_activations_hook(layer, inputs, output)
        if len(getattr(layer, "activations", ())) > before:
            _plain(first).register_hook(  # type: ignore[no-untyped-call]
                lambda gradient: self.capture_backprops_hook(
                    layer, None, (gradient,), loss_reduction=self.loss_reduction, batch_first=self.batch_first
                )
            )


def _plain(output: Tensor) -> Tensor:
    # MONAI's MetaTensor is a view of the layer's true output, and an operation in place would take a view's hook away.
    with torch._C.DisableTorchFunctionSubclass():
        if type(output) is not Tensor and output._is_view() and output._base is not None:
            return output._base if output._base.shape == output.shape else output
    return output


class PrivateOptimizer(DPOptimizer):  # type: ignore[misc]
    """Opacus' optimizer around any other, with three differences.

    Each batch's gradients are clipped and added up as soon as there are any (``accumulate``), so that a step may have
    any number of batches, none included; norms and sums are float32 whatever the precision of training; noise comes
    from a secure generator on a grid (``gradient_with_noise``). The step divides by the expected number of examples,
    as the true one is private.

    Args:
        optimizer: what takes the step once the gradient is private.
        module: the module whose parameters it trains.
        gradients: the hooks on ``module``.
        noise_multiplier: standard deviation of the noise, in clipping norms.
        clipping_norm: largest L2 norm C of one example's gradient.
        step_size: number of examples of a step on average.
        before_release: called before noise is added; may raise, and then nothing is released.

    Raises:
        ConfigError: the optimizer holds parameters that are not the module's.

    Source: Abadi et al. 2016, Deep Learning with Differential Privacy (arXiv 1607.00133), algorithm 1.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        module: nn.Module,
        gradients: ExampleGradients,
        noise_multiplier: float,
        clipping_norm: float,
        step_size: int,
        before_release: Callable[[], None],
    ) -> None:
        super().__init__(
            optimizer, noise_multiplier=noise_multiplier, max_grad_norm=clipping_norm, expected_batch_size=step_size
        )
        self._gradients = gradients
        self._before_release = before_release
        self._names = {parameter: name for name, parameter in module.named_parameters()}
        self._trained = self.params
        strange = sum(parameter not in self._names for parameter in self._trained)
        if strange or not self._trained:
            raise ConfigError(
                f"the optimizer trains {len(self._trained)} tensors, {strange} of them not parameters of the module; "
                "example-level privacy protects the module's parameters only, so there must be some and no others."
            )
        first = self._trained[0]
        self._sizes = [parameter.numel() for parameter in self._trained]
        self._sum = torch.zeros(sum(self._sizes), dtype=torch.float32, device=first.device)

    def accumulate(self, examples: int) -> None:
        """Clip the gradients of a batch's examples and add them to the step's sum; nothing else of them is kept.

        Args:
            examples: number n of examples in the batch, whose loss is their mean.

        Raises:
            ConfigError: a gradient cannot be told apart by example.
        """
        samples = [
            (self._sample(parameter, examples).reshape(examples, -1).float(), part)
            for parameter, part in zip(self._trained, torch.split(self._sum, self._sizes), strict=True)
            if self._has_gradient(parameter)
        ]
        if samples:
            norms = torch.stack([torch.linalg.vector_norm(sample, dim=1) for sample, _ in samples]).norm(dim=0)
            factors = examples * (self.max_grad_norm / (examples * norms + 1e-6)).clamp(max=1.0)
            for sample, part in samples:
                part.addmv_(sample.t(), factors)
        self._gradients.forget()

    def discard(self) -> None:
        """Forget what was added up since the last step."""
        self._sum.zero_()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients; the sum of a step's clipped ones stays until the step is taken."""
        self.original_optimizer.zero_grad(set_to_none=True)

    def pre_step(self, closure: Callable[[], float] | None = None) -> bool:
        """Make the gradient of the step private."""
        self._before_release()
        self.add_noise()
        self.discard()
        return True

    def add_noise(self) -> None:
        """Put the noisy mean of the clipped gradients into ``parameter.grad``."""
        trained = set(self._trained)
        for parameter in self.params:
            if parameter not in trained:
                raise ConfigError(
                    f"parameter {self._names.get(parameter, 'of an added group')!r} began to train during the fit. "
                    "Freeze and unfreeze parameters before the fit when training with example-level privacy."
                )
        released = gradient_with_noise(self._sum.cpu().numpy(), self.noise_multiplier, self.max_grad_norm)
        mean = torch.from_numpy(released).div_(self.expected_batch_size).to(self._sum.device)
        for parameter, part in zip(self._trained, torch.split(mean, self._sizes), strict=True):
            # In a parameter frozen since, as it would move otherwise.
            parameter.grad = part.view_as(parameter).to(parameter.dtype) if parameter.requires_grad else None

    def _has_gradient(self, parameter: nn.Parameter) -> bool:
        sample = getattr(parameter, "grad_sample", None)
        if parameter.grad is None and sample is None:
            return False
        if not isinstance(sample, Tensor):
            raise ConfigError(
                f"parameter {self._names[parameter]!r} gets a gradient that cannot be told apart by example. Either "
                "it is used outside of its layer's forward, or that layer is in evaluation mode, or it ran more often "
                "than the loss shows (put forward passes that are not trained under torch.no_grad())."
            )
        return True

    def _sample(self, parameter: nn.Parameter, examples: int) -> Tensor:
        sample: Tensor = parameter.grad_sample  # type: ignore[attr-defined]
        if len(sample) != examples:
            raise ConfigError(
                f"parameter {self._names[parameter]!r} has {len(sample)} gradients for {examples} examples. Each "
                "example has to stay one row of the batch in every layer: crops, frames or windows of one image as "
                "rows of their own would each be clipped alone, and the image would count several times."
            )
        return sample
