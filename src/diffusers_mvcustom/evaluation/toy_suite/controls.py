"""Views that nobody generated: true renders, which have to score well, and nonsense, which must not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ...errors import MVCustomError
from ...toy import render
from ...toy.attributes import CATEGORIES
from .cases import Case, ToySubject


def true_views(case: Case) -> Tensor:
    """A scene as the prompt says, with the true subject, from the target cameras. Surroundings differ with the seed."""
    return render(case.true_scene(case.seed), case.cameras()).images


def shuffled_views(case: Case) -> Tensor:
    """The true views in an order in which none is at its place, and none as far before the others as it should be."""
    return true_views(case)[shuffled_order(case.views)]


def shuffled_order(count: int) -> list[int]:
    """An order of `count` views without fixed points, in which no two that are up to a quarter of them apart stay so.

    Example:

        >>> from diffusers_mvcustom.evaluation.toy_suite.controls import shuffled_order
        >>> order = shuffled_order(8)
        >>> sorted(order), any(order[i + 2] - order[i] == 2 for i in range(6))
        ([0, 1, 2, 3, 4, 5, 6, 7], False)
    """
    gaps = range(1, max(1, round(count / 4)) + 1)
    for seed in range(100_000):
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
        stays = any(order[i] == i for i in range(count))
        if not stays and not any(order[i + g] - order[i] == g for g in gaps for i in range(count - g)):
            return order
    raise MVCustomError(f"count: expected a number of views that can be shuffled, got {count}.")


def repeated_view(case: Case) -> Tensor:
    """The true middle view again and again."""
    views = true_views(case)
    return views[len(views) // 2 : len(views) // 2 + 1].expand_as(views).contiguous()


def foreign_views(case: Case) -> Tensor:
    """True views of another subject, every one in a scene of its own."""
    wanted = CATEGORIES[(CATEGORIES.index(case.subject.attributes.category) + 3) % len(CATEGORIES)]
    index = next(i for i in range(10_000) if ToySubject(case.subject.split, i).attributes.category == wanted)
    other = ToySubject(case.subject.split, index)
    views = []
    for i, camera in enumerate(case.cameras()):
        scene = replace(case, subject=other, prompt_index=case.prompt_index + i).true_scene(case.seed)
        views.append(render(scene, camera).images)
    return torch.cat(views)


def noise(case: Case) -> Tensor:
    """Every value of every pixel drawn evenly from 0 to 1."""
    generator = torch.Generator().manual_seed(case.seed)
    return torch.rand(case.views, 3, case.size, case.size, generator=generator)


CONTROLS: dict[str, Callable[[Case], Tensor]] = {
    "true renders": true_views,
    "true renders, shuffled": shuffled_views,
    "one true view, repeated": repeated_view,
    "foreign scenes": foreign_views,
    "noise": noise,
}
"""What each row of the table of controls shows: views `(N, 3, S, S)` of a case."""
