"""What a report calls the candidate that all others are compared with."""

from dataclasses import dataclass

from export.benchmark.results import Reference


@dataclass(frozen=True)
class ReferenceWords:
    """Words for one reference.

    Attributes:
        name: what it is.
        short: the same within the head of a column.
        its: the same within a sentence about a file of the student.
        why: a sentence on why it is not the teacher. Empty where it is.
        savings: a sentence on what the factors against it say.
    """

    name: str
    short: str
    its: str
    why: str
    savings: str

    @property
    def the(self) -> str:
        """The name within a sentence."""
        return f"the {self.name}"


_WORDS: dict[Reference, ReferenceWords] = {
    "teacher.torch": ReferenceWords(
        name="teacher",
        short="teacher",
        its="its teacher",
        why="",
        savings="Against the teacher's own file, where it was exported and timed, it is the student alone; against the "
        "teacher in torch also runtime and precision. The steps are taken apart below.",
    ),
    "student.torch": ReferenceWords(
        name="student in PyTorch",
        short="PyTorch",
        its="the student in PyTorch",
        why="The teacher has no last layer: it taught by its features and classifies nothing. So the student's files "
        "are compared with the student in PyTorch, and a drop is what export costs.",
        savings="Against the student in PyTorch it is runtime and precision alone.",
    ),
}


def reference_words(reference: Reference) -> ReferenceWords:
    """What a report calls that reference."""
    return _WORDS[reference]
