"""Making a network of what was cut out of a larger one."""

from nasdistill.distill.batchnorm import recalibrate
from nasdistill.distill.compute import Compute
from nasdistill.distill.feed import Feed
from nasdistill.students.refit import Answers, refit, rows_kept, views_to_ask
from nasdistill.students.slicing import SlicePlan
from nasdistill.students.student import Student


def adapt(student: Student, plan: SlicePlan, feed: Feed, compute: Compute, answers: Answers | None = None) -> None:
    """Fit a slice to what the large network answered (`answers`, where it was asked), and average its BatchNorm statistics.

    Statistics of the large network are wrong for a slice of it (Yu and Huang, ICCV 2019, sect. 4). Changes `student`.
    `answers` are to the views of `feed` that `views_to_ask` names, in the channels that `plan` cuts from.
    """
    compute.place(student.model)
    if answers is not None:
        shown = views_to_ask(len(feed.views), feed.image_size)
        refit(student.model, feed.images(shown, compute.device), answers, rows_kept(plan, student.model))
    recalibrate(student, feed, compute)
