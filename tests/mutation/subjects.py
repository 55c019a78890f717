"""Every subject by name."""

from tests.mutation import subjects_demo, subjects_fakes, subjects_frameworks, subjects_tiny
from tests.mutation.subject import Subject

_MODULES = (subjects_demo, subjects_tiny, subjects_frameworks, subjects_fakes)

SUBJECTS: dict[str, Subject] = {
    subject.name: subject for module in _MODULES for subject in module.SUBJECTS
}
