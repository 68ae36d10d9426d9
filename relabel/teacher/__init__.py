"""Teachers: any classifier turned into one that answers at every location, and proved before it is used."""

from typing import TYPE_CHECKING

from relabel.lazily import lazily

if TYPE_CHECKING:
    from relabel.teacher.ensemble import Ensemble as Ensemble
    from relabel.teacher.ensemble import averaged as averaged
    from relabel.teacher.ensemble import kept_grid as kept_grid
    from relabel.teacher.ensemble import load_ensemble as load_ensemble
    from relabel.teacher.load import load_teacher as load_teacher
    from relabel.teacher.spec import EnsembleSpec as EnsembleSpec
    from relabel.teacher.spec import TeacherSpec as TeacherSpec
    from relabel.teacher.teacher import Teacher as Teacher
else:
    __getattr__, __dir__, __all__ = lazily(__name__)
