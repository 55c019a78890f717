"""Every subject by name."""

from tests.mutation import subjects_demo
from tests.mutation.subject import Subject

SUBJECTS: dict[str, Subject] = {subject.name: subject for subject in (*subjects_demo.SUBJECTS,)}
