"""A gate for continuous integration: is a model within its limits, and is it still what it was?"""

from .checker import Checked, Verdict, check_model
from .limits import Limits, Override
from .rules import RULES, Rule, rule

__all__ = ["RULES", "Checked", "Limits", "Override", "Rule", "Verdict", "check_model", "rule"]
