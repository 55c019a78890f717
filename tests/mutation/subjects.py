"""Every subject by name."""

from tests.mutation import subjects_demo, subjects_tiny
from tests.mutation.subject import Subject

_MODULES = (subjects_demo, subjects_tiny)

SUBJECTS: dict[str, Subject] = {
    subject.name: subject for module in _MODULES for subject in module.SUBJECTS
}
