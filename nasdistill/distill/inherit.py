"""Making a network of what was cut out of a larger one, before and in the middle of a trial."""

from collections.abc import Mapping

from torch import Tensor

from nasdistill.distill.batchnorm import recalibrate
from nasdistill.distill.compute import Compute
from nasdistill.distill.feed import Feed
from nasdistill.students.refit import Answers, ask, refit, rows_kept, views_to_ask
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


def repair(pruned: Student, whole: Student, rows: Mapping[str, Tensor], feed: Feed, compute: Compute) -> None:
    """Fit a pruned student to what it said when it was `whole`; `rows` are the channels left. Changes `pruned`.

    BatchNorm statistics of both must be those of their weights (`recalibrate` before pruning): scales are set by them.
    """
    compute.place(pruned.model)
    images = feed.images(views_to_ask(len(feed.views), feed.image_size), compute.device)
    refit(pruned.model, images, ask(whole.model, images, rows))
