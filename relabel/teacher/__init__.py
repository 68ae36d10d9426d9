"""Teachers: any classifier turned into one that answers at every location, and proved before it is used."""

from relabel.teacher.load import load_teacher
from relabel.teacher.spec import TeacherSpec
from relabel.teacher.teacher import Teacher

__all__ = ["Teacher", "TeacherSpec", "load_teacher"]
