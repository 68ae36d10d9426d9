"""Teachers: any classifier turned into one that answers at every location, and proved before it is used."""

from relabel.teacher.ensemble import Ensemble, EnsembleSpec, load_ensemble
from relabel.teacher.load import load_teacher
from relabel.teacher.spec import TeacherSpec
from relabel.teacher.teacher import Teacher

__all__ = ["Ensemble", "EnsembleSpec", "Teacher", "TeacherSpec", "load_ensemble", "load_teacher"]
