"""Gradient modulation: the contribution of the project, as pure functions of tensors."""

from unified_sess.gradient_modulation.flat_gradients import GRANULARITIES
from unified_sess.gradient_modulation.loss_weighting import LOSS_WEIGHTINGS
from unified_sess.gradient_modulation.modulation import RULES, GradientModulation
from unified_sess.gradient_modulation.rule_description import ModulationError

__all__ = ["GRANULARITIES", "LOSS_WEIGHTINGS", "RULES", "GradientModulation", "ModulationError"]
