"""Warming a family: one supernet trained under the teacher's targets, from which every trial of the family is cut.

Members share weights by leading channels (students/slicing.py). The sandwich rule (Yu and Huang, Universally Slimmable
Networks, ICCV 2019) trains the largest, the smallest and random members on every batch; here they take turns, a member a
step, because in the minutes that warming has, more steps are worth more than better gradients.
"""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import functional_call

from nasdistill.distill.compute import Compute
from nasdistill.distill.connectors import Connectors
from nasdistill.distill.feed import Feed
from nasdistill.distill.objective import DistillationLoss, LossWeights
from nasdistill.distill.optimizers import muon, set_learning_rate, step_all
from nasdistill.distill.stage import learning_rate_share
from nasdistill.errors import DeadlineReachedError
from nasdistill.students.slicing import SlicePlan, plan_slices
from nasdistill.students.student import Student

WEIGHTS = LossWeights(feature=1.0, cls=1.0, box=1.0, label=1.0)
TEMPERATURE = 2.0


@dataclass(frozen=True)
class Member:
    """A sub-network of a supernet: a module that lends its structure, and how its tensors are cut."""

    student: Student
    plan: SlicePlan


def warm_supernet(
    supernet: Student,
    members: Sequence[Student],
    teacher_channels: Sequence[int],
    feeds: Sequence[Feed],
    steps: int,
    learning_rate: float,
    compute: Compute,
    seed: int,
    on_progress: Callable[[float], None] = lambda share: None,
    should_stop: Callable[[], bool] = lambda: False,
    seconds: float = float("inf"),
    batch_size: int = 16,
) -> int:
    """Train `supernet` in place for at most `steps` steps and `seconds`; returns how many changed it.

    `members` are smaller networks of the family, smallest first; one that is no slice of the supernet takes no turn.
    Steps go through `feeds` (an input size each) in turn, and whose turn it is changes after all of them, so that
    everyone meets every size. A step whose loss or gradient is not finite changes nothing.
    The learning rate's cosine follows the clock when time is the tighter limit, so that it always ends low.

    Raises:
        DeadlineReachedError: `should_stop` said so.
    """
    chooser = random.Random(seed)
    connectors = Connectors(supernet.pyramid_channels, teacher_channels)
    compute.place(supernet.model)
    compute.place(connectors)
    supernet.model.train()
    supernet.head.dfl.requires_grad_(False)
    planned = [Member(member, plan_slices(supernet.model, member.model)) for member in members]
    tried = [member for member in planned if member.plan.complete]  # what the supernet lacks, it cannot train
    for member in tried:
        compute.place(member.student.model).train()
    criteria = {
        id(student): DistillationLoss(student, connectors) for student in (supernet, *(m.student for m in tried))
    }
    trained = (supernet.model, connectors)
    parameters = [p for model in trained for p in model.parameters() if p.requires_grad]
    optimizers = muon(trained, learning_rate, compute.device.type == "cuda")
    scaler = compute.scaler()
    orders = [feed.indices(steps, batch_size, seed + index) for index, feed in enumerate(feeds)]
    strides = supernet.strides  # read once: they lie on the GPU, which each look would wait for
    started, done = time.perf_counter(), 0
    for step in range(steps):
        if should_stop():
            raise DeadlineReachedError(f"stopped while warming a family at step {step}")
        share = max(step / steps, (time.perf_counter() - started) / seconds)
        if share >= 1.0:
            break
        set_learning_rate(optimizers, learning_rate * learning_rate_share(int(share * 1000), 1000))
        turn = step % len(feeds)
        batch = feeds[turn].batch(next(orders[turn]), compute.device, strides)
        member = _turn(step // len(feeds), tried, chooser)
        student = supernet if member is None else member.student
        with compute.context():
            output = supernet.model(batch.images) if member is None else _run_member(supernet, member, batch.images)
        # connectors belong to the supernet's channels: narrower members learn from responses
        weights = WEIGHTS if member is None else LossWeights(0.0, WEIGHTS.cls, WEIGHTS.box, WEIGHTS.label)
        parts = criteria[id(student)](output, batch.targets, batch.labels, weights, TEMPERATURE)
        if not torch.isfinite(parts["total"]):  # one bad step must not spoil a lineage for all its trials
            continue
        done += step_all(parts["total"], optimizers, parameters, scaler)
        on_progress(share)
    return done


def _turn(turn: int, members: Sequence[Member], chooser: random.Random) -> Member | None:
    """Whose turn it is: the supernet itself (None), a random member, the smallest, a random member, and so on."""
    if not members or turn % 4 == 0:
        return None
    return members[0] if turn % 4 == 2 else chooser.choice(members)


def _run_member(supernet: Student, member: Member, images: Tensor) -> dict[str, Tensor]:
    """Forward a sub-network with the supernet's weights; its BatchNorm statistics are thrown away (recalibrated later)."""
    state: dict[str, Tensor] = dict(supernet.model.named_parameters())
    state |= {name: buffer.clone() for name, buffer in supernet.model.named_buffers()}
    output: dict[str, Tensor] = functional_call(member.student.model, member.plan.cut(state), (images,))
    return output
