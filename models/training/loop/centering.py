"""The mean and variance of the training images' channels, for `centering`."""

import numpy as np

from contracts.training.trainings import TrainingRequest
from contracts.work import Work
from models.networks.preprocessing import LUMA
from models.training.data.image_loader import ImageLoader
from models.training.loop.assembly import ChannelStatistics
from models.training.loop.network_defaults import channels_of

_BATCH = 32


def channel_statistics(
    request: TrainingRequest, images: ImageLoader, work: Work
) -> ChannelStatistics | None:
    """The statistics of all training images, without augmentation; None if none are asked for.

    Args:
        request: The training.
        images: The training images.
        work: Checked for cancellation at every batch.

    Raises:
        WorkStoppedError: The job was cancelled or lost.
    """
    if request.centering == "none":
        return None
    channels = channels_of(request)
    total, squares, count = np.zeros(channels), np.zeros(channels), 0
    everything = np.arange(len(images))
    batches = [everything[start : start + _BATCH] for start in range(0, len(images), _BATCH)]
    for pixels in images.batches(batches):
        work.check()
        values = pixels.reshape(-1, 3) / 255.0  # as the preprocessing `unit`
        values = values if channels == 3 else values @ np.array(LUMA)[:, None]
        total += values.sum(axis=0)
        squares += (values**2).sum(axis=0)
        count += len(values)
    mean = total / count
    variance = np.ones(channels)
    if request.centering == "standard":
        variance = np.maximum(squares / count - mean**2, 1e-8)  # of one flat color it is 0
    return ChannelStatistics(tuple(map(float, mean)), tuple(map(float, variance)))
