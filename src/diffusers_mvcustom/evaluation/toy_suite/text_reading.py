"""What a reader trained on the toy world sees in views, against what their prompt names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ...toy import AttributeReader, read_caption


def text_scores(reader: AttributeReader, images: Tensor, prompt: str) -> dict[str, float]:
    """Share of the named attributes that a set of views shows, of each one and `"all"` of all together.

    Category, ground and time are read in every view. Of other objects a prompt names how many the scene has, and no single
    view has to show them all: their kind is the one that most views with objects show, their number the largest.

    Args:
        reader ([`AttributeReader`]): A trained one.
        images (`torch.Tensor` of shape `(N, 3, H, W)`): RGB in [0, 1].
        prompt (`str`): With the subject's token, so that it says nothing of its colours.
    """
    found = reader.read(images.to(reader.device))
    return compared(found, read_caption(prompt))


def compared(found: Sequence[Mapping[str, Any]], asked: Mapping[str, Any]) -> dict[str, float]:
    """See [`text_scores`].

    Args:
        found (sequence of `dict`): What each view shows.
        asked (`dict`): What the prompt names.

    Example:

        >>> from diffusers_mvcustom.evaluation.toy_suite.text_reading import compared
        >>> views = [{"time": "noon", "object_count": 0}, {"time": "dusk", "object_count": 1, "objects": "tree"}]
        >>> compared(views, {"time": "dusk", "objects": "tree", "object_count": 2})
        {'time': 0.5, 'objects': 1.0, 'object_count': 0.0, 'all': 0.5}
    """
    scores: dict[str, float] = {}
    for name, value in asked.items():
        if name == "objects":
            kinds = Counter(view["objects"] for view in found if view.get("object_count", 0) > 0)
            scores[name] = float(bool(kinds) and kinds.most_common(1)[0][0] == value)
        elif name == "object_count":
            scores[name] = float(max(int(view.get("object_count", 0)) for view in found) == value)
        else:
            scores[name] = sum(view.get(name) == value for view in found) / len(found)
    scores["all"] = sum(scores.values()) / len(scores)
    return scores
