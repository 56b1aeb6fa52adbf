"""The temperature of a contrastive loss, fixed or learned."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Temperature(nn.Module):
    """Temperature of a contrastive loss: fixed, or learned as its natural logarithm.

    A learned temperature stays in [minimum, maximum]. Each call first clamps the parameter itself, as CLIP does
    (Radford et al. 2021, section 2.5, which keeps its logit scale below 100). Clamping only the returned value would
    give a zero gradient outside the interval, and the parameter could never return.

    Args:
        initial: The temperature; its initial value if it is learned.
        learned: Whether it is a parameter.
        minimum: Lower bound of a learned temperature.
        maximum: Upper bound of a learned temperature.

    Raises:
        ValueError: If `initial` is not positive and finite, or a learned temperature starts outside its bounds.

    Example:
        >>> Temperature(0.5, learned=False)().item()
        0.5
    """

    def __init__(self, initial: float, learned: bool, minimum: float = 0.01, maximum: float = 1.0) -> None:
        super().__init__()
        if not (math.isfinite(initial) and initial > 0):
            raise ValueError(f"the temperature must be a positive number, not {initial}")
        if learned and not 0 < minimum <= initial <= maximum:
            raise ValueError(f"a learned temperature must start inside [{minimum}, {maximum}], not at {initial}")
        self.initial = initial
        self.minimum = minimum
        self.maximum = maximum
        # one element and not a scalar, which FSDP2 cannot split over processes
        self.log_temperature = nn.Parameter(torch.tensor([math.log(initial)])) if learned else None

    def forward(self) -> Float[Tensor, ""]:
        """The temperature, a positive scalar that does not change the dtype of what it divides."""
        if self.log_temperature is None:
            # float64, so that 0.1 stays 0.1 for float64 similarities; a scalar on the CPU divides on any device
            return torch.tensor(self.initial, dtype=torch.float64)
        with torch.no_grad():
            self.log_temperature.clamp_(math.log(self.minimum), math.log(self.maximum))
        return self.log_temperature.exp()[0]
