"""Style transfer by optimization (Gatys, Ecker and Bethge, 2016), from small to large."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from contracts.create.requests import StyleTransferRequest
from models.create.images import Array, Pixels, resized, resized_array, to_pixels
from models.create.memory import style_size
from models.create.run import ImageRun, TimeUpError
from models.create.style import colors
from models.create.style.objective import Losses, Objective
from models.create.style.optimizers import Arrays, descent_of
from models.create.style.plan import Level, shares_of
from models.images.resize import Size

_BLOCK = 25  # evaluations between two checkpoints
_OWN = "optimizer_"  # prefix of the optimizer's arrays in a checkpoint
_GRAY, _NOISE = 128.0, 40.0


@dataclass(slots=True)
class _State:
    """Where a transfer is.

    Attributes:
        level: Index of the size.
        spent: Evaluations at this size.
        image: float32 (height, width, 3).
        steps: Evaluations in all.
        losses: Of the best image at this size; None before the first evaluation.
        best: That image.
    """

    level: int
    spent: int
    image: Array
    steps: int = 0
    losses: Losses | None = field(default=None)
    best: Array | None = field(default=None)


class StyleTransfer:
    """One content and its styles.

    Args:
        objective: Its targets are set for each size.
        content: At the size of the result or larger.
        styles: At their largest.
        levels: From `models.create.style.plan`.
        start: The image to begin with if `init` is ``fast``.
    """

    def __init__(
        self,
        objective: Objective,
        request: StyleTransferRequest,
        *,
        content: Image.Image,
        styles: Sequence[Image.Image],
        levels: Sequence[Level],
        start: Image.Image | None = None,
    ) -> None:
        self._objective = objective
        self._request = request
        self._content = content
        self._styles = styles
        self._levels = levels
        self._start = start
        self._shares = shares_of(request.style_weights, len(styles))
        self._descent = descent_of(request.optimizer, request.learning_rate)
        self._cost = sum(level.cost for level in levels)

    def run(self, run: ImageRun) -> tuple[Pixels, Losses | None]:
        """The result, and its losses.

        Raises:
            WorkStoppedError: The job was stopped; a checkpoint remains.
        """
        state = self._restored(run.load()) or self._first()
        try:
            with run.keeping_latest():
                for index in range(state.level, len(self._levels)):
                    self._enter(state, index)
                    self._run_level(state, run)
        except TimeUpError:
            pass
        size = self._levels[-1].size
        image = state.image if state.best is None else state.best
        if image.shape[:2] != size[::-1]:
            image = resized_array(image, size)
        return self._finished(image, size), state.losses

    def _first(self) -> _State:
        return _State(0, 0, self._initial(self._levels[0].size))

    def _initial(self, size: Size) -> Array:
        if self._request.init == "noise":
            random = np.random.default_rng(self._request.seed)
            noise = random.normal(_GRAY, _NOISE, (size[1], size[0], 3))
            return np.clip(noise, 0, 255).astype(np.float32)
        if self._request.init == "style":
            return self._prepared_style(self._styles[0], size, size)
        if self._start is not None:
            return self._prepared_content(self._start, size)
        return self._prepared_content(self._content, size)

    def _enter(self, state: _State, index: int) -> None:
        """Begin a size, or continue it after a restart."""
        size = self._levels[index].size
        if index != state.level:
            state.level, state.spent = index, 0
            latest = state.image if state.best is None else state.best
            state.image, state.losses, state.best = resized_array(latest, size), None, None
        self._objective.set_targets(
            self._prepared_content(self._content, size),
            [self._prepared_style(style, None, size) for style in self._styles],
            self._shares,
            self._levels[index].evaluations,
        )

    def _run_level(self, state: _State, run: ImageRun) -> None:
        level = self._levels[state.level]
        while state.spent < level.evaluations:
            run.save(self._arrays(state))
            count = min(_BLOCK, level.evaluations - state.spent)
            before, spent = state.steps, state.spent

            def evaluate(image: Array) -> tuple[float, Array]:
                return self._evaluate(image, state, run)

            state.image = self._descent.run(state.image, evaluate, count)
            # At a minimum fewer are made; they count as made, so that the steps come out even.
            state.spent, state.steps = spent + count, before + count

    def _evaluate(self, image: Array, state: _State, run: ImageRun) -> tuple[float, Array]:
        run.check()
        losses, gradient = self._objective.evaluate(image)
        if state.losses is None or losses.total < state.losses.total:
            state.best, state.losses = image, losses
        state.spent += 1
        state.steps += 1
        level, best = self._levels[state.level], state.best
        done = sum(one.cost for one in self._levels[: state.level])
        done += level.size[0] * level.size[1] * state.spent
        assert best is not None  # noqa: S101  set above
        run.step(
            state.steps,
            fraction=min(1.0, done / self._cost),
            phase=f"{max(level.size)} px",
            row={
                "loss": losses.total,
                "content": losses.content,
                "style": losses.style,
                "tv": losses.total_variation,
            },
            image=lambda: self._finished(best, level.size),
        )
        return losses.total, gradient

    def _prepared_content(self, image: Image.Image, size: Size) -> Array:
        pixels = resized(image, size)
        return colors.gray(pixels) if self._request.preserve_colors == "luminance" else pixels

    def _prepared_style(self, style: Image.Image, exact: Size | None, size: Size) -> Array:
        """A style for a result of that size, at its own proportions unless a size is given."""
        pixels = resized(style, exact or style_size(style.size, size, self._request.style_scale))
        if self._request.preserve_colors == "none":
            return pixels
        content = resized(self._content, size)
        if self._request.preserve_colors == "luminance":
            return colors.match_luminance(pixels, content)
        return colors.match_colors(pixels, content)

    def _finished(self, image: Array, size: Size) -> Pixels:
        if self._request.preserve_colors == "luminance":
            image = colors.with_colors_of(image, resized(self._content, size))
        return to_pixels(image)

    def _arrays(self, state: _State) -> Arrays:
        arrays = {f"{_OWN}{name}": one for name, one in self._descent.state().items()}
        best = state.image if state.best is None else state.best
        losses = state.losses
        numbers = (
            []
            if losses is None
            else [losses.total, losses.content, losses.style, losses.total_variation]
        )
        place = np.array([state.level, state.spent, state.steps])
        return arrays | {
            "place": place,
            "image": state.image,
            "best": best,
            "losses": np.array(numbers),
        }

    def _restored(self, arrays: Arrays | None) -> _State | None:
        if arrays is None:
            return None
        level, spent, steps = (int(number) for number in arrays["place"])
        prefix = "optimizer_"
        own = {
            name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)
        }
        self._descent.restore(own)
        state = _State(level, spent, arrays["image"], steps)
        if arrays["losses"].size:
            state.losses = Losses(*(float(one) for one in arrays["losses"]))
            state.best = arrays["best"]
        return state
