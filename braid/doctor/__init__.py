"""What a run's state is, and what a model would need before it is trained."""

from braid.doctor.planning import Machine, plan
from braid.doctor.run import explain_run

__all__ = ["Machine", "explain_run", "plan"]
