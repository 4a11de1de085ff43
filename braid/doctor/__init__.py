"""What a run's state is, and what a model would need before it is trained."""

from braid.doctor.estimating import Machine
from braid.doctor.planning import plan
from braid.doctor.printing import print_plan
from braid.doctor.run import explain_run
from braid.doctor.sizes import SIZES

__all__ = ["SIZES", "Machine", "explain_run", "plan", "print_plan"]
